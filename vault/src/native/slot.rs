//! Slots: nonce and tag of a block, in two halves of which one always names what is durable.

use super::aead::{NONCE_LEN, TAG_LEN};
use super::octets::{Octets, Side, is_zero, join};

/// Length in bytes of half a slot.
pub(super) const HALF_LEN: usize = 32;
/// Length in bytes of a slot.
pub(super) const SLOT_LEN: usize = 2 * HALF_LEN;
/// Associated data of a block: index, kind, length, seq, FEK.
pub(super) const ASSOCIATED_LEN: usize = 8 + 1 + 2 + 1 + 1;

/// What a half says there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A block of `length` bytes.
    Data,
    /// Zeros; nothing is stored. An authentic "nothing here", unlike a zero slot.
    Hole,
}

/// One half of a slot: names one version of its block.
///
/// ```text
/// nonce 12 | tag 16 | length 2 | seq 1 | fek 1        all zero: nothing was ever written
/// ```
///
/// Lengths are bytes, integers little-endian. A length of 0 is a hole record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Half {
    pub(super) nonce: [u8; NONCE_LEN],
    pub(super) tag: [u8; TAG_LEN],
    pub(super) length: u16,
    pub(super) seq: u8,
    pub(super) fek: u8,
}

impl Half {
    /// Parses a half. None if nothing was written there.
    pub(super) fn parse(bytes: &[u8; HALF_LEN]) -> Option<Self> {
        if is_zero(bytes) {
            return None;
        }
        let mut octets = Octets(bytes);
        Some(Self {
            nonce: *octets.array()?,
            tag: *octets.array()?,
            length: octets.u16()?,
            seq: octets.u8()?,
            fek: octets.u8()?,
        })
    }

    /// The bytes that [`Half::parse`] reads.
    pub(super) fn write(&self) -> [u8; HALF_LEN] {
        join(&[
            &self.nonce,
            &self.tag,
            &self.length.to_le_bytes(),
            &[self.seq, self.fek],
        ])
    }

    pub(super) fn kind(&self) -> Kind {
        match self.length {
            0 => Kind::Hole,
            _ => Kind::Data,
        }
    }

    /// What the tag covers besides the block.
    pub(super) fn associated(&self, block: u64) -> [u8; ASSOCIATED_LEN] {
        let kind = match self.kind() {
            Kind::Data => 1,
            Kind::Hole => 2,
        };
        join(&[
            &block.to_le_bytes(),
            &[kind],
            &self.length.to_le_bytes(),
            &[self.seq, self.fek],
        ])
    }
}

/// A slot as it is on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot(pub(super) [[u8; HALF_LEN]; 2]);

impl Slot {
    pub(super) const ZERO: Self = Self([[0; HALF_LEN]; 2]);

    pub(super) fn half(&self, side: Side) -> Option<Half> {
        Half::parse(side.of(&self.0))
    }

    /// Slots as they lie on disk.
    pub(super) fn bytes(slots: &[Self]) -> Vec<u8> {
        slots
            .iter()
            .flat_map(|slot| slot.0.as_flattened())
            .copied()
            .collect()
    }

    pub(super) fn is_zero(&self) -> bool {
        is_zero(self.0.as_flattened())
    }

    /// The halves that were written, the newer one first.
    ///
    /// The sequence number is one byte and wraps: of two halves, the newer is the one whose number is
    /// one more, or by any less than half the circle, than the other's.
    pub(super) fn newest_first(&self) -> [Option<(Side, Half)>; 2] {
        let [a, b] = Side::BOTH.map(|side| self.half(side).map(|half| (side, half)));
        match (&a, &b) {
            (Some((_, first)), Some((_, second)))
                if (second.seq.wrapping_sub(first.seq) as i8) > 0 =>
            {
                [b, a]
            }
            (None, Some(_)) => [b, a],
            _ => [a, b],
        }
    }

    pub(super) fn newest(&self) -> Option<(Side, Half)> {
        let [newest, _] = self.newest_first();
        newest
    }
}
