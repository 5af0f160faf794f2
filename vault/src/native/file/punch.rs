//! Punching holes.

use super::super::error::FileError;
use super::super::layout::{self, Span};
use super::super::slot::{HALF_LEN, Kind, SLOT_LEN, Slot};
use super::super::unsynced::Mark;
use super::super::{PAGE, PAGE_LEN};
use super::version::is_hole;
use super::{NativeFile, State};

impl NativeFile {
    /// Turns a range into zeros and gives back the space of whole blocks. The size stays.
    ///
    /// # Errors
    /// As [`NativeFile::write_at`].
    pub fn punch(&self, offset: u64, len: u64) -> Result<(), FileError> {
        let mut state = self.writable_state()?;
        let end = offset.saturating_add(len).min(state.size);
        if offset >= end {
            return Ok(());
        }
        let (first, last) = (offset / PAGE_LEN, end / PAGE_LEN);
        let whole_first = offset.div_ceil(PAGE_LEN);
        let whole_end = if end == state.size {
            layout::blocks(end)
        } else {
            last
        };
        if whole_first > first {
            let upto = end.min(layout::start(whole_first));
            self.zero_part(&mut state, first, offset, upto)?;
        }
        self.punch_blocks(&mut state, whole_first..whole_end)?;
        if last >= whole_end.max(whole_first) && end > layout::start(last) {
            self.zero_part(&mut state, last, layout::start(last), end)?;
        }
        Ok(())
    }

    /// Writes zeros into a part of one block that holds data there.
    fn zero_part(
        &self,
        state: &mut State,
        block: u64,
        from: u64,
        to: u64,
    ) -> Result<(), FileError> {
        let mut plain = [0; PAGE];
        self.read_block(state, block, &mut plain)?;
        let skip = (from - layout::start(block)) as usize;
        let len = (to - from) as usize;
        if plain.iter().skip(skip).take(len).all(|&byte| byte == 0) {
            return Ok(());
        }
        let (zeros, _) = [0; PAGE].split_at(len);
        self.write_locked(state, from, zeros)
    }

    fn punch_blocks(
        &self,
        state: &mut State,
        blocks: core::ops::Range<u64>,
    ) -> Result<(), FileError> {
        let mut next = blocks.start;
        while let Some(span) = layout::spans(next..blocks.end).next() {
            next = span.blocks().end;
            let segment = self.segment(state, span.segment)?;
            let used = segment.slots().iter().skip(span.index()).take(span.count);
            if used.clone().all(Slot::is_zero) {
                // A segment never written to may be one of millions.
                next = self.next_segment_in_use(span.segment + 1)?.max(next);
                continue;
            }
            let used: Vec<Slot> = used.copied().collect();
            drop(segment);
            for (block, slot) in span.blocks().zip(used) {
                self.punch_block(
                    state,
                    Span {
                        first: block,
                        count: 1,
                        ..span
                    },
                    slot,
                )?;
            }
        }
        Ok(())
    }

    /// Turns one block into a hole (rule W5).
    fn punch_block(&self, state: &mut State, span: Span, slot: Slot) -> Result<(), FileError> {
        let block = span.first;
        let Some((side, newest)) = slot.newest() else {
            return Ok(());
        };
        let mark = state.unsynced.mark(block);
        match mark {
            Mark::Fresh if newest.kind() == Kind::Hole => Ok(()),
            Mark::Fresh => {
                // Nothing is durable, or a hole record in the other half: that counts again.
                let index = span.index();
                let offset = self.layout.slots(span.segment) + (index * SLOT_LEN) as u64;
                let mut slot = slot;
                if is_hole(&slot, side.other()) {
                    let half = side.offset(offset, HALF_LEN);
                    self.lower.write_at(half, &[0; HALF_LEN])?;
                    *side.of_mut(&mut slot.0) = [0; HALF_LEN];
                } else {
                    self.lower.write_at(offset, &[0; SLOT_LEN])?;
                    slot = Slot::ZERO;
                }
                let segment = state
                    .segments
                    .read_mut(&self.lower, self.layout, span.segment)?;
                segment.set_slot(index, slot);
                let mark = if slot.is_zero() {
                    Mark::Emptied
                } else {
                    Mark::Clean
                };
                state.unsynced.set(block, mark);
                Ok(self.lower.free(self.layout.block(block), PAGE_LEN)?)
            }
            Mark::HoleOver | Mark::Emptied => Ok(()),
            Mark::Clean if self.is_hole(state, block)? => Ok(()),
            Mark::Clean | Mark::Over | Mark::Released | Mark::Wiped => self.put_holes(state, span),
        }
    }

    fn is_hole(&self, state: &State, block: u64) -> Result<bool, FileError> {
        let segment = self.segment(state, layout::segment_of(block))?;
        let half = self.current_half(state, &segment, block, Mark::Clean)?;
        Ok(half.is_none_or(|(_, half)| half.kind() == Kind::Hole))
    }
}
