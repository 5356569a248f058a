//! What comes in and what goes out: [`Segment`], [`Payload`], [`Transmit`], and the context [`Cx`] of a call.

use bytes::Bytes;
use ferronet_core::mib::MibTable;
use ferronet_core::time::Instant;
use ferronet_core::{DropReason, Mib};
use ferronet_wire::tcp::{SeqNr, TcpFlags, TcpOptions};
use smallvec::SmallVec;

use crate::config::Config;

/// Payload pieces, shared and not copied.
pub type Payload = SmallVec<[Bytes; 2]>;

/// Largest payload of one [`Transmit`] (`GSO_LEGACY_MAX_SIZE` less headers), bytes.
pub const GSO_MAX_PAYLOAD: u32 = 65215;
/// Most pieces in one [`Transmit`]; below `MAX_SKB_FRAGS`.
pub const MAX_PIECES: usize = 16;

/// What a call into a connection may look at and count into.
#[derive(Debug)]
pub struct Cx<'a> {
    /// Now.
    pub now: Instant,
    /// The namespace's settings.
    pub cfg: &'a Config,
    /// The namespace's counters.
    pub mib: &'a mut MibTable,
}

impl Cx<'_> {
    #[inline]
    pub(crate) fn inc(&mut self, m: Mib) {
        self.mib.inc(m);
    }
}

/// The header of a received segment, parsed and with its checksum verified.
#[derive(Clone, Copy, Debug, Default)]
pub struct Segment {
    /// Sequence number.
    pub seq: SeqNr,
    /// Acknowledgment number; significant with ACK.
    pub ack: SeqNr,
    /// Control bits.
    pub flags: TcpFlags,
    /// Window as in the header, unscaled.
    pub wnd: u16,
    /// Urgent pointer.
    pub urg: u16,
    /// Options.
    pub opts: TcpOptions,
    /// Payload bytes; with GRO up to 64 KiB.
    pub len: u32,
    /// Payload bytes of each wire segment when GRO merged several; 0 otherwise.
    pub gso_size: u16,
    /// The IP header said "congestion experienced".
    pub ce: bool,
}

impl Segment {
    /// All of `flags` set.
    #[inline]
    #[must_use]
    pub fn has(&self, flags: TcpFlags) -> bool {
        self.flags.contains(flags)
    }
    /// Sequence space the segment takes: payload, SYN and FIN.
    #[inline]
    #[must_use]
    pub fn seq_len(&self) -> u32 {
        self.len + u32::from(self.has(TcpFlags::SYN)) + u32::from(self.has(TcpFlags::FIN))
    }
    /// Wire segments it stands for.
    #[inline]
    #[must_use]
    pub fn segs(&self) -> u32 {
        if self.gso_size == 0 { 1 } else { self.len.div_ceil(u32::from(self.gso_size)).max(1) }
    }
}

/// Why a segment is sent; for counters and traces.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// SYN or SYN-ACK.
    Syn,
    /// New data, or FIN.
    Data,
    /// Data sent before.
    Retrans,
    /// Nothing but an acknowledgment.
    Ack,
    /// Window probe or keepalive.
    Probe,
    /// Reset.
    Rst,
}

/// A segment to send. The caller adds ports, addresses and the checksum.
#[derive(Clone, Debug)]
pub struct Transmit {
    /// Sequence number.
    pub seq: SeqNr,
    /// Acknowledgment number.
    pub ack: SeqNr,
    /// Control bits.
    pub flags: TcpFlags,
    /// Window as in the header.
    pub wnd: u16,
    /// Urgent pointer.
    pub urg: u16,
    /// Options.
    pub opts: TcpOptions,
    /// Payload pieces.
    pub payload: Payload,
    /// Payload bytes.
    pub len: u32,
    /// Cut into segments of so many payload bytes; `None` when it is one segment.
    pub gso_size: Option<u16>,
    /// Why.
    pub kind: Kind,
    /// Set ECT(0) in the IP header.
    pub ect: bool,
}

impl Transmit {
    pub(crate) fn bare(seq: SeqNr, ack: SeqNr, flags: TcpFlags, kind: Kind) -> Transmit {
        Transmit {
            seq,
            ack,
            flags,
            wnd: 0,
            urg: 0,
            opts: TcpOptions::default(),
            payload: Payload::new(),
            len: 0,
            gso_size: None,
            kind,
            ect: false,
        }
    }
    /// Wire segments it will become.
    #[must_use]
    pub fn segs(&self) -> u32 {
        match self.gso_size {
            Some(g) => self.len.div_ceil(u32::from(g).max(1)).max(1),
            None => 1,
        }
    }
}

/// The reset that answers a segment for which there is no connection.
///
/// RFC 9293 §3.10.7.1: a RST is never answered; without ACK the reset has sequence number 0 and acknowledges
/// the segment, with ACK it takes its sequence number from the acknowledgment. The window is 0.
#[must_use]
pub fn reset_for(seg: &Segment) -> Option<Transmit> {
    if seg.has(TcpFlags::RST) {
        return None;
    }
    Some(if seg.has(TcpFlags::ACK) {
        Transmit::bare(seg.ack, SeqNr(0), TcpFlags::RST, Kind::Rst)
    } else {
        let ack = seg.seq + seg.seq_len();
        Transmit::bare(SeqNr(0), ack, TcpFlags::RST | TcpFlags::ACK, Kind::Rst)
    })
}

/// Why a segment was not taken. The rest of the connection's reaction (an ACK, say) waits in
/// [`crate::Tcb::poll_transmit`].
pub type Discard = DropReason;
