//! Closing: by the program, by FIN, by reset.

use core::time::Duration;

use bytes::BytesMut;
use ferronet_core::{Errno, Mib};
use ferronet_wire::tcp::TcpFlags;

use crate::segment::Cx;
use crate::state::{Events, State, Tcb, wire};
use crate::timers::{TIMEWAIT_LEN, Timers};
use crate::timewait::TimeWait;

/// Longest stay of an orphan in FIN_WAIT2 (`TCP_FIN_TIMEOUT_MAX`).
const FIN_TIMEOUT_MAX: Duration = Duration::from_secs(120);

impl Tcb {
    /// `shutdown(SHUT_WR)`: a FIN follows the queued data.
    ///
    /// # Errors
    /// `ENOTCONN` when there is no connection.
    pub fn shutdown_write(&mut self, cx: &mut Cx<'_>) -> Result<(), Errno> {
        match self.state {
            State::SynSent => {
                self.done(cx, None);
                return Ok(());
            }
            State::SynRecv if let Some(f) = &mut self.fastopen => {
                f.shut = true;
                self.events.add(Events::WRITABLE);
                return Ok(());
            }
            State::SynRecv | State::Established => self.set_state(cx, State::FinWait1),
            State::CloseWait => self.set_state(cx, State::LastAck),
            State::Close | State::Listen => return Err(Errno::ENOTCONN),
            State::FinWait1 | State::FinWait2 | State::TimeWait | State::LastAck | State::Closing => {
                return Ok(());
            }
        }
        self.snd.fin = true;
        self.snd.more = false;
        self.events.add(Events::WRITABLE);
        Ok(())
    }

    /// `shutdown(SHUT_RD)`: reads return end of stream once the queue is empty; the peer is not told.
    pub fn shutdown_read(&mut self) {
        self.rcv.shutdown = true;
        self.events.add(Events::READABLE);
    }

    /// `close(2)`: the program lets go; the connection ends by itself. With data unread, or `SO_LINGER` with
    /// time 0 (`linger0`), the peer gets a reset (RFC 2525 §2.17, RFC 9293 §3.10.4).
    pub fn close(&mut self, cx: &mut Cx<'_>, linger0: bool) {
        self.orphan = true;
        let unread = self.inq() > 0;
        self.rcv.q = Default::default();
        self.rcv.tail = BytesMut::new();
        self.rcv.mem = self.ofo_cost();
        self.rcv.copied = self.rcv.nxt;
        self.rcv.shutdown = true;
        match self.state {
            State::Close | State::Listen | State::TimeWait => return,
            State::SynSent => return self.done(cx, None),
            State::SynRecv
            | State::Established
            | State::FinWait1
            | State::FinWait2
            | State::CloseWait
            | State::LastAck
            | State::Closing => {}
        }
        if unread {
            cx.inc(Mib::TcpExtTCPAbortOnClose);
            self.abort(cx, None);
            return;
        }
        if linger0 {
            cx.inc(Mib::TcpExtTCPAbortOnData);
            self.abort(cx, None);
            return;
        }
        let _ = self.shutdown_write(cx);
        if self.state == State::FinWait2 {
            self.enter_fin_wait2_orphan(cx);
        }
    }

    /// Ends the connection with a reset (`tcp_abort`, `disconnect`).
    pub fn abort(&mut self, cx: &mut Cx<'_>, error: Option<Errno>) {
        match self.state {
            State::Established
            | State::SynRecv
            | State::FinWait1
            | State::FinWait2
            | State::CloseWait
            | State::LastAck
            | State::Closing => {
                self.owed.rst = Some((wire(self.snd.nxt), wire(self.rcv.nxt), TcpFlags::RST | TcpFlags::ACK));
            }
            State::SynSent | State::TimeWait | State::Close | State::Listen => {}
        }
        self.done(cx, error);
    }

    fn fin_time(&self, cx: &Cx<'_>) -> Duration {
        let t = match self.opts.linger2 {
            0 => cx.cfg.fin_timeout,
            s => Duration::from_secs(u64::from(s.unsigned_abs())).min(FIN_TIMEOUT_MAX),
        };
        // Long enough for a retransmission of our own (tcp_fin_time).
        t.max(self.rtt.rto * 7 / 2)
    }

    /// FIN_WAIT2 without a program: wait for the peer's FIN only so long.
    pub(crate) fn enter_fin_wait2_orphan(&mut self, cx: &mut Cx<'_>) {
        if self.opts.linger2 < 0 {
            cx.inc(Mib::TcpExtTCPAbortOnLinger);
            self.abort(cx, None);
            return;
        }
        self.timers = Timers::default();
        self.timers.fin_at = cx.now + self.fin_time(cx);
        self.events.add(Events::STATE);
    }

    pub(crate) fn enter_time_wait(&mut self, cx: &mut Cx<'_>) {
        self.purge_send();
        self.timers = Timers::default();
        self.set_state(cx, State::TimeWait);
        self.ofo_clear();
    }

    /// When the connection only waits for its end (TIME_WAIT, or FIN_WAIT2 that no program holds), the small
    /// record that waits instead of it. This one is CLOSE afterwards; what is unread stays readable. Ask after
    /// [`Tcb::poll_transmit`] returned `None`.
    pub fn to_time_wait(&mut self, cx: &mut Cx<'_>) -> Option<TimeWait> {
        let (substate, wait) = match self.state {
            State::TimeWait => (State::TimeWait, TIMEWAIT_LEN),
            State::FinWait2 if self.orphan => (State::FinWait2, self.fin_time(cx)),
            State::Established
            | State::SynSent
            | State::SynRecv
            | State::FinWait1
            | State::FinWait2
            | State::Close
            | State::CloseWait
            | State::LastAck
            | State::Listen
            | State::Closing => return None,
        };
        let tw = TimeWait {
            state: substate,
            rcv_wscale: self.rcv.wscale,
            ts_ok: self.ts_on,
            rcv_nxt: wire(self.rcv.nxt),
            snd_nxt: wire(self.snd.nxt),
            rcv_wnd: self.receive_window(),
            ts_offset: self.ts_offset,
            ts_recent: self.rcv.ts_recent,
            ts_recent_at: self.rcv.ts_recent_at,
            last_oow_ack: self.last_oow_ack,
            deadline: cx.now + wait,
        };
        self.done(cx, None);
        Some(tw)
    }
}
