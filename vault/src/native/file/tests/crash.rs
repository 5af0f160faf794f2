//! Crashes: any part of what was written since the last barrier may be on disk, torn or whole.
//!
//! The disk does what `docs/format.md` assumes of it and no more: a block written once since the
//! last barrier is there or not; any other write may tear; nothing is in order.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;

use super::{Fixture, contents};
use crate::native::file::FileError;
use crate::native::file::read::Held;
use crate::native::layout::{Layout, PLACES, SHAPES, index_in_segment, segment_of};
use crate::native::lower::trace::{Event, Trace};
use crate::native::shape::SHAPE_LEN;
use crate::native::slot::{HALF_LEN, SLOT_LEN};
use crate::native::{NativeFile, PAGE, Part};

#[derive(Clone, Debug)]
pub(super) enum Operation {
    Write { offset: usize, len: usize },
    Truncate { size: usize },
    Punch { offset: usize, len: usize },
    Sync,
    Reopen,
}

/// Positions around the border of two segments and at the beginning.
fn position() -> impl Strategy<Value = usize> {
    prop_oneof![
        3 => (0..4_usize).prop_map(|block| block * PAGE),
        1 => 0..4 * PAGE,
        2 => (46..50_usize).prop_map(|block| block * PAGE),
        1 => 46 * PAGE..50 * PAGE,
    ]
}

fn length() -> impl Strategy<Value = usize> {
    prop_oneof![2 => (1..4_usize).prop_map(|blocks| blocks * PAGE), 1 => 1..2 * PAGE]
}

pub(super) fn operation() -> impl Strategy<Value = Operation> {
    use Operation as O;
    prop_oneof![
        6 => (position(), length()).prop_map(|(offset, len)| O::Write { offset, len }),
        2 => position().prop_map(|size| O::Truncate { size }),
        2 => (position(), length()).prop_map(|(offset, len)| O::Punch { offset, len }),
        2 => Just(O::Sync),
        1 => Just(O::Reopen),
    ]
}

/// Ways to begin that random operations seldom find.
fn beginning() -> impl Strategy<Value = Vec<Operation>> {
    use Operation as O;
    let blocks = |count| O::Write {
        offset: 0,
        len: count * PAGE,
    };
    let punch = O::Punch {
        offset: PAGE,
        len: PAGE,
    };
    prop_oneof![
        2 => Just(vec![]),
        1 => Just(vec![blocks(4), O::Sync]),
        // A block without a slot within the size of a settled shape.
        2 => Just(vec![blocks(4), punch.clone(), O::Sync]),
        1 => Just(vec![blocks(4), O::Sync, punch, O::Sync]),
        1 => Just(vec![blocks(4), O::Sync, blocks(4), O::Reopen]),
        // A block that is shortened and then shown longer.
        2 => Just(vec![blocks(4), O::Sync, O::Truncate { size: 100 }, O::Truncate { size: 4000 }]),
    ]
}

/// Everything the file has been since it was last synced.
struct History {
    now: Vec<u8>,
    /// With the number of times the file had been cut when it first had each.
    sizes: BTreeMap<usize, usize>,
    /// With the number of times the file had been cut when a block had this version.
    blocks: BTreeMap<usize, BTreeSet<(usize, [u8; PAGE])>>,
    /// The sizes it was cut to. A version from before is shown no longer than that by a size from after.
    cuts: Vec<usize>,
    /// Blocks that were there when the file was synced, and not cut off since. Of any other, a crash
    /// may leave any version it had, however it was cut (rule W6).
    durable: BTreeSet<usize>,
    /// Blocks that were written, and not cut off since: may be durable.
    present: BTreeSet<usize>,
    /// Of those, blocks punched since then: a hole record is all that is durable of them after it.
    punched: BTreeSet<usize>,
}

impl History {
    fn new() -> Self {
        Self {
            now: Vec::new(),
            sizes: BTreeMap::from([(0, 0)]),
            blocks: BTreeMap::new(),
            cuts: Vec::new(),
            durable: BTreeSet::new(),
            present: BTreeSet::new(),
            punched: BTreeSet::new(),
        }
    }

    /// Notes that a block is rewritten.
    fn rewrite(&mut self, block: usize) {
        self.present.insert(block);
        self.punched.remove(&block);
    }

    /// Notes that a block is rewritten if there is one.
    fn rewrite_part(&mut self, block: usize) {
        if self.present.contains(&block) {
            self.rewrite(block);
        }
    }

    fn block(&self, block: usize) -> [u8; PAGE] {
        let mut bytes = [0; PAGE];
        let data = self.now.get(block * PAGE..).unwrap_or_default();
        let len = data.len().min(PAGE);
        bytes[..len].copy_from_slice(&data[..len]);
        bytes
    }

    fn note(&mut self) {
        let cuts = self.cuts.len();
        self.sizes.entry(self.now.len()).or_insert(cuts);
        for block in 0..64 {
            let version = (cuts, self.block(block));
            self.blocks.entry(block).or_default().insert(version);
        }
    }

    fn synced(&mut self) {
        let present: BTreeSet<usize> = self.present.difference(&self.punched).copied().collect();
        *self = Self {
            now: core::mem::take(&mut self.now),
            durable: present.clone(),
            present,
            ..Self::new()
        };
        self.sizes.clear();
        self.note();
    }

    /// Whether the file may have been of this size with this in a block.
    fn allows(&self, block: usize, size: usize, found: &[u8]) -> bool {
        let versions = self.blocks.get(&block).into_iter().flatten();
        let shown = |(cuts, version): &(usize, [u8; PAGE])| {
            let mut shown = *version;
            let since = self.cuts.get(*cuts..self.sizes[&size]).unwrap_or_default();
            if let Some(cut) = since.iter().min().filter(|_| self.durable.contains(&block)) {
                shown[cut.saturating_sub(block * PAGE).min(PAGE)..].fill(0);
            }
            shown
        };
        found.len() <= size
            && versions
                .map(shown)
                .any(|shown| shown[..found.len()] == *found)
    }
}

/// The lower file as a crash leaves it.
pub(super) struct Disk {
    durable: Vec<u8>,
    pending: Vec<Event>,
}

impl Disk {
    pub(super) fn at(events: &[Event]) -> Self {
        let mut disk = Self {
            durable: Vec::new(),
            pending: Vec::new(),
        };
        for event in events {
            match event {
                Event::Barrier => {
                    for event in core::mem::take(&mut disk.pending) {
                        apply(&mut disk.durable, &event, 0..usize::MAX);
                    }
                }
                event => disk.pending.push(event.clone()),
            }
        }
        disk
    }

    /// All that was written, in order.
    pub(super) fn written(mut self) -> Vec<u8> {
        for event in &self.pending {
            apply(&mut self.durable, event, 0..usize::MAX);
        }
        self.durable
    }

    /// One image, as `chance` has it.
    fn crash(&self, layout: Layout, mut chance: impl FnMut(usize) -> usize) -> Vec<u8> {
        let mut image = self.durable.clone();
        let mut written = BTreeSet::new();
        for event in &self.pending {
            let Event::Write { offset, bytes } = event else {
                if chance(2) == 0 {
                    apply(&mut image, event, 0..usize::MAX);
                }
                continue;
            };
            let is_data = *offset >= layout.block(0)
                && *offset % PAGE as u64 == 0
                && (bytes.len() >= PAGE || !is_slots(layout, *offset));
            if !is_data {
                let tear = match chance(3) {
                    0 => 0..0,
                    1 => 0..usize::MAX,
                    _ => {
                        let (from, to) = (chance(bytes.len()), chance(bytes.len() + 1));
                        from.min(to)..from.max(to)
                    }
                };
                apply(&mut image, event, tear);
                continue;
            }
            for (index, page) in bytes.chunks(PAGE).enumerate() {
                let offset = offset + (index * PAGE) as u64;
                let event = Event::Write {
                    offset,
                    bytes: page.to_vec(),
                };
                let clean = written.insert(offset);
                let tear = match chance(if clean { 2 } else { 3 }) {
                    0 => 0..0,
                    1 => 0..usize::MAX,
                    _ => 0..chance(page.len()),
                };
                apply(&mut image, &event, tear);
            }
        }
        image
    }
}

fn is_slots(layout: Layout, offset: u64) -> bool {
    (layout.slots(1)..layout.slots(1) + PAGE as u64).contains(&offset)
}

/// Applies the part `of` an event.
fn apply(image: &mut Vec<u8>, event: &Event, of: core::ops::Range<usize>) {
    match event {
        Event::Write { offset, bytes } => {
            let (from, to) = (of.start.min(bytes.len()), of.end.min(bytes.len()));
            let offset = *offset as usize;
            if from < to {
                image.resize(image.len().max(offset + to), 0);
                image[offset + from..offset + to].copy_from_slice(&bytes[from..to]);
            }
        }
        Event::SetLen(len) => image.resize(*len as usize, 0),
        Event::Free { offset, len } => {
            let end = ((offset + len) as usize).min(image.len());
            if let Some(range) = image.get_mut(*offset as usize..end) {
                range.fill(0);
            }
        }
        Event::Barrier => {}
    }
}

fn run(
    fixture: &Fixture,
    file: &mut NativeFile,
    trace: &Arc<Trace>,
    history: &mut History,
    operation: &Operation,
    byte: u8,
) {
    match *operation {
        Operation::Write { offset, len } => {
            let data: Vec<u8> = (0..len).map(|at| byte ^ (at / 64) as u8).collect();
            let end = (offset + len).max(history.now.len());
            for block in offset / PAGE..(offset + len).div_ceil(PAGE) {
                history.rewrite(block);
            }
            history.now.resize(end, 0);
            history.now[offset..offset + len].copy_from_slice(&data);
            // A write is not one step: a crash may show any block of it without the others.
            history.note();
            file.write_at(offset as u64, &data).unwrap();
        }
        Operation::Truncate { size } => {
            history.rewrite_part(size / PAGE);
            if size < history.now.len() {
                history.cuts.push(size);
            }
            history.present.retain(|block| *block < size.div_ceil(PAGE));
            history.durable.retain(|block| *block < size.div_ceil(PAGE));
            history.now.resize(size, 0);
            history.note();
            file.truncate(size as u64).unwrap();
        }
        Operation::Punch { offset, len } => {
            let end = (offset + len).min(history.now.len());
            if offset < end {
                for block in [offset / PAGE, end / PAGE] {
                    history.rewrite_part(block);
                }
                let whole = offset.div_ceil(PAGE)..end / PAGE;
                history.punched.extend(whole);
                history.now[offset..end].fill(0);
            }
            history.note();
            file.punch(offset as u64, len as u64).unwrap();
        }
        Operation::Sync => {
            file.sync().unwrap();
            history.synced();
        }
        Operation::Reopen => {
            *file = fixture.open();
            file.lower.trace = Some(Arc::clone(trace));
            // What was announced went with the process: each block is what it is now or was before.
            let found = contents(file);
            for (block, found) in found.chunks(PAGE).enumerate() {
                assert!(history.allows(block, file.size() as usize, found));
            }
            history.now = found;
            history.note();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// No block is ever lost, or reads as what it was not since the last fsync; a shape always verifies; the
    /// size is one the file had.
    #[test]
    fn a_crash_loses_nothing_that_was_synced(
        beginning in beginning(),
        operations in proptest::collection::vec(operation(), 1..12),
        seed in 1..u64::MAX,
    ) {
        let (fixture, mut file) = Fixture::new();
        file.sync().unwrap();
        let trace = traced(&fixture, &mut file);
        let mut history = History::new();
        history.note();
        // xorshift64 (Marsaglia 2003): as many rolls as an image needs, all from one seed.
        let mut roll = seed;
        let mut chance = |sides: usize| {
            roll ^= roll << 13;
            roll ^= roll >> 7;
            roll ^= roll << 17;
            (roll >> 16) as usize % sides.max(1)
        };
        for (at, operation) in beginning.iter().chain(&operations).enumerate() {
            run(&fixture, &mut file, &trace, &mut history, operation, at as u8 * 16 + 1);
            let disk = Disk::at(&trace.events.lock().unwrap());
            for _ in 0..2 {
                let image = disk.crash(Layout::new(1), &mut chance);
                check(&image, &history)?;
            }
        }
        check_order(&trace.events.lock().unwrap())?;
    }
}

/// A file of three blocks, synced, and then cut to 100 bytes.
fn cut_off() -> (Fixture, NativeFile, Arc<Trace>) {
    let (fixture, mut file) = Fixture::new();
    file.write_at(0, &[b'a'; 3 * PAGE]).unwrap();
    file.sync().unwrap();
    let trace = traced(&fixture, &mut file);
    file.truncate(100).unwrap();
    (fixture, file, trace)
}

/// What is done to a file from now on. All that was done before is durable.
pub(super) fn traced(fixture: &Fixture, file: &mut NativeFile) -> Arc<Trace> {
    let trace = Arc::new(Trace::default());
    let lower = Event::Write {
        offset: 0,
        bytes: fixture.bytes(),
    };
    let mut events = trace.events.lock().unwrap();
    events.extend([lower, Event::Barrier]);
    drop(events);
    file.lower.trace = Some(Arc::clone(&trace));
    trace
}

/// Looks at what a crash leaves that keeps from the disk all since the last barrier but shapes.
fn check_cut_off(trace: &Trace, size: usize) {
    let disk = Disk::at(&trace.events.lock().unwrap());
    let mut image = disk.durable;
    for event in &disk.pending {
        if matches!(event, Event::Write { offset, .. } if (SHAPES..PLACES).contains(offset)) {
            apply(&mut image, event, 0..usize::MAX);
        }
    }
    let (crashed, file) = Fixture::new();
    drop(file);
    crashed.restore(&image);
    let file = crashed.open();
    assert_eq!(file.size(), size as u64);
    let mut found = vec![0xAA; size - 100];
    if file.read_at(100, &mut found).is_ok() {
        assert!(!found.contains(&b'a'), "it is back");
    }
}

#[test]
fn what_was_cut_off_stays_away_though_the_size_alone_reaches_the_disk() {
    for size in [4000, 2 * PAGE] {
        let (_fixture, file, trace) = cut_off();
        file.truncate(size as u64).unwrap();
        check_cut_off(&trace, size);

        let (_fixture, file, trace) = cut_off();
        file.write_at(size as u64 - 1, b"x").unwrap();
        // A block that gets longer is announced, and the size with it.
        let told = if size < PAGE { 100 } else { size };
        check_cut_off(&trace, told);
    }
}

#[test]
fn what_was_cut_off_stays_away_though_the_file_was_opened_anew() {
    let (fixture, file, trace) = cut_off();
    drop(file);
    let mut file = fixture.open();
    file.lower.trace = Some(Arc::clone(&trace));
    file.truncate(2 * PAGE as u64).unwrap();
    check_cut_off(&trace, 2 * PAGE);
}

#[test]
fn what_was_cut_off_stays_away_though_a_gap_was_cut_off_since() {
    const MEBIBYTE: u64 = 1 << 20;
    let (fixture, mut file) = Fixture::new();
    // A gap that is too large for hole records.
    file.write_at(20 * MEBIBYTE, &[b'a'; PAGE]).unwrap();
    file.sync().unwrap();
    let trace = traced(&fixture, &mut file);
    file.truncate(19 * MEBIBYTE).unwrap();
    file.truncate(MEBIBYTE).unwrap();
    file.truncate(20 * MEBIBYTE + PAGE as u64).unwrap();
    check_cut_off(&trace, 20 * (1 << 20) + PAGE);
}

/// Opens what a crash left, and goes on with it.
fn check(image: &[u8], history: &History) -> Result<(), TestCaseError> {
    let (crashed, file) = Fixture::new();
    drop(file);
    crashed.restore(image);
    let file = crashed.open();
    let size = file.size() as usize;
    prop_assert!(
        history.sizes.contains_key(&size),
        "size {} of {:?}",
        size,
        history.sizes
    );
    let found = blocks(&file, size);
    for (block, found) in found.iter().enumerate() {
        match found {
            Some(found) => {
                prop_assert!(
                    history.allows(block, size, found),
                    "block {} is stale",
                    block
                );
            }
            None => prop_assert!(false, "block {} lost", block),
        }
    }
    // Growing shows zeros, whatever the crash left behind the end.
    file.truncate((size + 3 * PAGE) as u64).unwrap();
    let mut grown = vec![0xAA; size.next_multiple_of(PAGE) - size];
    if file.read_at(size as u64, &mut grown).is_ok() {
        prop_assert!(
            grown.iter().all(|&byte| byte == 0),
            "the last block shows more"
        );
    }
    let mut grown = vec![0xAA; 2 * PAGE];
    let from = size.next_multiple_of(PAGE) as u64;
    prop_assert_eq!(file.read_at(from, &mut grown).unwrap(), grown.len());
    prop_assert!(
        grown.iter().all(|&byte| byte == 0),
        "what was behind the end came back"
    );
    // What was there stays, whatever the next shape says and however the file is settled.
    file.sync().unwrap();
    drop(file);
    let file = crashed.open();
    prop_assert!(blocks(&file, size) == found, "synced");
    file.settle().unwrap();
    drop(file);
    prop_assert!(blocks(&crashed.open(), size) == found, "settled");
    Ok(())
}

/// The blocks within `size`, or none where one is damaged.
fn blocks(file: &NativeFile, size: usize) -> Vec<Option<Vec<u8>>> {
    let read = |block: usize| {
        let mut out = vec![0; PAGE.min(size - block * PAGE)];
        match file.read_at((block * PAGE) as u64, &mut out) {
            Ok(_) => Some(out),
            Err(FileError::Integrity(Part::Block(_))) => None,
            Err(error) => panic!("{error}"),
        }
    };
    (0..size.div_ceil(PAGE)).map(read).collect()
}

/// Rule W2: what names a durable version is not written before another version is durable.
fn check_order(events: &[Event]) -> Result<(), TestCaseError> {
    let mut disk = Disk {
        durable: Vec::new(),
        pending: Vec::new(),
    };
    let mut kept = Vec::new();
    for event in events {
        match event {
            Event::Barrier => {
                for event in core::mem::take(&mut disk.pending) {
                    apply(&mut disk.durable, &event, 0..usize::MAX);
                }
                kept = cells_that_count(&disk.durable);
            }
            Event::Write { offset, bytes } => {
                let (from, to) = (*offset, offset + bytes.len() as u64);
                let touched = kept.iter().find(|cell| cell.start < to && from < cell.end);
                prop_assert!(touched.is_none(), "{:?} written too early", touched);
                disk.pending.push(event.clone());
            }
            event => disk.pending.push(event.clone()),
        }
    }
    Ok(())
}

/// The halves and the shape that a reader of this image would go by.
fn cells_that_count(image: &[u8]) -> Vec<core::ops::Range<u64>> {
    let (fixture, file) = Fixture::new();
    drop(file);
    fixture.restore(image);
    let file = fixture.open();
    let state = file.read_state();
    let shape = state.shapes.last_side().offset(SHAPES, SHAPE_LEN);
    let mut cells = Vec::new();
    cells.push(shape..shape + SHAPE_LEN as u64);
    for block in 0..state.size.div_ceil(PAGE as u64) {
        let mut plain = [0; PAGE];
        if let Ok(Held::Data(_, side) | Held::Hole(side)) = file.held(&state, block, &mut plain) {
            let index = index_in_segment(block) * SLOT_LEN;
            let slot = Layout::new(1).slots(segment_of(block)) + index as u64;
            let half = side.offset(slot, HALF_LEN);
            cells.push(half..half + HALF_LEN as u64);
        }
    }
    cells
}
