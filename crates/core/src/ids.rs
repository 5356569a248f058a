//! Identifiers.

use core::fmt;

/// Interface index, 1-based as in Linux; 0 means none.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct IfIndex(pub u32);

impl IfIndex {
    /// No interface.
    pub const NONE: IfIndex = IfIndex(0);
    /// The loopback device of every namespace.
    pub const LO: IfIndex = IfIndex(1);
    /// `true` for index 0.
    #[must_use]
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Display for IfIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A network namespace within one `World`. Never given twice: a place that is taken again has another
/// generation, so an id that somebody kept too long names nothing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct NsId(pub u64);

impl NsId {
    /// The place `index` in its `generation`th use, from 0.
    #[must_use]
    pub const fn new(index: u32, generation: u32) -> Self {
        NsId((generation as u64) << 32 | index as u64)
    }
    /// Its place in the world's table; two that live never share one.
    #[inline]
    #[must_use]
    pub const fn index(self) -> usize {
        (self.0 & 0xffff_ffff) as usize
    }
    /// The id of the next namespace in this place.
    #[must_use]
    pub const fn next_generation(self) -> Self {
        NsId(self.0.wrapping_add(1 << 32))
    }
}
