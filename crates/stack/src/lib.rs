//! Namespaces, devices, neighbours, routing, IPv4, IPv6, ICMP, UDP, TCP glue, sockets.
#![forbid(unsafe_code)]
