//! Urgent data (RFC 9293 §3.8.5). Only the byte at the urgent pointer is urgent; it is taken out of the stream unless the
//! program wants it there (`SO_OOBINLINE`), and a read stops in front of it. RFC 6093 §6 advises programs against all this.

use ferronet_core::Errno;
use ferronet_wire::tcp::TcpFlags;

use crate::segment::{Cx, Payload, Segment};
use crate::state::{Events, State, Tcb};

/// The byte the urgent pointer shows (`tcp_sock::urg_data`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Urg {
    /// No urgent data ahead.
    #[default]
    None,
    /// Announced, not here yet (`TCP_URG_NOTYET`).
    NotYet,
    /// Here, not read (`TCP_URG_VALID`).
    Valid(u8),
    /// Read with `MSG_OOB`; its place in the stream is still ahead (`TCP_URG_READ`).
    Read,
}

impl Tcb {
    /// RFC 9293: "Sixth, check the URG bit" (`tcp_urg`, `tcp_check_urg`, 6.18).
    pub(crate) fn sixth_check_urg(&mut self, cx: &Cx<'_>, seg: &Segment, seq: u64, payload: &Payload) {
        if seg.has(TcpFlags::URG) {
            // RFC 1122 §4.2.2.4: the pointer shows the last urgent byte; everybody lets it show the one behind.
            let back = u64::from(seg.urg > 0 && !cx.cfg.stdurg);
            self.check_urg(seq + u64::from(seg.urg) - back);
        }
        if self.rcv.urg == Urg::NotYet
            && let Some(at) = self.rcv.up.checked_sub(seq)
            && let Some(byte) = byte_at(payload, at)
        {
            self.rcv.urg = Urg::Valid(byte);
            self.events.add(Events::URGENT);
            self.events.add(Events::READABLE);
        }
    }

    fn check_urg(&mut self, up: u64) {
        let r = &mut self.rcv;
        // Seen and read; or announced by a segment that is repeated; or older than what is known.
        if r.copied > up || up < r.nxt || (r.urg != Urg::None && up <= r.up) {
            return;
        }
        // The program stands at urgent data it has read, and the next comes: the old byte is not in the stream.
        if r.urg != Urg::None && r.up == r.copied && !self.opts.oobinline && r.copied != r.nxt {
            self.drop_front(1);
        }
        self.rcv.urg = Urg::NotYet;
        self.rcv.up = up;
    }

    /// How far the mark is ahead of what is read next, when it is in the queue.
    pub(crate) fn urg_offset(&self) -> Option<usize> {
        if self.rcv.urg == Urg::None {
            return None;
        }
        self.rcv
            .up
            .checked_sub(self.rcv.copied)
            .filter(|at| *at < u64::from(self.inq()))
            .map(|at| at as usize)
    }

    /// The mark was read past.
    pub(crate) fn urg_passed(&mut self) {
        if self.rcv.copied > self.rcv.up {
            self.rcv.urg = Urg::None;
        }
    }

    /// The program reads exactly at the mark (`SIOCATMARK`, `sockatmark(3)`).
    #[must_use]
    pub fn at_mark(&self) -> bool {
        self.rcv.urg != Urg::None && self.rcv.up == self.rcv.copied
    }

    /// Urgent data can be read with `MSG_OOB` (`EPOLLPRI`).
    #[must_use]
    pub fn urgent_readable(&self) -> bool {
        matches!(self.rcv.urg, Urg::Valid(_))
    }

    /// Bytes that `SIOCINQ` tells: up to the mark, if there is one (`tcp_inq`).
    #[must_use]
    pub fn inq_to_mark(&self) -> u32 {
        match self.urg_offset() {
            Some(at) if !self.opts.oobinline => at as u32,
            Some(_) | None => self.inq(),
        }
    }

    /// The urgent byte (`tcp_recv_urg`); it stays with `peek`. `Ok(None)`: there will be none any more.
    ///
    /// # Errors
    /// `EINVAL` without urgent data, when it was read, or when it is in the stream; `EAGAIN` when it is announced only.
    pub fn recv_urgent(&mut self, peek: bool) -> Result<Option<u8>, Errno> {
        if self.opts.oobinline {
            return Err(Errno::EINVAL);
        }
        match self.rcv.urg {
            Urg::None | Urg::Read => Err(Errno::EINVAL),
            Urg::Valid(byte) => {
                if !peek {
                    self.rcv.urg = Urg::Read;
                }
                Ok(Some(byte))
            }
            Urg::NotYet if self.state == State::Close || self.rcv.shutdown => Ok(None),
            Urg::NotYet => Err(Errno::EAGAIN),
        }
    }

    /// The urgent byte when it is the next to read, for who passes the stream on byte by byte; see [`Tcb::pass_urgent`].
    #[must_use]
    pub fn urgent_next(&self) -> Option<u8> {
        match self.rcv.urg {
            Urg::Valid(byte) if self.urg_offset() == Some(0) => Some(byte),
            Urg::Valid(_) | Urg::None | Urg::NotYet | Urg::Read => None,
        }
    }

    /// The byte of [`Tcb::urgent_next`] was passed on: it leaves the stream.
    pub fn pass_urgent(&mut self, cx: &mut Cx<'_>) {
        if self.urgent_next().is_some() {
            self.consume(cx, 1);
        }
    }

    /// All that was queued is urgent, its last byte is what the peer will call so (`tcp_mark_urg`).
    pub fn mark_urgent(&mut self) {
        self.snd.up = self.snd.write_seq;
    }

    /// Urgent data is not acknowledged yet (`tcp_urg_mode`).
    pub(crate) fn urg_mode(&self) -> bool {
        self.snd.up > self.snd.una
    }
}

fn byte_at(payload: &Payload, at: u64) -> Option<u8> {
    let mut at = usize::try_from(at).ok()?;
    for p in payload {
        match p.get(at) {
            Some(b) => return Some(*b),
            None => at -= p.len(),
        }
    }
    None
}
