//! Words everybody speaks: time, packets, drop reasons, counters, sysctls, timers.
#![forbid(unsafe_code)]
