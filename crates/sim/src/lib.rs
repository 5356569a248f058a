//! Test kit: simulated networks in one process, with a seed that reproduces everything.
//!
//! [`Net`] is a world of named namespaces and emulated links with a clock of its own; programs are closures or
//! the ready-made ones in [`transfer`]. Nothing here reads a clock or the operating system's randomness.
#![forbid(unsafe_code)]

pub mod frames;
pub mod need;
pub mod net;
pub mod script;
pub mod transfer;

pub use net::Net;
