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

/// A network namespace within one `World`. Never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct NsId(pub u32);
