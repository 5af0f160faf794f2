//! Writing: each new version of a block goes beside the durable one's half.

use std::cell::RefCell;

use super::super::error::FileError;
use super::super::layout::{self, Span};
use super::super::slot::{HALF_LEN, SLOT_LEN, Slot};
use super::super::unsynced::Mark;
use super::super::{PAGE, PAGE_LEN};
use super::version::{Content, Nonces, Versions};
use super::{Earlier, NativeFile, State, checked_end};

/// Zeros between the old end and what is written are taken in by hole records if no more blocks
/// than these, 16 MiB; they take 16 KiB a MiB of zeros below. Behind a larger gap `solid` stays.
const MAX_HOLE_RECORDS: u64 = 4096;
/// Segments with marks, 16 GiB of data, after which a write begins with a barrier to drop them.
const MAX_MARKED: usize = 1 << 16;

thread_local! {
    /// Ciphertext of one segment, before it is written.
    static SEALED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl NativeFile {
    /// Writes `data` at `offset`; zeros fill what lies between it and the end of the file.
    ///
    /// If it fails, nothing, all or a part of `data` has been written.
    ///
    /// # Errors
    /// [`FileError::Integrity`] if a block of which only a part is written was changed below;
    /// [`FileError::TooLarge`], [`FileError::ReadOnly`], [`FileError::Poisoned`],
    /// [`FileError::Io`].
    pub fn write_at(&self, offset: u64, data: &[u8]) -> Result<(), FileError> {
        let mut state = self.writable_state()?;
        self.write_and_tell(&mut state, offset, data)
    }

    /// Writes `data` at the end of the file and returns where that was.
    ///
    /// # Errors
    /// As [`NativeFile::write_at`].
    pub fn append(&self, data: &[u8]) -> Result<u64, FileError> {
        let mut state = self.writable_state()?;
        let offset = state.size;
        self.write_and_tell(&mut state, offset, data)?;
        Ok(offset)
    }

    /// Of a write that fails midway, the size is told that it has come to.
    fn write_and_tell(&self, state: &mut State, offset: u64, data: &[u8]) -> Result<(), FileError> {
        let written = self.write_locked(state, offset, data);
        let told = self.tell_size(state);
        written.and(told)
    }

    pub(super) fn write_locked(
        &self,
        state: &mut State,
        offset: u64,
        data: &[u8],
    ) -> Result<(), FileError> {
        if data.is_empty() {
            return Ok(());
        }
        let end = checked_end(offset, data.len() as u64)?;
        if state.unsynced.segments() > MAX_MARKED {
            self.barrier(state)?;
        }
        self.reach(state, end)?;
        let nonces = &mut Nonces::new();
        self.fill_gap(state, offset / PAGE_LEN, nonces)?;

        let skip = (offset % PAGE_LEN) as usize;
        let first_len = match skip {
            0 => 0,
            _ => data.len().min(PAGE - skip),
        };
        let (first, rest) = data.split_at(first_len);
        if !first.is_empty() {
            self.merge(state, offset / PAGE_LEN, skip, first, nonces)?;
        }
        // What is written up to the end of the file or beyond is all that its last block holds.
        let last_len = if end < state.size {
            rest.len() % PAGE
        } else {
            0
        };
        let (whole, last) = rest.split_at(rest.len() - last_len);
        let first_block = offset.div_ceil(PAGE_LEN);
        let end_block = first_block + whole.len().div_ceil(PAGE) as u64;
        let mut whole = whole;
        for span in layout::spans(first_block..end_block) {
            let (piece, after) = whole.split_at(whole.len().min(span.count * PAGE));
            whole = after;
            self.put(state, span, Content::Data(piece), nonces)?;
            let written = layout::start(span.first) + piece.len() as u64;
            state.size = state.size.max(written);
        }
        if !last.is_empty() {
            self.merge(state, end / PAGE_LEN, 0, last, nonces)?;
        }
        Ok(())
    }

    /// Writes a part of one block, and what it held around it.
    fn merge(
        &self,
        state: &mut State,
        block: u64,
        skip: usize,
        data: &[u8],
        nonces: &mut Nonces,
    ) -> Result<(), FileError> {
        let mut plain = [0; PAGE];
        let held = layout::len_within(state.size, block);
        if held > 0 {
            self.read_block(state, block, &mut plain)?;
        }
        let end = skip + data.len();
        for (place, byte) in plain.iter_mut().skip(skip).zip(data) {
            *place = *byte;
        }
        let (plain, _) = plain.split_at(held.max(end));
        let span = Span {
            segment: layout::segment_of(block),
            first: block,
            count: 1,
        };
        self.put(state, span, Content::Data(plain), nonces)?;
        state.size = state.size.max(layout::start(block) + end as u64);
        Ok(())
    }

    /// Puts hole records for all blocks between the end of the file and `block`, so that `solid` can
    /// pass them. Those of a large gap stay without: they are zeros that nothing vouches for.
    pub(super) fn fill_gap_to(&self, state: &mut State, block: u64) -> Result<(), FileError> {
        self.fill_gap(state, block, &mut Nonces::new())
    }

    fn fill_gap(
        &self,
        state: &mut State,
        block: u64,
        nonces: &mut Nonces,
    ) -> Result<(), FileError> {
        let first = layout::blocks(state.size);
        if block.saturating_sub(first) > MAX_HOLE_RECORDS {
            return Ok(());
        }
        for span in layout::spans(first..block) {
            self.put(state, span, Content::Holes, nonces)?;
        }
        Ok(())
    }

    /// Turns blocks of one segment into holes.
    pub(super) fn put_holes(&self, state: &mut State, span: Span) -> Result<(), FileError> {
        self.put(state, span, Content::Holes, &mut Nonces::new())
    }

    /// Gives blocks of one segment new content.
    pub(super) fn put(
        &self,
        state: &mut State,
        span: Span,
        content: Content<'_>,
        nonces: &mut Nonces,
    ) -> Result<(), FileError> {
        self.admit(state, span)?;
        SEALED.with_borrow_mut(|buffer| {
            let len = content.data().len();
            if buffer.len() < len {
                buffer.resize(len, 0);
            }
            let (sealed, _) = buffer.split_at_mut(len);
            self.put_sealed(state, span, content, nonces, sealed)
        })
    }

    /// Makes the blocks fit to be written to: whatever is durable of them, or vouches for them, is
    /// not touched after this.
    fn admit(&self, state: &mut State, span: Span) -> Result<(), FileError> {
        let segment = self.segment(state, span.segment)?;
        let slots = segment.slots().iter().skip(span.index());
        let marks = state
            .unsynced
            .of_segment(span.segment)
            .iter()
            .skip(span.index());
        let mut barrier = false;
        let mut mark_shape = false;
        for (block, (slot, mark)) in span.blocks().zip(slots.zip(marks)) {
            if *mark != Mark::Clean {
                continue;
            }
            // W4: a half without its block reads as damage where a settled shape vouches for it.
            mark_shape |= slot.is_zero() && block < state.shapes.vouched();
            // W2: of two halves found at opening, only a barrier tells that the newer is durable.
            let [_, other] = slot.newest_first();
            barrier |= other.is_some() && state.earlier == Earlier::Unknown;
        }
        drop(segment);
        if mark_shape {
            self.write_unsettled_shape(state)?;
        }
        if mark_shape || barrier {
            self.barrier(state)?;
        }
        Ok(())
    }

    fn put_sealed(
        &self,
        state: &mut State,
        span: Span,
        content: Content<'_>,
        nonces: &mut Nonces,
        sealed: &mut [u8],
    ) -> Result<(), FileError> {
        let versions = self.seal(state, span, content, nonces, sealed)?;
        // The half first: until the block is there, the reader finds that the new half does not
        // verify and takes the other.
        self.write_halves(span, &versions)?;
        let segment = state
            .segments
            .read_mut(&self.lower, self.layout, span.segment)?;
        for (block, slot) in span.blocks().zip(versions.slots()) {
            segment.set_slot(layout::index_in_segment(block), *slot);
        }
        state.unsynced.set_span(span, versions.marks());
        if sealed.is_empty() {
            return Ok(());
        }
        let written = self.lower.write_at(self.layout.block(span.first), sealed);
        written.or_else(|error| {
            self.abandon(state, span)?;
            Err(error.into())
        })
    }

    /// Writes halves, each by itself: beside it lies the half that names the durable version, and a
    /// write may tear anywhere within what it writes (rules W1, W2).
    ///
    /// Slots of which nothing is durable are written whole and many at once: whatever a torn write
    /// leaves of them, nothing that was durable is lost, and the shape says that they may be torn
    /// (rules W4, W7).
    fn write_halves(&self, span: Span, versions: &Versions) -> Result<(), FileError> {
        let first = self.layout.slots(span.segment) + (span.index() * SLOT_LEN) as u64;
        let mut index = 0;
        while let Some((slot, side)) = versions.get(index) {
            let offset = first + (index * SLOT_LEN) as u64;
            let run = versions.whole_slots(index);
            if run.is_empty() {
                let half: &[u8; HALF_LEN] = side.of(&slot.0);
                self.lower.write_at(side.offset(offset, HALF_LEN), half)?;
                index += 1;
                continue;
            }
            self.lower.write_at(offset, &Slot::bytes(run))?;
            index += run.len();
        }
        Ok(())
    }

    /// After a failed write of blocks whose halves have been written. What was there before counts
    /// again: over a durable version by the other half, else by an emptied slot.
    fn abandon(&self, state: &mut State, span: Span) -> Result<(), FileError> {
        for block in span.blocks() {
            let index = layout::index_in_segment(block);
            let segment = state
                .segments
                .read_mut(&self.lower, self.layout, span.segment)?;
            segment.doubt(index);
            let slot = segment.slot(index);
            let lone = slot.newest_first().iter().flatten().count() == 1;
            if state.unsynced.mark(block) == Mark::Fresh && lone {
                let offset = self.layout.slots(span.segment) + (index * SLOT_LEN) as u64;
                self.lower.write_at(offset, &[0; SLOT_LEN])?;
                segment.set_slot(index, Slot::ZERO);
                state.unsynced.set(block, Mark::Emptied);
            }
        }
        Ok(())
    }
}
