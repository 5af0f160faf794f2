//! Writing: what of a file's blocks is to hold what.

use super::super::error::FileError;
use super::super::layout::{self, Span};
use super::super::{PAGE, PAGE_LEN};
use super::version::{Content, Nonces};
use super::{NativeFile, State, checked_end};

/// Zeros between the old end and what is written are taken in by hole records if no more blocks
/// than these, 16 MiB; they take 16 KiB a MiB of zeros below. Behind a larger gap `solid` stays.
const MAX_HOLE_RECORDS: u64 = 4096;
/// Segments with marks, 16 GiB of data, after which a write begins with a barrier to drop them.
const MAX_MARKED: usize = 1 << 16;

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
        if state.unsynced.segments() > MAX_MARKED || state.announced.is_full() {
            self.barrier(state)?;
        }
        self.reach(state, end)?;
        let written = self.write_reached(state, offset, data);
        if written.is_err() && end > state.size {
            // Why the write failed is what counts.
            let _ = self.cut_back(state);
        }
        written
    }

    /// Writes data up to an end that is prepared for.
    fn write_reached(&self, state: &mut State, offset: u64, data: &[u8]) -> Result<(), FileError> {
        let end = offset + data.len() as u64;
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
}
