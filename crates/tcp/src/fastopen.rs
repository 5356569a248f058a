//! TCP Fast Open, the server's side (RFC 7413; `net/ipv4/tcp_fastopen.c`, 6.18): the connection is made by the SYN. Its data can
//! be read and answered before the handshake is complete; what the cookie proves is only that the peer got an answer before.

use ferronet_core::time::Instant;
use ferronet_wire::tcp::{FastopenCookie, TcpFlags};

use crate::config::SockOpts;
use crate::request::RequestSock;
use crate::segment::{Cx, Discard, Payload, Segment};
use crate::state::{State, Tcb};

/// What a handshake that runs beside its connection remembers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Handshake {
    /// When the SYN-ACK left.
    pub(crate) sent: Instant,
    /// The cookie it brings, when the peer's is of an old key.
    pub(crate) cookie: Option<FastopenCookie>,
    /// The program will write no more: the FIN follows the handshake.
    pub(crate) shut: bool,
}

impl Tcb {
    /// The connection of a SYN with a valid cookie (`tcp_fastopen_create_child`): in SYN-RECEIVED, with the SYN's data to read and
    /// the SYN-ACK to send.
    #[must_use]
    pub fn from_fastopen(
        cx: &mut Cx<'_>,
        opts: SockOpts,
        req: &RequestSock,
        syn: &Segment,
        payload: Payload,
    ) -> Tcb {
        let mut t = Tcb::of_request(cx, opts, req);
        t.fastopen = Some(Box::new(Handshake { sent: cx.now, cookie: req.fastopen, shut: false }));
        t.snd.wl1 = t.rcv.irs;
        t.snd.wnd = u32::from(syn.wnd);
        t.snd.max_wnd = t.snd.wnd;
        t.sync_mss(cx);
        t.init_buffer_space(cx);
        t.stats.segs_in = 1;
        if syn.len > 0 {
            t.stats.data_segs_in = 1;
            let seq = t.rcv.nxt;
            t.queue_in_order(cx, syn, seq, payload, 0);
        }
        t.owed.syn = true;
        t
    }

    /// The handshake of a Fast Open connection runs; data may be sent nevertheless.
    #[must_use]
    pub fn is_fastopen(&self) -> bool {
        self.state == State::SynRecv && self.fastopen.is_some()
    }

    /// A SYN that comes again asks for the SYN-ACK again (`tcp_check_req`).
    pub(crate) fn fastopen_syn_again(&mut self, cx: &mut Cx<'_>, seg: &Segment, seq: u64) -> bool {
        let again = self.is_fastopen()
            && seg.has(TcpFlags::SYN)
            && !seg.has(TcpFlags::ACK)
            && !seg.has(TcpFlags::RST)
            && seq == self.rcv.irs;
        if again && !self.oow_rate_limited(cx, seg, ferronet_core::Mib::TcpExtTCPACKSkippedSynRecv) {
            self.owed.syn = true;
        }
        again
    }

    /// The ACK that completes the handshake; it may acknowledge data, too.
    pub(crate) fn fastopen_established(
        &mut self,
        cx: &mut Cx<'_>,
        seg: &Segment,
        seq: u64,
        handshake: Handshake,
    ) -> Result<(), Discard> {
        let last_tx = core::mem::replace(&mut self.snd.last_tx, handshake.sent);
        self.snd.una = self.snd.iss + 1;
        self.snd.wnd = u32::from(seg.wnd) << self.snd.wscale;
        self.snd.max_wnd = self.snd.max_wnd.max(self.snd.wnd);
        self.snd.wl1 = seq;
        self.owed.syn = false;
        self.take_syn_rtt(cx);
        self.snd.last_tx = last_tx;
        let segs_in = self.stats.segs_in;
        self.establish(cx);
        self.stats.segs_in = segs_in;
        if handshake.shut {
            let _ = self.shutdown_write(cx);
        }
        if !self.txq.is_empty() {
            self.reset_rto(cx);
        }
        self.tcp_ack(cx, seg, seq)?;
        self.ack_in_closing_states(cx);
        Ok(())
    }
}
