//! Test kit: simulated links, packet scripts, invariants.
#![forbid(unsafe_code)]

pub mod need;
