//! What was written since the last barrier, block by block.

use std::collections::BTreeMap;

use super::layout::{SEGMENT_BLOCKS, Span, index_in_segment, segment_blocks, segment_of};

/// How a block differs from what a crash would leave of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    /// Not at all: its newest half names a durable version, or it has none.
    Clean,
    /// Written where nothing was durable, or a hole record that its other half still has.
    Fresh,
    /// Slot zeroed where nothing was durable.
    Emptied,
    /// Announced: its newest half is of a version that is not written yet, and its other half names the
    /// durable one.
    Over,
    /// Released: both halves are durable, and the version that the newest names was written over the other
    /// since the last barrier.
    Released,
    /// A hole record over a durable version, which its other half names; the block is still there.
    HoleOver,
    /// Durable; the hole record in its other half was wiped.
    Wiped,
}

impl Mark {
    /// Whether a crash may leave neither what was there nor what is there now.
    fn is_fresh(self) -> bool {
        matches!(self, Self::Fresh | Self::Emptied)
    }
}

/// Marks of the blocks of one segment.
pub(super) type SegmentMarks = [Mark; SEGMENT_BLOCKS as usize];

const ALL_CLEAN: SegmentMarks = [Mark::Clean; SEGMENT_BLOCKS as usize];

/// Marks of the blocks that are not [`Mark::Clean`].
#[derive(Debug, Default)]
pub(super) struct Unsynced {
    segments: BTreeMap<u64, SegmentMarks>,
    fresh: usize,
    released: usize,
}

impl Unsynced {
    pub(super) fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// Number of segments that have marks: each takes some hundred bytes.
    pub(super) fn segments(&self) -> usize {
        self.segments.len()
    }

    /// Whether any block is fresh, so that a shape has to say *unsettled* (rule W7).
    pub(super) fn any_fresh(&self) -> bool {
        self.fresh > 0
    }

    /// Whether any block was written over its durable version since the last barrier.
    pub(super) fn any_released(&self) -> bool {
        self.released > 0
    }

    pub(super) fn mark(&self, block: u64) -> Mark {
        let marks = self.of_segment(segment_of(block));
        marks
            .get(index_in_segment(block))
            .copied()
            .unwrap_or(Mark::Clean)
    }

    /// Marks of all blocks of a segment.
    pub(super) fn of_segment(&self, segment: u64) -> &SegmentMarks {
        self.segments.get(&segment).unwrap_or(&ALL_CLEAN)
    }

    pub(super) fn set(&mut self, block: u64, mark: Mark) {
        let span = Span {
            segment: segment_of(block),
            first: block,
            count: 1,
        };
        self.set_span(span, &[mark]);
    }

    /// Sets the marks of blocks that follow each other.
    pub(super) fn set_span(&mut self, span: Span, marks: &[Mark]) {
        let places = self.segments.entry(span.segment).or_insert(ALL_CLEAN);
        for (place, mark) in places.iter_mut().skip(span.index()).zip(marks) {
            self.fresh -= usize::from(place.is_fresh());
            self.fresh += usize::from(mark.is_fresh());
            self.released -= usize::from(*place == Mark::Released);
            self.released += usize::from(*mark == Mark::Released);
            *place = *mark;
        }
    }

    /// Forgets the marks of blocks from `first` on.
    pub(super) fn forget_from(&mut self, first: u64) {
        let segment = segment_of(first);
        for block in first..segment_blocks(segment).end {
            if self.mark(block) != Mark::Clean {
                self.set(block, Mark::Clean);
            }
        }
        for marks in self.segments.split_off(&(segment + 1)).into_values() {
            self.fresh -= marks.iter().filter(|mark| mark.is_fresh()).count();
            let released = marks.iter().filter(|mark| **mark == Mark::Released);
            self.released -= released.count();
        }
    }

    /// Takes all marks, for a barrier has made everything durable.
    pub(super) fn take(&mut self) -> impl Iterator<Item = (u64, Mark)> + use<> {
        let segments = core::mem::take(self).segments;
        segments.into_iter().flat_map(|(segment, marks)| {
            segment_blocks(segment)
                .zip(marks)
                .filter(|(_, mark)| *mark != Mark::Clean)
        })
    }
}
