//! One TCP connection, sans-IO: no IP, no demultiplexing, no sockets.
//!
//! Segments, time and the program's calls come in; segments, events and deadlines go out. Three classes of memory,
//! as in the kernel: [`RequestSock`] (about 100 bytes, SYN-RECEIVED), [`Tcb`] (about 1 KiB, no buffers while
//! idle) and [`TimeWait`] (about 64 bytes). After every call that can cause output: [`Tcb::poll_transmit`]
//! until `None`, then [`Tcb::take_events`], [`Tcb::to_time_wait`], [`Tcb::next_deadline`].
//!
//! Counters go to the namespace's MIB table through [`Cx`]; the caller counts `InSegs`, `OutSegs` and `InErrs`.
#![forbid(unsafe_code)]

mod close;
mod config;
pub mod cong;
mod connect;
mod fastopen;
mod info;
pub mod isn;
mod output;
mod rcv;
mod recovery;
mod request;
pub mod rtt;
mod sack;
mod segment;
mod snd;
mod state;
pub mod syncookie;
mod timers;
mod timewait;
mod window;

#[cfg(test)]
mod tests;

pub use config::{Config, CongAlg, SockOpts};
pub use connect::Open;
pub use info::{TcpInfo, TimerInfo};
pub use recovery::CaState;
pub use request::{ReqTimeout, ReqVerdict, RequestSock};
pub use segment::{Cx, Discard, GSO_MAX_PAYLOAD, Kind, MAX_PIECES, Payload, Segment, Transmit, reset_for};
pub use state::{Events, State, Tcb};
pub use timers::TIMEWAIT_LEN;
pub use timewait::{TimeWait, TwVerdict};
