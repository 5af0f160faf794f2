//! New versions of blocks: what they hold, which half names them, and their ciphertext.

use super::super::PAGE;
use super::super::aead::{self, NONCE_LEN};
use super::super::error::FileError;
use super::super::layout::{self, SEGMENT_BLOCKS, Span};
use super::super::octets::Side;
use super::super::slot::{Half, Kind, Slot};
use super::super::unsynced::Mark;
use super::{NativeFile, State};

/// Blocks that one call of getrandom(2) draws nonces for: a request of 1 MiB.
const NONCES: usize = 256;
/// Nonces for one request; none is used twice or kept.
pub(super) struct Nonces {
    bytes: [u8; NONCES * NONCE_LEN],
    used: usize,
    drawn: usize,
}

impl Nonces {
    pub(super) fn new() -> Self {
        Self {
            bytes: [0; NONCES * NONCE_LEN],
            used: 0,
            drawn: 0,
        }
    }

    /// The next one; draws for up to `needed` blocks if none is left.
    fn next(&mut self, file: &NativeFile, needed: usize) -> [u8; NONCE_LEN] {
        if self.used == self.drawn {
            self.used = 0;
            self.drawn = needed.clamp(1, NONCES);
            let (fresh, _) = self.bytes.split_at_mut(self.drawn * NONCE_LEN);
            file.random.fill(fresh);
        }
        let (nonces, _) = self.bytes.as_chunks::<NONCE_LEN>();
        let nonce = nonces
            .get(self.used)
            .copied()
            .expect("fewer used than drawn");
        self.used += 1;
        nonce
    }
}

/// What blocks of one segment are to hold.
#[derive(Clone, Copy)]
pub(super) enum Content<'a> {
    /// These bytes, of which the last block may have fewer than the others.
    Data(&'a [u8]),
    /// Zeros by hole record: nothing is stored.
    Holes,
}

impl<'a> Content<'a> {
    pub(super) fn data(self) -> &'a [u8] {
        match self {
            Self::Data(data) => data,
            Self::Holes => &[],
        }
    }
}

/// The half that a new version of a block goes to.
#[derive(Clone, Copy)]
struct Target {
    side: Side,
    seq: u8,
    mark: Mark,
}

impl Target {
    /// Where the next version of a block goes, of which `current` names what it holds; `over` is the
    /// mark of a new version of something durable.
    fn beside(slot: &Slot, current: Option<(Side, Half)>, mark: Mark, over: Mark) -> Self {
        let Some((side, half)) = current else {
            return Self {
                side: Side::A,
                seq: 1,
                mark: Mark::Fresh,
            };
        };
        let again = |mark| Self {
            side,
            seq: half.seq,
            mark,
        };
        let beside = |mark| Self {
            side: side.other(),
            seq: half.seq.wrapping_add(1),
            mark,
        };
        match (mark, half.kind()) {
            // The other half may be of a hole that is durable.
            (Mark::Fresh, Kind::Hole) => again(Mark::Fresh),
            (Mark::Fresh, Kind::Data) if is_hole(slot, side.other()) => again(Mark::Fresh),
            // Nothing is durable: a process that is killed between half and block leaves the version before.
            (Mark::Fresh, Kind::Data) => beside(Mark::Fresh),
            (Mark::Over | Mark::HoleOver, _) => again(over),
            (Mark::Emptied | Mark::Clean, Kind::Hole) => beside(Mark::Fresh),
            (Mark::Emptied | Mark::Clean | Mark::Wiped | Mark::Released, _) => beside(over),
        }
    }
}

/// The slots of blocks about to be written, at most one segment of them.
pub(super) struct Versions {
    count: usize,
    slots: [Slot; SEGMENT_BLOCKS as usize],
    marks: [Mark; SEGMENT_BLOCKS as usize],
    sides: [Side; SEGMENT_BLOCKS as usize],
}

impl Versions {
    fn new(count: usize) -> Self {
        Self {
            count: count.min(SEGMENT_BLOCKS as usize),
            slots: [Slot::ZERO; SEGMENT_BLOCKS as usize],
            marks: [Mark::Clean; SEGMENT_BLOCKS as usize],
            sides: [Side::A; SEGMENT_BLOCKS as usize],
        }
    }

    fn set(&mut self, index: usize, slot: Slot, target: Target) {
        let marks = self.marks.iter_mut().zip(&mut self.sides);
        if let Some((place, (mark, side))) = self.slots.iter_mut().zip(marks).nth(index) {
            (*place, *mark, *side) = (slot, target.mark, target.side);
        }
    }

    pub(super) fn slots(&self) -> &[Slot] {
        self.slots.split_at(self.count).0
    }

    pub(super) fn marks(&self) -> &[Mark] {
        self.marks.split_at(self.count).0
    }

    /// The slots and their marks.
    pub(super) fn all(&self) -> impl Iterator<Item = (&Slot, &Mark)> {
        self.slots().iter().zip(self.marks())
    }

    /// A slot, the half of it that is new, and its mark.
    pub(super) fn get(&self, index: usize) -> Option<(&Slot, Side, Mark)> {
        let slot = self.slots().get(index)?;
        Some((slot, *self.sides.get(index)?, *self.marks.get(index)?))
    }

    /// The slots from `index` on of which nothing is durable.
    pub(super) fn whole_slots(&self, index: usize) -> &[Slot] {
        let (_, slots) = self.slots().split_at(index);
        let fates = self.marks.iter().zip(&self.sides).skip(index);
        let whole = slots.iter().zip(fates).take_while(|(slot, (mark, side))| {
            **mark == Mark::Fresh && !is_hole(slot, side.other())
        });
        slots.split_at(whole.count()).0
    }
}

/// Whether this half is a hole record.
pub(super) fn is_hole(slot: &Slot, side: Side) -> bool {
    slot.half(side)
        .is_some_and(|half| half.kind() == Kind::Hole)
}

impl NativeFile {
    /// Encrypts blocks into `sealed`, and gives their slots.
    pub(super) fn seal(
        &self,
        state: &State,
        span: Span,
        content: Content<'_>,
        nonces: &mut Nonces,
        sealed: &mut [u8],
    ) -> Result<Versions, FileError> {
        let segment = self.segment(state, span.segment)?;
        let fek = state.keys.newest();
        let cipher = segment
            .cipher(&state.keys, fek)
            .expect("the newest FEK is one of them");
        let over = match content {
            Content::Data(_) => Mark::Over,
            Content::Holes => Mark::HoleOver,
        };
        let mut versions = Versions::new(span.count);
        let mut plain = content.data().chunks(PAGE);
        let mut texts = sealed.chunks_mut(PAGE);
        let marks = state
            .unsynced
            .of_segment(span.segment)
            .iter()
            .skip(span.index());
        for (done, (block, mark)) in span.blocks().zip(marks).enumerate() {
            let index = layout::index_in_segment(block);
            let current = self.current_half(state, &segment, block, *mark)?;
            let target = Target::beside(&segment.slot(index), current, *mark, over);
            let (plain, text) = (
                plain.next().unwrap_or_default(),
                texts.next().unwrap_or_default(),
            );
            let mut half = Half {
                nonce: nonces.next(self, span.count - done),
                tag: [0; aead::TAG_LEN],
                length: plain.len() as u16,
                seq: target.seq,
                fek,
            };
            half.tag = aead::seal_into(cipher, &half.nonce, &half.associated(block), plain, text);
            let mut slot = segment.slot(index);
            *target.side.of_mut(&mut slot.0) = half.write();
            versions.set(done, slot, target);
        }
        Ok(versions)
    }
}
