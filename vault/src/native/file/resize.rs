//! Truncating and allocating.

use super::super::error::FileError;
use super::super::layout::{self, Span};
use super::super::slot::{Half, Kind, SLOT_LEN, Slot};
use super::super::unsynced::Mark;
use super::super::{PAGE, PAGE_LEN};
use super::read::Held;
use super::version::{Content, Nonces};
use super::{Cut, NativeFile, State, checked_end};

/// A last block that holds more than the size shows.
struct Shortened {
    block: u64,
    len: usize,
    plain: [u8; PAGE],
}

impl NativeFile {
    /// Sets the size; a longer file is zeros from the old end on, and what a shorter one has lost
    /// never comes back.
    ///
    /// # Errors
    /// [`FileError::TooLarge`], [`FileError::ReadOnly`], [`FileError::Poisoned`],
    /// [`FileError::Io`]; [`FileError::Integrity`] if the new last block was changed below.
    pub fn truncate(&self, size: u64) -> Result<(), FileError> {
        let mut state = self.writable_state()?;
        if size < state.size {
            self.shrink(&mut state, size)?;
        } else {
            self.grow(&mut state, size)?;
        }
        self.tell_size(&mut state)
    }

    /// Extends the file to at least `offset + len`. Reserves no space below.
    ///
    /// # Errors
    /// As [`NativeFile::truncate`].
    pub fn allocate(&self, offset: u64, len: u64) -> Result<(), FileError> {
        let end = checked_end(offset, len)?;
        let mut state = self.writable_state()?;
        if end <= state.size {
            return Ok(());
        }
        self.grow(&mut state, end)?;
        self.tell_size(&mut state)
    }

    fn grow(&self, state: &mut State, size: u64) -> Result<(), FileError> {
        let size = checked_end(size, 0)?;
        if size == state.size {
            return Ok(());
        }
        self.reach(state, size)?;
        let filled = self.fill_gap_to(state, layout::blocks(size));
        // stat(2) of a file that is not open goes by the lower length.
        let grown = filled.and_then(|()| Ok(self.lower.set_len(self.layout.lower_len(size))?));
        match grown {
            Ok(()) => state.size = size,
            // Why the file cannot grow is what counts.
            Err(_) => {
                let _ = self.cut_back(state);
            }
        }
        grown
    }

    /// After a failed write behind the end: takes back what was written there. A crash may leave it.
    pub(super) fn cut_back(&self, state: &mut State) -> Result<(), FileError> {
        self.check_health(state)?;
        state.cut = Cut::Unchecked;
        self.cut(state, None)?;
        state.cut = Cut::From(layout::blocks(state.size));
        Ok(())
    }

    /// First the shape, then a barrier, then the blocks: the old size never shows blocks that are
    /// gone (rule W6). Of a file with nothing durable, a crash may leave anything it ever held.
    fn shrink(&self, state: &mut State, size: u64) -> Result<(), FileError> {
        let keep = layout::blocks(size);
        let from = size / PAGE_LEN;
        // Of what lies behind the end of a file opened anew, nobody knows.
        let durable = state.cut == Cut::Unchecked || self.any_durable_from(state, from)?;
        // Before anything is changed: a damaged block is refused, not lost.
        let rest = self.shortened(state, from, size)?;
        let back_from = rest.as_ref().map_or(keep, |rest| rest.block);
        let pending = state.cut;

        state.size = size;
        state.solid = state.solid.min(keep);
        state.doubtful_end = state.doubtful_end.min(keep);
        state.cut = Cut::Unchecked;
        if durable {
            self.write_shape_if_changed(state)?;
            self.barrier(state)?;
        }
        self.cut(state, rest)?;
        state.cut = match pending {
            _ if durable => Cut::From(back_from),
            Cut::From(first) => Cut::From(first.min(back_from)),
            pending => pending,
        };
        Ok(())
    }

    /// Prepares for a size of `end`: what was cut off there must be gone for good.
    pub(super) fn reach(&self, state: &mut State, end: u64) -> Result<(), FileError> {
        if end <= state.size {
            return Ok(());
        }
        match state.cut {
            Cut::Durable => Ok(()),
            Cut::From(first) if layout::blocks(end) <= first => Ok(()),
            Cut::From(_) => self.flush(state),
            Cut::Unchecked => self.tidy(state),
        }
    }

    /// Cuts off what a crash has left behind the end.
    fn tidy(&self, state: &mut State) -> Result<(), FileError> {
        let rest = match self.shortened(state, state.size / PAGE_LEN, state.size) {
            // A damaged block stays one: nothing of it can come back.
            Err(FileError::Integrity(_)) => None,
            rest => rest?,
        };
        let keep = layout::blocks(state.size);
        let last = layout::segment_of(keep.saturating_sub(1));
        let segment = self.segment(state, last)?;
        let kept = (keep - layout::segment_blocks(last).start) as usize;
        let tidy = rest.is_none()
            && segment.slots().iter().skip(kept).all(Slot::is_zero)
            && self.lower.len()? <= self.layout.lower_len(state.size);
        drop(segment);
        // Where nothing is left, that may not be durable yet. But the first shape of a file opened anew,
        // which may tell a larger size, waits for a barrier anyway.
        if !tidy {
            // The size that shows no more than this must be durable before the rest goes.
            self.barrier(state)?;
            self.cut(state, rest)?;
            self.barrier(state)?;
        }
        state.cut = Cut::Durable;
        Ok(())
    }

    /// What the block that holds the end of a file of `size` is to be rewritten as: none if there is
    /// nothing in it behind the end.
    fn shortened(
        &self,
        state: &State,
        block: u64,
        size: u64,
    ) -> Result<Option<Shortened>, FileError> {
        let len = layout::len_within(size, block);
        let segment = self.segment(state, layout::segment_of(block))?;
        let slot = segment.slot(layout::index_in_segment(block));
        let longer = |(_, half): (_, Half)| usize::from(half.length) > len;
        if len == 0 || !slot.newest_first().into_iter().flatten().any(longer) {
            return Ok(None);
        }
        let mut plain = [0; PAGE];
        Ok(match self.held(state, block, &mut plain)? {
            Held::Data(held, _) if held > len => Some(Shortened { block, len, plain }),
            Held::Data(..) | Held::Hole(_) | Held::Nothing => None,
        })
    }

    /// Whether anything from block `first` on may be durable.
    fn any_durable_from(&self, state: &State, first: u64) -> Result<bool, FileError> {
        let end = layout::blocks(state.size);
        let mut next = first;
        while let Some(span) = layout::spans(next..end).next() {
            next = span.blocks().end;
            let segment = self.segment(state, span.segment)?;
            let slots = segment.slots().iter().skip(span.index());
            if span
                .blocks()
                .zip(slots)
                .any(|(block, slot)| state.is_durable(block, slot))
            {
                return Ok(true);
            }
            if segment.slots().iter().all(Slot::is_zero) {
                next = self.next_segment_in_use(span.segment + 1)?.max(next);
            }
        }
        Ok(false)
    }

    /// Cuts the lower file behind the end, and zeros the slots of its last segment behind.
    fn cut(&self, state: &mut State, rest: Option<Shortened>) -> Result<(), FileError> {
        if let Some(Shortened { block, len, plain }) = rest {
            let (plain, _) = plain.split_at(len);
            let span = Span {
                segment: layout::segment_of(block),
                first: block,
                count: 1,
            };
            self.put(state, span, Content::Data(plain), &mut Nonces::new())?;
            if state.unsynced.mark(block) == Mark::Over {
                // Its durable version is longer: it must not be cut before another is there.
                self.flush(state)?;
            }
        }
        let keep = layout::blocks(state.size);
        let last = layout::segment_of(keep.saturating_sub(1));
        let kept = (keep - layout::segment_blocks(last).start) as usize;
        let segment = state.segments.read_mut(&self.lower, self.layout, last)?;
        let behind = kept..segment.slots().len();
        if segment
            .slots()
            .iter()
            .skip(kept)
            .any(|slot| !slot.is_zero())
        {
            let zeros = [0; PAGE];
            let (zeros, _) = zeros.split_at(behind.len() * SLOT_LEN);
            let offset = self.layout.slots(last) + (kept * SLOT_LEN) as u64;
            self.lower.write_at(offset, zeros)?;
            for index in behind {
                segment.set_slot(index, Slot::ZERO);
            }
        }
        state.unsynced.forget_from(keep);
        state.announced.forget_from(keep);
        state.segments.forget_from(last + 1);
        Ok(self.lower.set_len(self.layout.lower_len(state.size))?)
    }
}

impl State {
    /// Whether a version of a block, data or hole, may be durable.
    fn is_durable(&self, block: u64, slot: &Slot) -> bool {
        match self.unsynced.mark(block) {
            // The hole record in its other half is.
            Mark::Fresh => {
                matches!(slot.newest_first(), [Some(_), Some((_, other))] if other.kind() == Kind::Hole)
            }
            Mark::Emptied => false,
            Mark::Clean => !slot.is_zero(),
            Mark::Over | Mark::Released | Mark::HoleOver | Mark::Wiped => true,
        }
    }
}
