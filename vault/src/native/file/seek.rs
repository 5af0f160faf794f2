//! Looking for data and holes.

use super::super::PAGE_LEN;
use super::super::error::FileError;
use super::super::layout;
use super::super::slot::{Kind, Slot};
use super::{NativeFile, State};

impl NativeFile {
    /// The first offset from `offset` on that holds data, or none up to the end.
    ///
    /// Goes by the slots, which only a read verifies: one changed below shows here as what it says.
    ///
    /// # Errors
    /// [`FileError::Io`].
    pub fn seek_data(&self, offset: u64) -> Result<Option<u64>, FileError> {
        let state = self.read_state();
        if offset >= state.size {
            return Ok(None);
        }
        let block = self.find(&state, offset / PAGE_LEN, Kind::Data)?;
        Ok(block.map(|block| layout::start(block).max(offset)))
    }

    /// The first offset from `offset` on that is a hole; the end of the file is one. None from the
    /// end on.
    ///
    /// # Errors
    /// [`FileError::Io`].
    pub fn seek_hole(&self, offset: u64) -> Result<Option<u64>, FileError> {
        let state = self.read_state();
        if offset >= state.size {
            return Ok(None);
        }
        let block = self.find(&state, offset / PAGE_LEN, Kind::Hole)?;
        let hole = block.map_or(state.size, layout::start);
        Ok(Some(hole.max(offset)))
    }

    /// The first block from `first` on, within the size, of which the slot says `kind`.
    fn find(&self, state: &State, first: u64, kind: Kind) -> Result<Option<u64>, FileError> {
        let end = layout::blocks(state.size);
        let mut next = first;
        while let Some(span) = layout::spans(next..end).next() {
            next = span.blocks().end;
            let segment = self.segment(state, span.segment)?;
            let slots = segment.slots().iter().skip(span.index());
            let mut found = span.blocks().zip(slots);
            if let Some((block, _)) = found.find(|(_, slot)| says(slot) == kind) {
                return Ok(Some(block));
            }
            if segment.slots().iter().all(Slot::is_zero) {
                next = self.next_segment_in_use(span.segment + 1)?.max(next);
            }
        }
        Ok(None)
    }

    /// The first block of the first segment from `segment` on that the lower file has anything of;
    /// behind the largest block if it has none.
    pub(super) fn next_segment_in_use(&self, segment: u64) -> Result<u64, FileError> {
        let data = self.lower.next_data(self.layout.slots(segment))?;
        Ok(data.map_or(u64::MAX, |offset| {
            layout::segment_blocks(self.layout.segment_at(offset)).start
        }))
    }
}

fn says(slot: &Slot) -> Kind {
    slot.newest().map_or(Kind::Hole, |(_, half)| half.kind())
}
