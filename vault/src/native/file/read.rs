//! Reading: few large lower reads, decrypted where they were read to.

use std::io::IoSliceMut;
use std::sync::Arc;

use super::super::error::{FileError, Part};
use super::super::layout::{self, Span};
use super::super::octets::Side;
use super::super::segment::Segment;
use super::super::slot::{Half, Kind};
use super::super::unsynced::Mark;
use super::super::{PAGE, PAGE_LEN};
use super::{NativeFile, State};

/// Bytes read at once: what FUSE asks for at most, so that a request is one lower read.
const READ_LEN: usize = 1 << 20;

/// What a block holds.
pub(super) enum Held {
    /// So many bytes, and zeros behind them; named by this half.
    Data(usize, Side),
    /// Zeros that a hole record vouches for.
    Hole(Side),
    /// Zeros: nothing was ever written, or a crash kept it from the disk.
    Nothing,
}

impl NativeFile {
    /// Reads up to the end of `out` or of the file, whichever is first, and returns how much.
    ///
    /// # Errors
    /// [`FileError::Integrity`] if a block was changed below: `out` then holds no plaintext.
    /// [`FileError::Io`].
    pub fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<usize, FileError> {
        let state = self.read_state();
        let within = state.size.saturating_sub(offset);
        let len = usize::try_from(within).map_or(out.len(), |within| within.min(out.len()));
        let (out, _) = out.split_at_mut(len);
        self.read_within(&state, offset, out)
            .inspect_err(|_| out.fill(0))?;
        Ok(len)
    }

    /// Reads a range that lies within the size.
    pub(super) fn read_within(
        &self,
        state: &State,
        offset: u64,
        out: &mut [u8],
    ) -> Result<(), FileError> {
        let skip = (offset % PAGE_LEN) as usize;
        let (first, rest) = out.split_at_mut(match skip {
            0 => 0,
            _ => out.len().min(PAGE - skip),
        });
        if !first.is_empty() {
            self.read_part(state, offset / PAGE_LEN, skip, first)?;
        }
        let block = offset.div_ceil(PAGE_LEN);
        let end = offset + (first.len() + rest.len()) as u64;
        // The last block of the file is whole if all that is within the size is wanted.
        let part = if end < state.size {
            rest.len() % PAGE
        } else {
            0
        };
        let (whole, last) = rest.split_at_mut(rest.len() - part);
        let mut next = block;
        for piece in whole.chunks_mut(READ_LEN) {
            self.read_blocks(state, next, piece)?;
            next += (READ_LEN / PAGE) as u64;
        }
        if !last.is_empty() {
            self.read_part(state, end / PAGE_LEN, 0, last)?;
        }
        Ok(())
    }

    /// Reads a part of one block.
    fn read_part(
        &self,
        state: &State,
        block: u64,
        skip: usize,
        out: &mut [u8],
    ) -> Result<(), FileError> {
        let mut plain = [0; PAGE];
        self.read_block(state, block, &mut plain)?;
        let wanted = plain.iter().skip(skip);
        for (byte, plain) in out.iter_mut().zip(wanted) {
            *byte = *plain;
        }
        Ok(())
    }

    /// Reads whole blocks, the last of which may be short where the file ends.
    ///
    /// One lower read takes in all of them and the slot pages between; the ciphertext goes to `out`
    /// and is decrypted there.
    fn read_blocks(&self, state: &State, first: u64, out: &mut [u8]) -> Result<(), FileError> {
        let blocks = first..first + out.len().div_ceil(PAGE) as u64;
        let mut slot_pages = self.read_sealed(state, blocks.start, out)?.into_iter();
        let mut rest = out;
        for span in layout::spans(blocks) {
            let read = match span.index() {
                0 => slot_pages.next().flatten(),
                _ => None,
            };
            let segment = match (state.segments.find(span.segment), read) {
                (Some(segment), _) => segment,
                (None, Some(page)) => state
                    .segments
                    .keep(Segment::parse(span.segment, page.as_slice())),
                (None, None) => self.segment(state, span.segment)?,
            };
            let (piece, after) = rest.split_at_mut(rest.len().min(span.count * PAGE));
            rest = after;
            for (block, text) in span.blocks().zip(piece.chunks_mut(PAGE)) {
                self.decrypt(state, &segment, block, text)?;
            }
        }
        Ok(())
    }

    /// Reads the ciphertext of the blocks from `first` on into `out`. Gives the slot pages of the
    /// segments that begin within them, where they were read.
    fn read_sealed(
        &self,
        state: &State,
        first: u64,
        out: &mut [u8],
    ) -> Result<Vec<Option<Box<[u8; PAGE]>>>, FileError> {
        let blocks = first..first + out.len().div_ceil(PAGE) as u64;
        let mut spans = layout::spans(blocks);
        let Some(Span { segment, .. }) = spans.next() else {
            return Ok(Vec::new());
        };
        let begins_segment = first == layout::segment_blocks(segment).start;
        let slots_first = begins_segment && segment > 0 && state.segments.find(segment).is_none();
        let offset = if slots_first {
            self.layout.slots(segment)
        } else {
            self.layout.block(first)
        };

        let head_len = (layout::segment_blocks(segment).end - first) as usize * PAGE;
        if !slots_first && out.len() <= head_len {
            self.lower
                .read_pieces(offset, &mut [IoSliceMut::new(out)])?;
            return Ok(if begins_segment {
                vec![None]
            } else {
                Vec::new()
            });
        }
        let mut slot_pages = Vec::new();
        if slots_first {
            slot_pages.push(Some(Box::new([0; PAGE])));
        } else if begins_segment {
            slot_pages.push(None);
        }
        slot_pages.extend(spans.map(|_| Some(Box::new([0; PAGE]))));

        let mut pieces = Vec::with_capacity(2 * slot_pages.len() + 1);
        let mut pages = slot_pages.iter_mut().flatten();
        if slots_first {
            pieces.extend(
                pages
                    .next()
                    .map(|page| IoSliceMut::new(page.as_mut_slice())),
            );
        }
        let (head, mut rest) = out.split_at_mut(out.len().min(head_len));
        pieces.push(IoSliceMut::new(head));
        for page in pages {
            pieces.push(IoSliceMut::new(page.as_mut_slice()));
            let len = rest.len().min(layout::SEGMENT_BLOCKS as usize * PAGE);
            let (segment, after) = rest.split_at_mut(len);
            pieces.push(IoSliceMut::new(segment));
            rest = after;
        }
        self.lower.read_pieces(offset, &mut pieces)?;
        Ok(slot_pages)
    }

    /// Decrypts a block in place; `text` is what of it lies within the size.
    fn decrypt(
        &self,
        state: &State,
        segment: &Segment,
        block: u64,
        text: &mut [u8],
    ) -> Result<(), FileError> {
        let index = layout::index_in_segment(block);
        if let Some(sealed) = state.announced.get(block) {
            let len = sealed.len().min(text.len());
            let ((text, _), (sealed, _)) = (text.split_at_mut(len), sealed.split_at(len));
            text.copy_from_slice(sealed);
        }
        if let Some((_, half)) = segment.slot(index).newest()
            && half.kind() == Kind::Data
            && let Some((text, zeros)) = text.split_at_mut_checked(usize::from(half.length))
            && segment.open(&state.keys, block, &half, text).is_ok()
        {
            zeros.fill(0);
            segment.note_verified(index);
            return Ok(());
        }
        // No block, a longer one than the size shows, or a version that does not verify.
        let mut plain = [0; PAGE];
        self.read_block(state, block, &mut plain)?;
        let (plain, _) = plain.split_at(text.len());
        text.copy_from_slice(plain);
        Ok(())
    }

    /// Reads one block, zeros behind what it holds or what the size shows of it.
    pub(super) fn read_block(
        &self,
        state: &State,
        block: u64,
        plain: &mut [u8; PAGE],
    ) -> Result<(), FileError> {
        let len = match self.held(state, block, plain)? {
            Held::Data(len, _) => len.min(layout::len_within(state.size, block)),
            Held::Hole(_) | Held::Nothing => 0,
        };
        let (_, zeros) = plain.split_at_mut(len);
        zeros.fill(0);
        Ok(())
    }

    /// What a block holds, by the reader's rules: the newest half that verifies; else the other;
    /// else zeros where nothing durable can have been; else damage.
    ///
    /// `plain` begins with the block's data if there is any, and is of no use otherwise.
    pub(super) fn held(
        &self,
        state: &State,
        block: u64,
        plain: &mut [u8; PAGE],
    ) -> Result<Held, FileError> {
        let segment = self.segment(state, layout::segment_of(block))?;
        let index = layout::index_in_segment(block);
        let slot = segment.slot(index);
        if !slot.is_zero() {
            let mut sealed = [0; PAGE];
            let read = self.lower.read_at(self.layout.block(block), &mut sealed)?;
            let (sealed, _) = sealed.split_at(read);
            let announced = state.announced.get(block);
            for (age, (side, half)) in slot.newest_first().into_iter().flatten().enumerate() {
                let sealed = announced.filter(|_| age == 0).unwrap_or(sealed);
                let Ok(len) = segment.open_into(&state.keys, block, &half, sealed, plain) else {
                    continue;
                };
                if age == 0 {
                    segment.note_verified(index);
                }
                return Ok(match half.kind() {
                    Kind::Data => Held::Data(len, side),
                    Kind::Hole => Held::Hole(side),
                });
            }
        }
        if state.may_be_missing(block, slot.is_zero()) {
            return Ok(Held::Nothing);
        }
        Err(FileError::Integrity(Part::Block(block)))
    }

    /// The half that names what a block holds now, and so is not to be written.
    pub(super) fn current_half(
        &self,
        state: &State,
        segment: &Segment,
        block: u64,
        mark: Mark,
    ) -> Result<Option<(Side, Half)>, FileError> {
        let index = layout::index_in_segment(block);
        let [newest, other] = segment.slot(index).newest_first();
        // With one half there is no choice to make; which of two counts, only the block can tell.
        if other.is_none() || segment.is_verified(index) || mark != Mark::Clean {
            return Ok(newest);
        }
        match self.held(state, block, &mut [0; PAGE]) {
            Ok(Held::Data(_, side) | Held::Hole(side)) => Ok([newest, other]
                .into_iter()
                .flatten()
                .find(|(found, _)| *found == side)),
            Ok(Held::Nothing) | Err(FileError::Integrity(_)) => Ok(newest),
            Err(error) => Err(error),
        }
    }

    pub(super) fn segment(&self, state: &State, number: u64) -> Result<Arc<Segment>, FileError> {
        Ok(state.segments.read(&self.lower, self.layout, number)?)
    }
}

impl State {
    /// Whether a block of which no half verifies reads as zeros rather than as damage.
    fn may_be_missing(&self, block: u64, never_written: bool) -> bool {
        if block < self.solid {
            return false;
        }
        match self.unsynced.mark(block) {
            // What was written since the file was opened is there, or someone took it away.
            Mark::Fresh | Mark::Over | Mark::Released | Mark::HoleOver | Mark::Wiped => false,
            Mark::Emptied => true,
            Mark::Clean => never_written || block < self.doubtful_end,
        }
    }
}
