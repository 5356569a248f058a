//! Words everybody speaks: time, packets, drop reasons, counters, sysctls, timers.
#![forbid(unsafe_code)]

pub mod drop;
pub mod env;
pub mod errno;
pub mod hash;
pub mod ids;
pub mod mib;
pub mod packet;
pub mod rng;
pub mod sysctl;
pub mod time;
pub mod timer;
pub mod trace;

pub use drop::DropReason;
pub use env::Env;
pub use errno::Errno;
pub use ids::{IfIndex, NsId};
pub use mib::Mib;
pub use packet::{Csum, Meta, Packet, PacketQueue, PktType, Pool};
pub use sysctl::Sysctl;
pub use time::Instant;
