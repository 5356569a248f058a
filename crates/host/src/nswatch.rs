//! Learns when a kernel network namespace ends, without holding a reference to it.
//!
//! Every namespace we see gets an nsid in the sandbox's first namespace (RTM_NEWNSID); when the kernel destroys it, it sends
//! RTM_DELNSID to RTNLGRP_NSID there (net/core/net_namespace.c, unhash_nsid), before the inode number can be used again.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use crate::os::{recv_bytes, send, setsockopt_raw};

const RTM_NEWNSID: u16 = 88;
const RTM_DELNSID: u16 = 89;
const NETNSA_NSID: u16 = 1;
const NETNSA_FD: u16 = 3;
/// RTNLGRP_NSID.
const GROUP: i32 = 28;

/// The watcher; `None` inside where the kernel refused a socket, then namespaces live until the session ends.
pub(crate) struct NsWatch {
    nl: Option<OwnedFd>,
    next: i32,
    known: HashMap<i32, u64>,
    inodes: HashSet<u64>,
}

impl NsWatch {
    /// `nl`: a route netlink socket made inside the sandbox's first network namespace.
    pub(crate) fn new(nl: Option<OwnedFd>) -> Self {
        if let Some(nl) = &nl {
            let group = GROUP.to_ne_bytes();
            if let Err(e) =
                setsockopt_raw(nl.as_fd(), libc::SOL_NETLINK, libc::NETLINK_ADD_MEMBERSHIP, &group)
            {
                tracing::warn!("namespaces will not be freed before the end: {e}");
            }
            let _ =
                setsockopt_raw(nl.as_fd(), libc::SOL_SOCKET, libc::SO_RCVBUF, &(1i32 << 20).to_ne_bytes());
        }
        Self { nl, next: 1, known: HashMap::new(), inodes: HashSet::new() }
    }

    /// Descriptor to wait on.
    pub(crate) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.nl.as_ref().map(AsFd::as_fd)
    }

    /// Watches the namespace open at `fd`, whose inode is `ino`; does nothing when it is watched already.
    pub(crate) fn watch(&mut self, fd: BorrowedFd<'_>, ino: u64) {
        let Some(nl) = &self.nl else { return };
        if !self.inodes.insert(ino) {
            return;
        }
        let id = self.next;
        self.next += 1;
        let mut m = Vec::with_capacity(36);
        m.extend_from_slice(&36u32.to_ne_bytes());
        m.extend_from_slice(&RTM_NEWNSID.to_ne_bytes());
        m.extend_from_slice(&1u16.to_ne_bytes()); // NLM_F_REQUEST
        m.extend_from_slice(&(id as u32).to_ne_bytes());
        m.extend_from_slice(&[0; 8]); // port id 0, rtgenmsg AF_UNSPEC with padding
        for (ty, v) in [(NETNSA_NSID, id), (NETNSA_FD, fd.as_raw_fd())] {
            m.extend_from_slice(&8u16.to_ne_bytes());
            m.extend_from_slice(&ty.to_ne_bytes());
            m.extend_from_slice(&v.to_ne_bytes());
        }
        match send(nl.as_fd(), &m) {
            Ok(_) => {
                self.known.insert(id, ino);
            }
            Err(e) => tracing::warn!("cannot watch a network namespace: {e}"),
        }
    }

    /// Inodes of namespaces that ended since the last call.
    pub(crate) fn ended(&mut self) -> Vec<u64> {
        let mut out = Vec::new();
        let Some(nl) = &self.nl else { return out };
        let mut buf = [0u8; 8192];
        loop {
            match recv_bytes(nl.as_fd(), &mut buf) {
                Ok(n) if n > 0 => {
                    for id in deleted(buf.get(..n).unwrap_or_default()) {
                        if let Some(ino) = self.known.remove(&id) {
                            self.inodes.remove(&ino);
                            out.push(ino);
                        }
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                _ => return out,
            }
        }
    }
}

fn u16_at(b: &[u8], at: usize) -> Option<u16> {
    b.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes)
}

/// The ids of all RTM_DELNSID messages in one datagram.
fn deleted(mut b: &[u8]) -> Vec<i32> {
    let mut out = Vec::new();
    while let Some(len) = b.get(..4).and_then(|l| l.try_into().ok()).map(|l| u32::from_ne_bytes(l) as usize) {
        let Some(msg) = b.get(..len).filter(|m| m.len() >= 16) else { break };
        if u16_at(msg, 4) == Some(RTM_DELNSID) {
            let mut at = 20;
            while let (Some(alen), Some(ty)) = (u16_at(msg, at), u16_at(msg, at + 2)) {
                if ty == NETNSA_NSID
                    && let Some(v) = msg.get(at + 4..at + 8).and_then(|v| v.try_into().ok())
                {
                    out.push(i32::from_ne_bytes(v));
                }
                at += usize::from(alen.max(4)).next_multiple_of(4);
            }
        }
        b = b.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deleted_ids_are_read_and_garbage_is_survived() {
        let mut m = Vec::new();
        m.extend_from_slice(&28u32.to_ne_bytes());
        m.extend_from_slice(&RTM_DELNSID.to_ne_bytes());
        m.extend_from_slice(&[0; 10]);
        m.extend_from_slice(&[0; 4]);
        m.extend_from_slice(&8u16.to_ne_bytes());
        m.extend_from_slice(&NETNSA_NSID.to_ne_bytes());
        m.extend_from_slice(&7i32.to_ne_bytes());
        assert_eq!(deleted(&m), [7]);
        for cut in 0..m.len() {
            let _ = deleted(&m[..cut]);
        }
    }
}
