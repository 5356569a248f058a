//! Devices whose other end is in the host.

mod tap;
mod tap_frame;
pub(crate) mod tun;

pub use tap::Tap;
pub(crate) use tap::Taps;
