//! Connection scripts.
