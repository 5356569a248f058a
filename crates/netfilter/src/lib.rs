//! Netfilter hooks and verdicts.
#![forbid(unsafe_code)]
