//! smoltcp's loopback: one interface, two sockets, MTU 65535, as its own benchmark example does it.

use smoltcp::iface::{Config, Interface, SocketSet};
use smoltcp::phy::{Loopback, Medium};
use smoltcp::socket::tcp;
use smoltcp::time::Instant;
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr};

/// Gbit/s for `total` bytes.
pub(crate) fn smoltcp_loopback(total: u64) -> f64 {
    let mut device = Loopback::new(Medium::Ip);
    let begin = std::time::Instant::now();
    let now = || Instant::from_micros(begin.elapsed().as_micros() as i64);
    let mut iface = Interface::new(Config::new(HardwareAddress::Ip), &mut device, now());
    iface.update_ip_addrs(|a| {
        let _ = a.push(IpCidr::new(IpAddress::v4(127, 0, 0, 1), 8));
    });
    let buffer = || tcp::SocketBuffer::new(vec![0; 65535 * 4]);
    let mut sockets = SocketSet::new(vec![]);
    let server = sockets.add(tcp::Socket::new(buffer(), buffer()));
    let client = sockets.add(tcp::Socket::new(buffer(), buffer()));
    let _ = sockets.get_mut::<tcp::Socket<'_>>(server).listen(1234);
    let _ = sockets.get_mut::<tcp::Socket<'_>>(client).connect(
        iface.context(),
        (IpAddress::v4(127, 0, 0, 1), 1234),
        65000,
    );
    let data = vec![0u8; 65535];
    let mut sink = vec![0u8; 65535];
    let (mut sent, mut got) = (0u64, 0u64);
    let start = std::time::Instant::now();
    while got < total {
        iface.poll(now(), &mut device, &mut sockets);
        let c = sockets.get_mut::<tcp::Socket<'_>>(client);
        while c.can_send() && sent < total {
            match c.send_slice(&data) {
                Ok(n) if n > 0 => sent += n as u64,
                Ok(_) | Err(_) => break,
            }
        }
        let s = sockets.get_mut::<tcp::Socket<'_>>(server);
        while s.can_recv() {
            match s.recv_slice(&mut sink) {
                Ok(n) if n > 0 => got += n as u64,
                Ok(_) | Err(_) => break,
            }
        }
    }
    got as f64 * 8.0 / start.elapsed().as_secs_f64() / 1e9
}
