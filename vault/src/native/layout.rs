//! Where everything lies in a native file.
//!
//! ```text
//! file    := header page(s) | blocks 0..47 | segment | segment | …
//! segment := slot page (64 slots of 64 B) | 64 blocks of 4096 B
//! ```
//!
//! Segment 0 is the one whose slots are in header page 0, so that every block belongs to a segment.
//! Blocks are stored unpadded at 4096-aligned offsets; the lower file ends where its last block does.

use core::ops::Range;

use super::PAGE;

const PAGE_LEN: u64 = PAGE as u64;

/// Blocks whose slots are in header page 0.
pub(super) const HEADER_BLOCKS: u64 = 48;
/// Blocks after each slot page.
pub(super) const SEGMENT_BLOCKS: u64 = 64;
/// Bytes of a segment with its slot page.
const SEGMENT_LEN: u64 = (1 + SEGMENT_BLOCKS) * PAGE_LEN;

/// Offset of key record A, of 192 bytes; B follows.
pub(super) const KEY_RECORDS: usize = 64;
/// Offset of shape A, of 128 bytes; B follows.
pub(super) const SHAPES: u64 = 512;
/// Offset of place A, of 128 bytes; B follows.
pub(super) const PLACES: u64 = 768;
/// Offset of the slots of segment 0.
pub(super) const HEADER_SLOTS: u64 = 1024;

/// The largest size a file can have: its lower length still fits an `off_t`.
pub const MAX_SIZE: u64 = 1 << 62;

/// Number of blocks that hold `size` bytes.
pub(super) fn blocks(size: u64) -> u64 {
    size.div_ceil(PAGE_LEN)
}

/// Where block `block` begins in the upper file.
pub(super) fn start(block: u64) -> u64 {
    block * PAGE_LEN
}

/// How many bytes of block `block` lie within `size`.
pub(super) fn len_within(size: u64, block: u64) -> usize {
    size.saturating_sub(start(block)).min(PAGE_LEN) as usize
}

/// The segment of a block.
pub(super) fn segment_of(block: u64) -> u64 {
    match block.checked_sub(HEADER_BLOCKS) {
        None => 0,
        Some(after) => after / SEGMENT_BLOCKS + 1,
    }
}

/// The blocks of a segment.
pub(super) fn segment_blocks(segment: u64) -> Range<u64> {
    match segment.checked_sub(1) {
        None => 0..HEADER_BLOCKS,
        Some(after) => {
            let first = HEADER_BLOCKS + after * SEGMENT_BLOCKS;
            first..first + SEGMENT_BLOCKS
        }
    }
}

/// Place of a block among those of its segment.
pub(super) fn index_in_segment(block: u64) -> usize {
    (block - segment_blocks(segment_of(block)).start) as usize
}

/// Blocks of one segment that follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) segment: u64,
    pub(super) first: u64,
    pub(super) count: usize,
}

impl Span {
    /// Index of the first block within its segment.
    pub(super) fn index(&self) -> usize {
        index_in_segment(self.first)
    }

    pub(super) fn blocks(&self) -> Range<u64> {
        self.first..self.first + self.count as u64
    }
}

/// Cuts a range of blocks where segments end.
pub(super) fn spans(blocks: Range<u64>) -> impl Iterator<Item = Span> {
    let mut next = blocks.start;
    core::iter::from_fn(move || {
        if next >= blocks.end {
            return None;
        }
        let segment = segment_of(next);
        let end = segment_blocks(segment).end.min(blocks.end);
        let span = Span {
            segment,
            first: next,
            count: (end - next) as usize,
        };
        next = end;
        Some(span)
    })
}

/// Offsets in a lower file with a given number of header pages.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    header_len: u64,
}

impl Layout {
    pub(super) fn new(header_pages: u8) -> Self {
        Self {
            header_len: u64::from(header_pages) * PAGE_LEN,
        }
    }

    /// Where the slots of a segment begin.
    pub(super) fn slots(self, segment: u64) -> u64 {
        match segment.checked_sub(1) {
            None => HEADER_SLOTS,
            Some(after) => self.header_len + HEADER_BLOCKS * PAGE_LEN + after * SEGMENT_LEN,
        }
    }

    /// Where the ciphertext of a block begins.
    pub(super) fn block(self, block: u64) -> u64 {
        match block.checked_sub(HEADER_BLOCKS) {
            None => self.header_len + block * PAGE_LEN,
            Some(after) => self.slots(segment_of(block)) + (1 + after % SEGMENT_BLOCKS) * PAGE_LEN,
        }
    }

    /// Length of the lower file of an upper file of `size` bytes.
    pub(super) fn lower_len(self, size: u64) -> u64 {
        match size.checked_sub(1) {
            None => self.header_len,
            Some(last_byte) => {
                let block = last_byte / PAGE_LEN;
                self.block(block) + len_within(size, block) as u64
            }
        }
    }

    /// Size of the upper file of a lower file of `lower_len` bytes.
    pub(super) fn size(self, lower_len: u64) -> u64 {
        let data = lower_len.saturating_sub(self.header_len);
        match data.checked_sub(HEADER_BLOCKS * PAGE_LEN) {
            None => data,
            Some(after) => {
                let whole = HEADER_BLOCKS + after / SEGMENT_LEN * SEGMENT_BLOCKS;
                start(whole) + (after % SEGMENT_LEN).saturating_sub(PAGE_LEN)
            }
        }
    }

    /// The segment that a lower offset behind the header lies in.
    pub(super) fn segment_at(self, lower_offset: u64) -> u64 {
        let first = self.slots(1);
        lower_offset
            .checked_sub(first)
            .map_or(0, |after| after / SEGMENT_LEN + 1)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_lower_file_is_laid_out_as_the_format_says() {
        let layout = Layout::new(1);
        assert_eq!(layout.block(0), 4096);
        assert_eq!(layout.block(47), 48 * 4096);
        assert_eq!(layout.slots(1), 49 * 4096);
        assert_eq!(layout.block(48), 50 * 4096);
        assert_eq!(layout.block(111), 113 * 4096);
        assert_eq!(layout.slots(2), 114 * 4096);
        assert_eq!(layout.block(112), 115 * 4096);
        assert_eq!(Layout::new(2).block(48), 51 * 4096);
        assert_eq!(layout.lower_len(0), 4096);
        assert_eq!(layout.lower_len(1), 4097);
        assert_eq!(layout.lower_len(4097), 8193);
        assert_eq!(layout.lower_len(48 * 4096), 49 * 4096);
        assert_eq!(layout.lower_len(48 * 4096 + 1), 50 * 4096 + 1);
    }

    proptest! {
        #[test]
        fn the_size_follows_from_the_lower_length(size in 0..=MAX_SIZE, pages in 1..=2_u8) {
            let layout = Layout::new(pages);
            prop_assert_eq!(layout.size(layout.lower_len(size)), size);
            prop_assert!(layout.lower_len(size) <= i64::MAX as u64);
        }

        #[test]
        fn no_two_cells_overlap(block in 0_u64..1 << 40, pages in 1..=2_u8) {
            let layout = Layout::new(pages);
            let segment = segment_of(block);
            prop_assert!(segment_blocks(segment).contains(&block));
            prop_assert_eq!(layout.segment_at(layout.block(block)), segment);
            let next = layout.block(block + 1);
            if segment_of(block + 1) == segment {
                prop_assert_eq!(next, layout.block(block) + 4096);
            } else {
                prop_assert_eq!(layout.slots(segment + 1), layout.block(block) + 4096);
                prop_assert_eq!(next, layout.block(block) + 2 * 4096);
            }
        }

        #[test]
        fn spans_cover_a_range_once_and_stay_within_segments(first in 0_u64..500, count in 0_u64..500) {
            let mut next = first;
            for span in spans(first..first + count) {
                prop_assert_eq!(span.first, next);
                prop_assert!(span.count > 0);
                prop_assert_eq!(segment_of(span.blocks().end - 1), span.segment);
                next = span.blocks().end;
            }
            prop_assert_eq!(next, first + count);
        }
    }
}
