//! What all headers share: the error type and the macros that make views and accessors.

/// What is wrong with the bytes of a packet.
///
/// The stack maps each to a drop reason; this crate knows none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WireError {
    /// Fewer bytes than the (fixed or announced) header has.
    TooShort,
    /// The version nibble is not the one of this protocol.
    BadVersion,
    /// The header length field is below its minimum.
    BadHeaderLen,
    /// The total length field contradicts the header (smaller than the header).
    BadTotalLen,
    /// The length field announces more bytes than the packet has.
    Truncated,
    /// The checksum does not verify.
    BadChecksum,
    /// An option runs over the end, or has an impossible length.
    BadOption,
    /// A field that must have one value has another (hop limit 255 for neighbour discovery, say).
    BadField,
}

impl core::fmt::Display for WireError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            WireError::TooShort => "packet shorter than its header",
            WireError::BadVersion => "wrong protocol version",
            WireError::BadHeaderLen => "header length below the minimum",
            WireError::BadTotalLen => "total length smaller than the header",
            WireError::Truncated => "packet shorter than its length field",
            WireError::BadChecksum => "checksum does not verify",
            WireError::BadOption => "malformed option",
            WireError::BadField => "field has a forbidden value",
        })
    }
}

impl core::error::Error for WireError {}

/// `LEN`, `view`, `view_mut`, `split` and `put` for a zerocopy header.
macro_rules! header_views {
    ($t:ty) => {
        impl $t {
            /// Bytes of the fixed header.
            pub const LEN: usize = core::mem::size_of::<$t>();

            /// Lays the header over the first bytes; `None` when there are fewer than [`Self::LEN`].
            #[inline]
            #[must_use]
            pub fn view(b: &[u8]) -> Option<&Self> {
                <Self as zerocopy::FromBytes>::ref_from_prefix(b).ok().map(|(h, _)| h)
            }

            /// Lays the header over the first bytes for writing; `None` when there are fewer than [`Self::LEN`].
            #[inline]
            #[must_use]
            pub fn view_mut(b: &mut [u8]) -> Option<&mut Self> {
                <Self as zerocopy::FromBytes>::mut_from_prefix(b).ok().map(|(h, _)| h)
            }

            /// The header and what follows the fixed part (options included).
            #[inline]
            #[must_use]
            pub fn split(b: &[u8]) -> Option<(&Self, &[u8])> {
                <Self as zerocopy::FromBytes>::ref_from_prefix(b).ok()
            }

            /// Copies the header to the start of `b`; `None`, and nothing written, when `b` is too short.
            #[inline]
            #[must_use]
            pub fn put(&self, b: &mut [u8]) -> Option<()> {
                zerocopy::IntoBytes::write_to_prefix(self, b).ok()
            }

            /// The bytes of the header.
            #[inline]
            #[must_use]
            pub fn bytes(&self) -> &[u8] {
                zerocopy::IntoBytes::as_bytes(self)
            }
        }
    };
}

/// Getter and setter pairs for big-endian fields.
macro_rules! be_fields {
    ($t:ty { $( $(#[$d:meta])* $f:ident / $s:ident : $v:ty ),* $(,)? }) => {
        // `len` of a header is a field of the packet, not the size of a container.
        #[allow(clippy::len_without_is_empty)]
        impl $t { $(
            $(#[$d])*
            #[inline]
            #[must_use]
            pub fn $f(&self) -> $v { self.$f.get() }
            /// Sets the field of the same name.
            #[inline]
            pub fn $s(&mut self, v: $v) { self.$f.set(v); }
        )* }
    };
}
