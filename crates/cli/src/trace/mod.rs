//! `ferronet trace`: the packets' ways.

pub(crate) mod collect;
pub(crate) mod dissect;
pub(crate) mod filter;
