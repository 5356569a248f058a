//! Packet formats: one header per file, zero-copy views.
#![forbid(unsafe_code)]
