//! The Linux ABI, bytes in and bytes out: netlink, socket calls, `/proc`.
//!
//! Everything is non-blocking: what would block returns `EAGAIN` (connect: `EINPROGRESS`), and the edge tries
//! again when [`Kernel::take_events`] reports the socket.
#![forbid(unsafe_code)]

pub mod kernel;
pub mod netlink;
pub mod procfs;
pub mod socket;
pub mod uapi;

pub use ferronet_stack::sock::packet::RxRing;
pub use ferronet_stack::tcp::EdgeQueues;
pub use kernel::{
    BackendDev, Caller, Caps, Config, Kernel, NsRef, Ready, Received, RecvReq, SendMsg, SockId,
};
