//! Host edge: devices, run loop, and the seccomp supervisor.
#![deny(unsafe_op_in_unsafe_fn)]
