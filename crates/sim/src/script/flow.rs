//! Flows: both ends, and what turns absolute sequence numbers into the script's relative ones.

use core::net::{IpAddr, SocketAddr};

/// Link address of the local device.
pub const LOCAL_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// Link address of the remote.
pub const REMOTE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
/// The remote's initial sequence number; near the end of the space, so that every script crosses it.
pub(super) const REMOTE_ISN: u32 = 0xffff_ff00;

/// One conversation.
#[derive(Clone, Debug)]
pub(super) struct Flow {
    pub(super) name: String,
    pub(super) remote: SocketAddr,
    /// Port 0: to be learned from the first packet.
    pub(super) local: SocketAddr,
    /// Initial sequence number of our side, from the last SYN that came out.
    pub(super) local_isn: Option<u32>,
    /// The last timestamp that came out.
    pub(super) last_tsval: u32,
}

/// The flows of a script, and the last packet of each side.
#[derive(Clone, Debug, Default)]
pub struct Flows {
    pub(super) flows: Vec<Flow>,
    /// The last IP packet that came out, and the last that went in, for quotes.
    pub(super) last_out: Vec<u8>,
    pub(super) last_in: Vec<u8>,
}

impl Flows {
    /// Adds one. A flow of the same name is replaced.
    pub fn add(&mut self, name: &str, remote: SocketAddr, local: SocketAddr) {
        self.flows.retain(|f| f.name != name);
        let name = name.to_owned();
        self.flows.push(Flow { name, remote, local, local_isn: None, last_tsval: 0 });
    }

    pub(super) fn by_name(&self, name: &str) -> Option<&Flow> {
        self.flows.iter().find(|f| f.name == name)
    }

    /// The flow of a packet that came out; learns the local port.
    pub(super) fn of_out(&mut self, src: (IpAddr, u16), dst: (IpAddr, u16)) -> Option<&mut Flow> {
        let matches = |f: &Flow, learned: bool| {
            f.remote == SocketAddr::from(dst)
                && f.local.ip() == src.0
                && (if learned { f.local.port() == src.1 } else { f.local.port() == 0 })
        };
        let at = self
            .flows
            .iter()
            .position(|f| matches(f, true))
            .or_else(|| self.flows.iter().position(|f| matches(f, false)))?;
        let f = self.flows.get_mut(at)?;
        f.local.set_port(src.1);
        Some(f)
    }
}
