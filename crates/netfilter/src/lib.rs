//! Netfilter hooks and verdicts. The five hook points are called from the packet path in Linux's places;
//! what is registered there lives here.
#![forbid(unsafe_code)]

use ferronet_core::{DropReason, Env, Packet};

/// Protocol family of a hook (`NFPROTO_*`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Pf {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
    /// ARP.
    Arp,
}

/// Where on the path (`NF_INET_*`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Hook {
    /// Before the routing decision.
    PreRouting,
    /// For a local socket.
    LocalIn,
    /// Routed through.
    Forward,
    /// From a local socket.
    LocalOut,
    /// About to leave.
    PostRouting,
}

impl Hook {
    /// The name `nft` uses.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Hook::PreRouting => "prerouting",
            Hook::LocalIn => "input",
            Hook::Forward => "forward",
            Hook::LocalOut => "output",
            Hook::PostRouting => "postrouting",
        }
    }
}

/// What a hook function decides.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Go on.
    Accept,
    /// End with this reason.
    Drop(DropReason),
}

/// Proof that a packet went through POSTROUTING; only [`Netfilter::post_routing`] makes one, and the
/// transmit functions ask for it.
#[derive(Debug)]
pub struct PostRouted(());

/// The trace name of the function around the hook. It is recorded here, so that the function needs no trace call.
fn stage_before(pf: Pf, hook: Hook) -> Option<&'static str> {
    match (pf, hook) {
        (Pf::Ipv4, Hook::LocalOut) => Some("ip_local_out"),
        (Pf::Ipv6, Hook::LocalOut) => Some("ip6_local_out"),
        (Pf::Ipv4, Hook::PostRouting) => Some("ip_output"),
        (Pf::Ipv6, Hook::PostRouting) => Some("ip6_output"),
        (Pf::Arp, Hook::LocalOut) => Some("arp_xmit"),
        _ => None,
    }
}

/// A hook function: a pure decision about a packet. Rule sets and conntrack register here.
pub type HookFn = fn(&mut Env, &mut Packet, Pf, Hook) -> Verdict;

/// The hooks of one namespace, in order of priority.
#[derive(Debug, Default)]
pub struct Netfilter {
    entries: Vec<(Pf, Hook, i32, HookFn)>,
}

impl Netfilter {
    /// Registers `f`; lower priorities run first (`nf_register_net_hook`).
    pub fn register(&mut self, pf: Pf, hook: Hook, priority: i32, f: HookFn) {
        let at = self.entries.partition_point(|e| e.2 <= priority);
        self.entries.insert(at, (pf, hook, priority, f));
    }

    /// Runs the hooks (`nf_hook_slow`). `None` when a hook ended the packet.
    #[inline]
    #[must_use]
    pub fn nf_hook(&mut self, env: &mut Env, p: Packet, pf: Pf, hook: Hook) -> Option<Packet> {
        env.trace_hook(&p, || stage_before(pf, hook), || hook.name());
        if self.entries.is_empty() { Some(p) } else { self.nf_hook_slow(env, p, pf, hook) }
    }

    fn nf_hook_slow(&mut self, env: &mut Env, mut p: Packet, pf: Pf, hook: Hook) -> Option<Packet> {
        for &(epf, ehook, _, f) in &self.entries {
            if (epf, ehook) != (pf, hook) {
                continue;
            }
            if let Verdict::Drop(r) = f(env, &mut p, pf, hook) {
                env.drop(p, r);
                return None;
            }
        }
        Some(p)
    }

    /// POSTROUTING: the packet and the proof that it was here.
    #[inline]
    #[must_use]
    pub fn post_routing(&mut self, env: &mut Env, p: Packet, pf: Pf) -> Option<(Packet, PostRouted)> {
        self.nf_hook(env, p, pf, Hook::PostRouting).map(|p| (p, PostRouted(())))
    }

    /// For packets that by design never see POSTROUTING: ARP, neighbour discovery's link layer, and frames
    /// from packet sockets.
    #[must_use]
    pub fn link_layer_only() -> PostRouted {
        PostRouted(())
    }

    /// For a fragment or segment of a packet that went through POSTROUTING whole.
    #[must_use]
    pub fn piece_of(_whole: &PostRouted) -> PostRouted {
        PostRouted(())
    }

    /// For packets that went through POSTROUTING before they waited for a neighbour's address.
    #[must_use]
    pub fn passed_before_waiting() -> PostRouted {
        PostRouted(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hooks_run_in_order_of_priority_and_can_drop() {
        let mut env = Env::new(1);
        let mut nf = Netfilter::default();
        nf.register(Pf::Ipv4, Hook::Forward, 10, |_, p, _, _| {
            if p.meta().mark == 1 { Verdict::Drop(DropReason::Netfilter) } else { Verdict::Accept }
        });
        nf.register(Pf::Ipv4, Hook::Forward, -10, |_, p, _, _| {
            p.meta_mut().mark = 1;
            Verdict::Accept
        });
        let p = env.pool.get();
        assert!(nf.nf_hook(&mut env, p, Pf::Ipv4, Hook::Forward).is_none());
        assert_eq!(env.drops.get(DropReason::Netfilter), 1);
        let p = env.pool.get();
        let p = nf.nf_hook(&mut env, p, Pf::Ipv4, Hook::LocalIn).expect("no hook there");
        env.consume(p);
    }
}
