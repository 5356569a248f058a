//! The Linux ABI, bytes in and bytes out: netlink, socket calls, /proc.
#![forbid(unsafe_code)]
