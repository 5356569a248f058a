//! smoltcp's own loopback benchmark (its example `loopback_benchmark`): one interface, two sockets with 64 KiB
//! buffers, no copy from or to a user.

use smoltcp::iface::{Config, Interface, SocketSet};
use smoltcp::phy::{Loopback, Medium};
use smoltcp::socket::tcp;
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, IpAddress, IpCidr};

/// Gbit/s for `total` bytes with socket buffers of `buffer` bytes.
pub(crate) fn smoltcp_loopback(total: u64, buffer: usize) -> f64 {
    let mut device = Loopback::new(Medium::Ethernet);
    let begin = std::time::Instant::now();
    let now = || Instant::from_micros(begin.elapsed().as_micros() as i64);
    let mac = EthernetAddress([2, 0, 0, 0, 0, 1]);
    let mut iface = Interface::new(Config::new(mac.into()), &mut device, now());
    iface.update_ip_addrs(|a| {
        let _ = a.push(IpCidr::new(IpAddress::v4(127, 0, 0, 1), 8));
    });
    let ring = || tcp::SocketBuffer::new(vec![0; buffer]);
    let mut sockets = SocketSet::new(vec![]);
    let server = sockets.add(tcp::Socket::new(ring(), ring()));
    let client = sockets.add(tcp::Socket::new(ring(), ring()));
    let listening = sockets.get_mut::<tcp::Socket<'_>>(server).listen(1234);
    assert!(listening.is_ok(), "{listening:?}");
    let to = (IpAddress::v4(127, 0, 0, 1), 1234);
    let connecting = sockets.get_mut::<tcp::Socket<'_>>(client).connect(iface.context(), to, 65000);
    assert!(connecting.is_ok(), "{connecting:?}");
    let mut got = 0u64;
    let start = std::time::Instant::now();
    while got < total {
        iface.poll(now(), &mut device, &mut sockets);
        let s = sockets.get_mut::<tcp::Socket<'_>>(server);
        while s.can_recv() {
            match s.recv(|b| (b.len(), b.len())) {
                Ok(n) if n > 0 => got += n as u64,
                Ok(_) | Err(_) => break,
            }
        }
        let c = sockets.get_mut::<tcp::Socket<'_>>(client);
        while c.can_send() {
            if c.send(|b| (b.len(), ())).is_err() {
                break;
            }
        }
    }
    got as f64 * 8.0 / start.elapsed().as_secs_f64() / 1e9
}
