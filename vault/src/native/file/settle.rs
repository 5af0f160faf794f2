//! Reading all of a file: to tell what is damaged, and to settle what a crash left in doubt.

use super::super::PAGE;
use super::super::error::FileError;
use super::super::layout;
use super::super::slot::{HALF_LEN, SLOT_LEN, Slot};
use super::super::unsynced::Mark;
use super::read::Held;
use super::{NativeFile, State};

/// Blocks that are read at once, while writers wait.
const VERIFIED_AT_ONCE: usize = 256;

impl NativeFile {
    /// Decrypts every block and calls `damaged` with the index of each that does not verify.
    ///
    /// `progress` is called now and then with the number of blocks done and to do.
    ///
    /// # Errors
    /// [`FileError::Io`].
    pub fn verify(
        &self,
        mut damaged: impl FnMut(u64),
        mut progress: impl FnMut(u64, u64),
    ) -> Result<(), FileError> {
        let mut plain = vec![0; VERIFIED_AT_ONCE * PAGE];
        let mut done = 0;
        loop {
            // Others get at the file between two of these.
            let state = self.read_state();
            let end = layout::blocks(state.size);
            let done_before = done;
            done = self.next_to_verify(&state, done)?.min(end);
            if done >= end {
                if done > done_before {
                    progress(done, end);
                }
                return Ok(());
            }
            let next = end.min(done + VERIFIED_AT_ONCE as u64);
            let len = (state.size.min(layout::start(next)) - layout::start(done)) as usize;
            let (plain, _) = plain.split_at_mut(len);
            match self.read_within(&state, layout::start(done), plain) {
                Ok(()) => {}
                Err(FileError::Integrity(_)) => {
                    self.find_damage(&state, done..next, &mut damaged)?;
                }
                Err(error) => return Err(error),
            }
            done = next;
            progress(done, end);
        }
    }

    /// The first block from `block` on that is not in a segment of nothing but zeros that nothing vouches
    /// for: there may be millions of those.
    fn next_to_verify(&self, state: &State, block: u64) -> Result<u64, FileError> {
        let number = layout::segment_of(block);
        if block < state.solid || block >= layout::blocks(state.size) {
            return Ok(block);
        }
        match self
            .segment(state, number)?
            .slots()
            .iter()
            .all(Slot::is_zero)
        {
            true => Ok(self.next_segment_in_use(number + 1)?.max(block)),
            false => Ok(block),
        }
    }

    /// Reads blocks one by one.
    fn find_damage(
        &self,
        state: &State,
        blocks: core::ops::Range<u64>,
        damaged: &mut impl FnMut(u64),
    ) -> Result<(), FileError> {
        let mut plain = [0; PAGE];
        for block in blocks {
            match self.held(state, block, &mut plain) {
                Ok(_) => {}
                Err(FileError::Integrity(_)) => damaged(block),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Settles a file found unsettled: after a barrier, reads every block in doubt, and zeros the
    /// halves that name what never reached the disk. The next shape then vouches for all of it.
    ///
    /// Reads as much of the file as is in doubt: for a background thread. A file not in doubt is
    /// left alone.
    ///
    /// # Errors
    /// [`FileError::ReadOnly`], [`FileError::Poisoned`], [`FileError::Io`].
    pub fn settle(&self) -> Result<(), FileError> {
        let mut state = self.writable_state()?;
        if state.doubtful_end <= state.solid {
            return Ok(());
        }
        self.barrier(&mut state)?;
        for block in state.solid..state.doubtful_end {
            self.settle_block(&mut state, block)?;
        }
        state.doubtful_end = state.solid;
        self.barrier(&mut state)?;
        self.write_shape_if_changed(&mut state)
    }

    fn settle_block(&self, state: &mut State, block: u64) -> Result<(), FileError> {
        let counts = match self.held(state, block, &mut [0; PAGE])? {
            Held::Data(_, side) | Held::Hole(side) => Some(side),
            Held::Nothing => None,
        };
        let number = layout::segment_of(block);
        let index = layout::index_in_segment(block);
        let segment = state.segments.read_mut(&self.lower, self.layout, number)?;
        let mut slot = segment.slot(index);
        let [newest, other] = slot.newest_first();
        let leftovers = [newest, other]
            .into_iter()
            .flatten()
            .take_while(|(side, _)| {
                // What is older than the half that counts is of no harm: it is not looked at.
                counts != Some(*side)
            });
        let mut changed = false;
        let offset = self.layout.slots(number) + (index * SLOT_LEN) as u64;
        for (side, _) in leftovers {
            self.lower
                .write_at(side.offset(offset, HALF_LEN), &[0; HALF_LEN])?;
            *side.of_mut(&mut slot.0) = [0; HALF_LEN];
            changed = true;
        }
        if changed {
            segment.set_slot(index, slot);
            let mark = if slot.is_zero() {
                Mark::Emptied
            } else {
                Mark::Wiped
            };
            state.unsynced.set(block, mark);
        }
        Ok(())
    }
}
