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
        // A barrier releases what was announced, these blocks too, and they owe another then.
        while self.owes_barrier(state, span)? {
            self.barrier(state)?;
        }
        Ok(())
    }

    /// Whether nothing of the blocks may be written before a barrier.
    fn owes_barrier(&self, state: &mut State, span: Span) -> Result<bool, FileError> {
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
            // W3: until a barrier, either version may be the one that is there.
            barrier |= *mark == Mark::Released;
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
        Ok(mark_shape || barrier)
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
        let written = self.write_versions(span, &versions, sealed);
        let whole = match &written {
            Ok(()) => span.count,
            Err(ShortWrite { written, .. }) => written / PAGE,
        };
        self.adopt_versions(state, span, &versions, sealed, whole)?;
        if let Err(ShortWrite { error, .. }) = written {
            self.undo(state, span, &versions, whole)?;
            return Err(error.into());
        }
        Ok(())
    }

    /// Takes the first `whole` blocks of `span` for what they are now.
    fn adopt_versions(
        &self,
        state: &mut State,
        span: Span,
        versions: &Versions,
        sealed: &[u8],
        whole: usize,
    ) -> Result<(), FileError> {
        let segment = state
            .segments
            .read_mut(&self.lower, self.layout, span.segment)?;
        let mut texts = sealed.chunks(PAGE);
        for (block, (slot, mark)) in span.blocks().zip(versions.all()).take(whole) {
            let text = texts.next().unwrap_or_default();
            segment.set_slot(layout::index_in_segment(block), *slot);
            match mark {
                Mark::Over => state.announced.put(block, text),
                _ => state.announced.remove(block),
            }
        }
        let (marks, _) = versions.marks().split_at(whole);
        state.unsynced.set_span(span, marks);
        Ok(())
    }

    /// Writes halves and blocks, but for those that are announced; if it fails, tells up to where `sealed`
    /// has been taken care of.
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
        let is_announced = |mark: &Mark| *mark == Mark::Over;
        let runs = versions
            .marks()
            .chunk_by(|one, next| is_announced(one) == is_announced(next));
        let mut done = 0;
        for run in runs {
            let (begin, end) = (done * PAGE, (done + run.len()) * PAGE);
            let text = sealed.get(begin..end.min(sealed.len())).unwrap_or_default();
            if !text.is_empty() && !run.iter().all(is_announced) {
                let offset = self.layout.block(span.first + done as u64);
                self.lower.write(offset, text).map_err(|short| ShortWrite {
                    written: begin + short.written,
                    ..short
                })?;
            }
            done += run.len();
        }
        Ok(())
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

    /// After a failed write: blocks behind the first `whole` have what they had, synced or not, and the half
    /// that names it is put back.
    fn undo(
        &self,
        state: &mut State,
        span: Span,
        versions: &Versions,
        whole: usize,
    ) -> Result<(), FileError> {
        let segment = state
            .segments
            .read_mut(&self.lower, self.layout, span.segment)?;
        for (nth, block) in span.blocks().enumerate().skip(whole) {
            let Some((_, side, mark)) = versions.get(nth) else {
                break;
            };
            let index = layout::index_in_segment(block);
            let old = segment.slot(index);
            let offset = self.layout.slots(span.segment) + (index * SLOT_LEN) as u64;
            let half: &[u8; HALF_LEN] = side.of(&old.0);
            // Where even that fails, the block is damaged once the file is opened anew.
            let _ = self.lower.write_at(side.offset(offset, HALF_LEN), half);
            if nth == whole && mark != Mark::Over {
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
