//! Header prediction: in a bulk transfer nearly every segment is the next in order, or a pure ACK. It needs none
//! of the checks. A property test holds that the result is that of the slow path.

use ferronet_core::Mib;
use ferronet_wire::tcp::TcpFlags;

use super::urg::Urg;
use crate::segment::{Cx, Discard, Payload, Segment};
use crate::state::{Tcb, unwrap_near};

impl Tcb {
    /// Next in order, plain flags, unchanged window, a timestamp that does not go back, nothing out of order.
    #[inline]
    pub(crate) fn fast_path_ok(&self, seg: &Segment) -> bool {
        let plain = seg.flags & !TcpFlags::PSH == TcpFlags::ACK;
        if !plain
            || self.rcv.urg == Urg::NotYet
            || seg.ce
            || self.ecn.ok
            || seg.seq.0 != self.rcv.nxt as u32
            || !self.rcv.ofo.is_empty()
        {
            return false;
        }
        let o = &seg.opts;
        if o.mss.is_some() || o.wscale.is_some() || o.sack_permitted || !o.sack.is_empty() {
            return false;
        }
        match (self.ts_on, o.timestamps) {
            (true, Some(t)) if (t.tsval.wrapping_sub(self.rcv.ts_recent) as i32) >= 0 => {}
            (false, None) => {}
            (true, _) | (false, Some(_)) => return false,
        }
        if u32::from(seg.wnd) << self.snd.wscale != self.snd.wnd {
            return false;
        }
        let ack = unwrap_near(self.snd.una, seg.ack);
        ack >= self.snd.una
            && ack <= self.snd.nxt
            && (seg.len == 0
                || (seg.len <= self.receive_window() && !self.rcv.shutdown && self.mem_ok(seg.len)))
    }

    pub(crate) fn rcv_fast(
        &mut self,
        cx: &mut Cx<'_>,
        seg: &Segment,
        payload: Payload,
    ) -> Result<(), Discard> {
        let seq = self.rcv.nxt;
        if let Some(t) = seg.opts.timestamps
            && seq <= self.rcv.wup
        {
            self.rcv.ts_recent = t.tsval;
            self.rcv.ts_recent_at = cx.now;
        }
        let tracked = self.tcp_ack(cx, seg, seq);
        debug_assert!(tracked.is_ok());
        if seg.len > 0 {
            cx.inc(Mib::TcpExtTCPHPHits);
            self.queue_in_order(cx, seg, seq, payload, 0);
            self.event_data_recv(cx, seg);
        } else {
            cx.inc(Mib::TcpExtTCPHPAcks);
        }
        self.ack_snd_check(cx);
        Ok(())
    }
}
