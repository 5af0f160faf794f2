//! Putting new versions of blocks: each goes beside the durable one's half.

use std::cell::RefCell;
use std::io;

use super::super::PAGE;
use super::super::error::FileError;
use super::super::layout::{self, Span};
use super::super::lower::ShortWrite;
use super::super::slot::{HALF_LEN, SLOT_LEN, Slot};
use super::super::unsynced::Mark;
use super::version::{Content, Nonces, Versions};
use super::{Earlier, NativeFile, State};

thread_local! {
    /// Ciphertext of one segment, before it is written.
    static SEALED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl NativeFile {
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
        if let Err(ShortWrite { written, error }) = self.write_versions(span, &versions, sealed) {
            self.undo(state, span, &versions, written)?;
            return Err(error.into());
        }
        let segment = state
            .segments
            .read_mut(&self.lower, self.layout, span.segment)?;
        for (block, slot) in span.blocks().zip(versions.slots()) {
            segment.set_slot(layout::index_in_segment(block), *slot);
        }
        state.unsynced.set_span(span, versions.marks());
        Ok(())
    }

    /// Writes halves and blocks; if it fails, tells how much of the blocks is there.
    fn write_versions(
        &self,
        span: Span,
        versions: &Versions,
        sealed: &[u8],
    ) -> Result<(), ShortWrite> {
        // The half first: until the block is there, the reader finds that the new half does not
        // verify and takes the other.
        let halves = self.write_halves(span, versions);
        halves.map_err(|error| ShortWrite { written: 0, error })?;
        match sealed {
            [] => Ok(()),
            sealed => self.lower.write(self.layout.block(span.first), sealed),
        }
    }

    /// Writes halves, each by itself: beside it lies the half that names the durable version, and a
    /// write may tear anywhere within what it writes (rules W1, W2).
    ///
    /// Slots of which nothing is durable are written whole and many at once: whatever a torn write
    /// leaves of them, nothing that was durable is lost, and the shape says that they may be torn
    /// (rules W4, W7).
    fn write_halves(&self, span: Span, versions: &Versions) -> io::Result<()> {
        let first = self.layout.slots(span.segment) + (span.index() * SLOT_LEN) as u64;
        let mut index = 0;
        while let Some((slot, side, _)) = versions.get(index) {
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

    /// After a failed write, of which `written` bytes of the blocks are there: those have their new
    /// version. Each of the others has what it had, synced or not, and the half that names it is put
    /// back.
    fn undo(
        &self,
        state: &mut State,
        span: Span,
        versions: &Versions,
        written: usize,
    ) -> Result<(), FileError> {
        let whole = written / PAGE;
        let segment = state
            .segments
            .read_mut(&self.lower, self.layout, span.segment)?;
        for (nth, block) in span.blocks().enumerate() {
            let Some((new, side, mark)) = versions.get(nth) else {
                break;
            };
            let index = layout::index_in_segment(block);
            if nth < whole {
                segment.set_slot(index, *new);
                state.unsynced.set(block, mark);
                continue;
            }
            let old = segment.slot(index);
            let offset = self.layout.slots(span.segment) + (index * SLOT_LEN) as u64;
            let half: &[u8; HALF_LEN] = side.of(&old.0);
            // Where even that fails, the block is damaged once the file is opened anew.
            let _ = self.lower.write_at(side.offset(offset, HALF_LEN), half);
            if nth == whole {
                // It may be torn.
                segment.doubt(index);
            }
            if old.is_zero() {
                state.unsynced.set(block, Mark::Emptied);
            }
        }
        Ok(())
    }
}
