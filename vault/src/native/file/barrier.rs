//! Barriers, what they make of the marks, and the shape.

use super::super::error::FileError;
use super::super::layout::{self, SHAPES};
use super::super::lower::ShortWrite;
use super::super::octets::Side;
use super::super::shape::{SHAPE_LEN, Settled, Shape};
use super::super::slot::{HALF_LEN, Kind, SLOT_LEN, Slot};
use super::super::unsynced::Mark;
use super::super::{PAGE, PAGE_LEN};
use super::{Cut, Earlier, Health, NativeFile, State};

impl State {
    /// The shape that tells the file as it is.
    fn shape(&self) -> Shape {
        let settled = match self.unsynced.any_fresh() || self.doubtful_end > self.solid {
            false => Settled::Yes,
            true => Settled::No,
        };
        let Shape { seq, .. } = *self.shapes.last();
        let solid = self
            .solid
            .min(self.wiped_from)
            .min(layout::blocks(self.size));
        Shape {
            seq,
            size: self.size,
            solid,
            settled,
        }
    }
}

impl NativeFile {
    /// Has the lower file tell the size, for whoever looks at it next. No barrier, but for the one that
    /// a file may owe that was written before it was opened. A size that grows is told when there is
    /// nothing left that is announced, or a file whose process ends would end in zeros.
    pub(super) fn tell_size(&self, state: &mut State) -> Result<(), FileError> {
        let told = state.shapes.last().size;
        if told == state.size || (told < state.size && !state.announced.is_empty()) {
            return Ok(());
        }
        self.write_shape_if_changed(state)
    }

    pub(super) fn write_shape_if_changed(&self, state: &mut State) -> Result<(), FileError> {
        let shape = state.shape();
        if shape == *state.shapes.last() {
            return Ok(());
        }
        self.write_shape(state, shape)
    }

    pub(super) fn write_shape_again(&self, state: &mut State) -> Result<(), FileError> {
        let shape = state.shape();
        self.write_shape(state, shape)
    }

    /// Writes a shape that says *unsettled*, whatever the file is: blocks are about to be written
    /// where a settled shape vouches for what is there (rule W4).
    pub(super) fn write_unsettled_shape(&self, state: &mut State) -> Result<(), FileError> {
        let shape = Shape {
            settled: Settled::No,
            ..state.shape()
        };
        self.write_shape(state, shape)
    }

    /// Writes `shape` to the copy that does not count, numbered one more than the last.
    fn write_shape(&self, state: &mut State, shape: Shape) -> Result<(), FileError> {
        let side = match state.shapes.writable() {
            Some(side) => side,
            None => {
                self.barrier(state)?;
                state
                    .shapes
                    .writable()
                    .expect("a barrier leaves one copy to write")
            }
        };
        let shape = Shape {
            seq: state.shapes.last().seq + 1,
            ..shape
        };
        let bytes = shape.write(state.keys.shape());
        self.lower
            .write_at(side.offset(SHAPES, SHAPE_LEN), &bytes)?;
        state.shapes.wrote(shape, side);
        Ok(())
    }

    /// Tells that all that was written is durable: by a syncfs(2) that began when nobody wrote to this
    /// file any more. What [`NativeFile::sync`] would do, for the price of one barrier for many files.
    ///
    /// # Errors
    /// [`FileError::ReadOnly`], [`FileError::Poisoned`], [`FileError::Io`].
    pub fn made_durable(&self) -> Result<(), FileError> {
        let mut state = self.writable_state()?;
        self.after_barrier(&mut state)?;
        self.write_shape_if_changed(&mut state)
    }

    /// Makes all that was written durable, and does what waited for that.
    pub(super) fn barrier(&self, state: &mut State) -> Result<(), FileError> {
        self.check_health(state)?;
        if let Err(error) = self.lower.sync() {
            state.health = Health::Poisoned;
            return Err(error.into());
        }
        self.after_barrier(state)
    }

    /// Makes durable all that was written or announced.
    pub(super) fn flush(&self, state: &mut State) -> Result<(), FileError> {
        self.barrier(state)?;
        match state.unsynced.any_released() {
            true => self.barrier(state),
            false => Ok(()),
        }
    }

    /// What a barrier allows, once there has been one.
    fn after_barrier(&self, state: &mut State) -> Result<(), FileError> {
        state.shapes.synced();
        state.earlier = Earlier::Durable;
        state.wiped_from = u64::MAX;
        let marks = state.unsynced.take();
        let released = self.release(state);
        if let (Cut::From(_), true) = (state.cut, state.unsynced.is_empty()) {
            state.cut = Cut::Durable;
        }
        for (block, mark) in marks {
            match mark {
                Mark::Fresh => self.wipe_stale_hole(state, block)?,
                Mark::HoleOver => {
                    self.lower.free(self.layout.block(block), PAGE_LEN)?;
                }
                Mark::Clean | Mark::Emptied | Mark::Over | Mark::Released | Mark::Wiped => {}
            }
        }
        self.advance_solid(state)?;
        released
    }

    /// Writes what was announced: the halves that name it are durable (rule W3). What cannot be written
    /// stays announced.
    fn release(&self, state: &mut State) -> Result<(), FileError> {
        let mut result = Ok(());
        let mut next = 0;
        while let Some(run) = state.announced.run(next) {
            next = run.block + run.count as u64;
            let offset = self.layout.block(run.block);
            let written = match self.lower.write(offset, &run.sealed) {
                Ok(()) => run.count,
                Err(ShortWrite { written, error }) => {
                    result = Err(error.into());
                    written / PAGE
                }
            };
            for (nth, block) in (run.block..next).enumerate() {
                let mark = match nth < written {
                    true => Mark::Released,
                    false => Mark::Over,
                };
                state.unsynced.set(block, mark);
                if mark == Mark::Released {
                    state.announced.remove(block);
                }
            }
        }
        result
    }

    /// Zeros the hole record beside a durable block: it would speak for zeros if the block were
    /// taken away (rule W5). It was durable; the block beside it now is.
    fn wipe_stale_hole(&self, state: &mut State, block: u64) -> Result<(), FileError> {
        let segment =
            state
                .segments
                .read_mut(&self.lower, self.layout, layout::segment_of(block))?;
        let index = layout::index_in_segment(block);
        let Some(side) = stale_hole(&segment.slot(index)) else {
            return Ok(());
        };
        let mut slot = segment.slot(index);
        let offset = self.layout.slots(layout::segment_of(block)) + (index * SLOT_LEN) as u64;
        self.lower
            .write_at(side.offset(offset, HALF_LEN), &[0; HALF_LEN])?;
        *side.of_mut(&mut slot.0) = [0; HALF_LEN];
        segment.set_slot(index, slot);
        state.unsynced.set(block, Mark::Wiped);
        state.wiped_from = state.wiped_from.min(block);
        Ok(())
    }

    /// Counts the blocks that follow the solid ones and are durable, right after a barrier.
    ///
    /// Ends at the first block that has no slot: a gap too large for hole records. Ends at once in a
    /// file found unsettled, whose slots may name what never reached the disk: see
    /// [`NativeFile::settle`].
    fn advance_solid(&self, state: &mut State) -> Result<(), FileError> {
        let end = layout::blocks(state.size);
        if state.solid < state.doubtful_end {
            return Ok(());
        }
        for span in layout::spans(state.solid..end) {
            let segment = self.segment(state, span.segment)?;
            let slots = segment.slots().iter().skip(span.index());
            for (block, slot) in span.blocks().zip(slots) {
                let durable = !slot.is_zero()
                    && stale_hole(slot).is_none()
                    && matches!(state.unsynced.mark(block), Mark::Clean | Mark::Released);
                if !durable {
                    return Ok(());
                }
                state.solid = block + 1;
            }
        }
        Ok(())
    }
}

/// The half that holds a hole record older than the data in the other.
fn stale_hole(slot: &Slot) -> Option<Side> {
    match slot.newest_first() {
        [Some((_, newest)), Some((side, older))]
            if newest.kind() == Kind::Data && older.kind() == Kind::Hole =>
        {
            Some(side)
        }
        _ => None,
    }
}
