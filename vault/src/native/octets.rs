//! Fixed-size records: taken apart by splitting, put together by joining.

/// What is left of a record while it is parsed.
pub(crate) struct Octets<'a>(pub(crate) &'a [u8]);

impl<'a> Octets<'a> {
    /// The next `N` bytes.
    pub(crate) fn array<const N: usize>(&mut self) -> Option<&'a [u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(taken)
    }

    /// The next `len` bytes.
    pub(crate) fn slice(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array().map(|&[byte]| byte)
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(|bytes| u16::from_le_bytes(*bytes))
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(|bytes| u32::from_le_bytes(*bytes))
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(|bytes| u64::from_le_bytes(*bytes))
    }
}

/// Joins `fields` to a record of `N` bytes; what they leave over is zero.
///
/// # Panics
/// If the fields are longer than the record, which is a fault of the code and met by any test.
pub(crate) fn join<const N: usize>(fields: &[&[u8]]) -> [u8; N] {
    let mut record = [0; N];
    let mut rest = record.as_mut_slice();
    for field in fields {
        let (place, after) = rest.split_at_mut(field.len());
        place.copy_from_slice(field);
        rest = after;
    }
    record
}

/// Whether all bytes are zero: never written, or wiped.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|&byte| byte == 0)
}

/// One of the two copies of a record, or of the two halves of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    A,
    B,
}

impl Side {
    pub(crate) const BOTH: [Self; 2] = [Self::A, Self::B];

    pub(crate) fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    /// What of a pair is on this side.
    pub(crate) fn of<T>(self, [a, b]: &[T; 2]) -> &T {
        match self {
            Self::A => a,
            Self::B => b,
        }
    }

    pub(crate) fn of_mut<T>(self, [a, b]: &mut [T; 2]) -> &mut T {
        match self {
            Self::A => a,
            Self::B => b,
        }
    }

    /// Offset of this side's copy, for copies of `len` bytes of which the first is at `first`.
    pub(crate) fn offset(self, first: u64, len: usize) -> u64 {
        match self {
            Self::A => first,
            Self::B => first + len as u64,
        }
    }
}

/// The newer of two copies that verified.
pub(crate) fn newest<T, K: Ord>(
    [a, b]: [Option<T>; 2],
    age: impl Fn(&T) -> K,
) -> Option<(Side, T)> {
    match (a, b) {
        (None, None) => None,
        (Some(a), None) => Some((Side::A, a)),
        (None, Some(b)) => Some((Side::B, b)),
        (Some(a), Some(b)) if age(&a) >= age(&b) => Some((Side::A, a)),
        (Some(_), Some(b)) => Some((Side::B, b)),
    }
}
