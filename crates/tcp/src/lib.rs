//! One TCP connection, sans-IO: no IP, no demultiplexing, no sockets.
#![forbid(unsafe_code)]
