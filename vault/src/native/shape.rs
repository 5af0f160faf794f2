//! The shape: how large a file is, and how far it is known to be whole.

use aws_lc_rs::hmac;

use super::layout::{self, MAX_SIZE};
use super::octets::{Octets, Side, is_zero, join, newest};

/// Length in bytes of one copy.
pub(super) const SHAPE_LEN: usize = 128;
/// What of it the HMAC covers.
const MACED_LEN: usize = SHAPE_LEN - 32;
/// Flag: blocks from `solid` on may be missing.
const UNSETTLED: u32 = 1;

/// Whether blocks from `solid` on may be named by their slots and not be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Settled {
    Yes,
    /// A crash may have left any block from `solid` on half written: it then reads as zeros.
    No,
}

/// One copy of the shape record.
///
/// ```text
/// seq 8 | size 8 | solid 8 | flags 4 | reserved 4 | whole-file tag 32 (zero) | reserved 32 | HMAC 32
/// ```
///
/// Lengths are bytes, integers little-endian; `size` is in bytes, `solid` in blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) seq: u64,
    pub(super) size: u64,
    pub(super) solid: u64,
    pub(super) settled: Settled,
}

impl Shape {
    /// Parses one copy. None if it does not verify, or says what no version writes.
    pub(super) fn parse(bytes: &[u8; SHAPE_LEN], key: &hmac::Key) -> Option<Self> {
        let (maced, tag) = bytes.split_at_checked(MACED_LEN)?;
        hmac::verify(key, maced, tag).ok()?;
        let mut octets = Octets(maced);
        let (seq, size, solid) = (octets.u64()?, octets.u64()?, octets.u64()?);
        let settled = match octets.u32()? {
            0 => Settled::Yes,
            UNSETTLED => Settled::No,
            _ => return None,
        };
        // A later copy needs a higher seq.
        let possible = seq < u64::MAX
            && size <= MAX_SIZE
            && solid <= layout::blocks(size)
            && is_zero(octets.0);
        possible.then_some(Self {
            seq,
            size,
            solid,
            settled,
        })
    }

    /// The bytes that [`Shape::parse`] reads.
    pub(super) fn write(&self, key: &hmac::Key) -> [u8; SHAPE_LEN] {
        let flags = match self.settled {
            Settled::Yes => 0,
            Settled::No => UNSETTLED,
        };
        let maced: [u8; MACED_LEN] = join(&[
            &self.seq.to_le_bytes(),
            &self.size.to_le_bytes(),
            &self.solid.to_le_bytes(),
            &flags.to_le_bytes(),
        ]);
        join(&[&maced, hmac::sign(key, &maced).as_ref()])
    }

    /// How far blocks have to be there, or be known to have never been written.
    fn vouches_for(&self) -> u64 {
        match self.settled {
            Settled::Yes => layout::blocks(self.size),
            Settled::No => 0,
        }
    }
}

/// The two copies, as far as is known which of them the disk may hold.
#[derive(Debug)]
pub(super) struct Shapes {
    last: Shape,
    last_side: Side,
    durable: Durable,
    /// The size that a crash leaves, if it is known: no copy that tells another may be on the disk.
    durable_size: Option<u64>,
    vouched: u64,
}

/// Which copy would count after a crash at the worst time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Durable {
    /// This one: the other may be written.
    Copy(Side),
    /// Written before the file was opened, maybe a moment before: a barrier has to tell.
    Unknown,
}

impl Shapes {
    /// Of a new file whose header has just been written with `first` as copy A.
    pub(super) fn of_new_file(first: Shape) -> Self {
        Self {
            last: first,
            last_side: Side::A,
            durable: Durable::Copy(Side::A),
            durable_size: None,
            vouched: first.vouches_for(),
        }
    }

    /// The newest copy that verifies. None if neither does.
    pub(super) fn parse(copies: &[u8; 2 * SHAPE_LEN], key: &hmac::Key) -> Option<Self> {
        let (copies, _) = copies.as_chunks::<SHAPE_LEN>();
        let &[a, b] = copies else { return None };
        let shapes = [Shape::parse(&a, key), Shape::parse(&b, key)];
        let vouched = shapes.iter().flatten().map(Shape::vouches_for).max()?;
        let (last_side, last) = newest(shapes, |shape| shape.seq)?;
        let durable = if is_zero(last_side.other().of::<[u8; SHAPE_LEN]>(&[a, b])) {
            Durable::Copy(last_side)
        } else {
            Durable::Unknown
        };
        // The disk may hold a version of the newest copy that was written over since: settled, maybe.
        let vouched = match durable {
            Durable::Copy(_) => vouched,
            Durable::Unknown => vouched.max(layout::blocks(last.size)),
        };
        Some(Self {
            last,
            last_side,
            durable,
            durable_size: None,
            vouched,
        })
    }

    /// The newest.
    pub(super) fn last(&self) -> &Shape {
        &self.last
    }

    /// Where the newest is.
    #[cfg(test)]
    pub(super) fn last_side(&self) -> Side {
        self.last_side
    }

    /// The copy that may be written now; none before a barrier.
    pub(super) fn writable(&self) -> Option<Side> {
        match self.durable {
            Durable::Copy(side) => Some(side.other()),
            Durable::Unknown => None,
        }
    }

    /// Notes that `shape` was written to `side`.
    pub(super) fn wrote(&mut self, shape: Shape, side: Side) {
        self.vouched = self.vouched.max(shape.vouches_for());
        self.durable_size = self.durable_size.filter(|size| *size == shape.size);
        self.last = shape;
        self.last_side = side;
    }

    /// Notes a barrier: the newest copy is the one that counts.
    pub(super) fn synced(&mut self) {
        self.durable = Durable::Copy(self.last_side);
        self.durable_size = Some(self.last.size);
        self.vouched = self.last.vouches_for();
    }

    /// The size in bytes that a crash leaves, if it is known.
    pub(super) fn durable_size(&self) -> Option<u64> {
        self.durable_size
    }

    /// Blocks below this one are within the size of a settled shape that may be on disk: to write one
    /// that has no durable version, an unsettled shape has to be durable first (rule W4).
    pub(super) fn vouched(&self) -> u64 {
        self.vouched
    }
}
