//! Dumps: answers in many messages, made as the reader reads (`netlink_dump`).

use std::collections::VecDeque;

use ferronet_core::{Errno, NsId};

use super::ack::{self, ExtAck};
use super::codec::{Hdr, nlm_f};
use crate::kernel::{Kernel, Ready, SockId};

/// Makes the messages of a dump.
pub(super) trait Source: core::fmt::Debug + Send {
    /// Appends messages until `out` holds about `want` bytes or the end is reached (`true`).
    ///
    /// # Errors
    /// Ends the dump with this error.
    fn fill(&mut self, cx: &mut DumpCx<'_>, want: usize, out: &mut Out) -> Result<bool, Errno>;
    /// Changes when objects change, so that a reader learns that its view is torn.
    fn generation(&self, k: &Kernel, ns: NsId) -> u64;
    /// The end goes into the last message rather than into one of its own.
    fn done_in_last(&self) -> bool {
        false
    }
    /// `NLM_F_DUMP_FILTERED` on all messages.
    fn filtered(&self) -> bool {
        false
    }
}

/// Whom the messages are for.
pub(super) struct DumpCx<'a> {
    pub(super) kernel: &'a mut Kernel,
    pub(super) seq: u32,
    pub(super) portid: u32,
}

/// Finished messages that wait for room.
#[derive(Debug, Default)]
pub(super) struct Out {
    messages: VecDeque<Vec<u8>>,
    bytes: usize,
}

impl Out {
    pub(super) fn push(&mut self, m: Vec<u8>) {
        self.bytes += m.len();
        self.messages.push_back(m);
    }
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
    fn pop_fitting(&mut self, room: usize, force: bool) -> Option<Vec<u8>> {
        let fits = self.messages.front().is_some_and(|m| force || m.len() <= room);
        let m = fits.then(|| self.messages.pop_front()).flatten()?;
        self.bytes -= m.len();
        Some(m)
    }
}

/// A dump in progress.
#[derive(Debug)]
pub(super) struct Dump {
    hdr: Hdr,
    source: Box<dyn Source>,
    out: Out,
    ended: Option<Result<(), Errno>>,
    prev: u64,
    ext: ExtAck,
}

impl Dump {
    pub(super) fn new(hdr: Hdr, source: Box<dyn Source>) -> Dump {
        Dump { hdr, source, out: Out::default(), ended: None, prev: 0, ext: ExtAck::default() }
    }
    /// A dump that ends at once with an error.
    pub(super) fn failed(hdr: Hdr, e: Errno, ext: ExtAck, filtered: bool) -> Dump {
        let source = Box::new(Nothing { filtered });
        Dump { hdr, source, out: Out::default(), ended: Some(Err(e)), prev: 0, ext }
    }
}

/// No messages.
#[derive(Debug, Default)]
pub(super) struct Nothing {
    pub(super) filtered: bool,
}

impl Source for Nothing {
    fn fill(&mut self, _: &mut DumpCx<'_>, _: usize, _: &mut Out) -> Result<bool, Errno> {
        Ok(true)
    }
    fn generation(&self, _: &Kernel, _: NsId) -> u64 {
        1
    }
    fn done_in_last(&self) -> bool {
        true
    }
    fn filtered(&self) -> bool {
        self.filtered
    }
}

/// Puts the next part of a socket's dump into its receive queue, if there is a dump and room.
pub(super) fn run(k: &mut Kernel, s: SockId) {
    let Some((ns, sock)) = super::sock_mut(k, s) else { return };
    if !sock.dump_has_room() {
        return;
    }
    let Some(mut d) = sock.dump.take() else { return };
    let to = sock.ack_to();
    let room = sock.dump_size();
    let mut intr = 0;
    if d.ended.is_none() && d.out.bytes() < room {
        k.world.touch(ns);
        let generation = d.source.generation(k, ns);
        if d.prev != 0 && d.prev != generation {
            intr = nlm_f::DUMP_INTR;
        }
        d.prev = generation;
        let mut cx = DumpCx { kernel: k, seq: d.hdr.seq, portid: to.portid };
        match d.source.fill(&mut cx, room, &mut d.out) {
            Ok(false) => {}
            Ok(true) => d.ended = Some(Ok(())),
            Err(e) => d.ended = Some(Err(e)),
        }
    }
    let extra = if d.source.filtered() { intr | nlm_f::DUMP_FILTERED } else { intr };
    let mut skb = Vec::new();
    while let Some(mut m) = d.out.pop_fitting(room.saturating_sub(skb.len()), skb.is_empty()) {
        add_flags(&mut m, extra);
        skb.extend_from_slice(&m);
    }
    let mut over = false;
    if let (Some(end), 0) = (d.ended, d.out.bytes()) {
        let done = ack::done(d.hdr.seq, extra, end.err(), &d.ext, to);
        if skb.is_empty() || (d.source.done_in_last() && skb.len() + done.len() <= room) {
            skb.extend_from_slice(&done);
            over = true;
        }
    }
    let Some((_, sock)) = super::sock_mut(k, s) else { return };
    sock.unicast(skb, 0);
    if !over {
        sock.dump = Some(d);
    }
    k.events.push((s, Ready::IN));
}

/// Adds header flags to a finished message.
fn add_flags(m: &mut [u8], flags: u16) {
    if let Some(b) = m.get_mut(6..8)
        && let Some(old) = b.first_chunk::<2>()
    {
        let v = (u16::from_ne_bytes(*old) | flags).to_ne_bytes();
        b.copy_from_slice(&v);
    }
}
