//! A lower filesystem that is full, or fails; and how often it is asked.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

use super::{Fixture, contents, pattern};
use crate::native::file::FileError;
use crate::native::lower::trace::{Event, Trace};
use crate::native::{Access, NativeFile, PAGE};

/// A file whose lower file can grow no further.
fn full(size: usize) -> (Fixture, NativeFile) {
    let (mut fixture, file) = Fixture::new();
    file.write_at(0, &pattern(size, 1)).unwrap();
    file.sync().unwrap();
    drop(file);
    let bytes = fixture.bytes();
    let lower: OwnedFd = memfd_create(c"full", MFdFlags::MFD_ALLOW_SEALING).unwrap();
    fixture.lower = File::from(lower);
    fixture.restore(&bytes);
    fcntl(&fixture.lower, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_GROW)).unwrap();
    let file = fixture.open();
    (fixture, file)
}

#[test]
fn a_write_that_does_not_fit_fails_and_damages_nothing() {
    let (fixture, file) = full(10 * PAGE);
    let error = file.write_at(8 * PAGE as u64, &[7; 6 * PAGE]).unwrap_err();
    assert!(matches!(error, FileError::Io(_)), "{error}");
    assert_eq!(file.size(), 10 * PAGE as u64);
    let kept = pattern(10 * PAGE, 1);
    let check = |file: &NativeFile| {
        let read = contents(file);
        assert_eq!(read[..8 * PAGE], kept[..8 * PAGE]);
        // Of the blocks asked to be overwritten, each is the old or the new.
        for block in 8..10 {
            let range = block * PAGE..(block + 1) * PAGE;
            assert!(read[range.clone()] == kept[range.clone()] || read[range] == [7; PAGE]);
        }
    };
    check(&file);
    drop(file);
    let file = fixture.open();
    check(&file);
    file.write_at(0, b"still").unwrap();
    file.sync().unwrap();
}

#[test]
fn an_append_that_does_not_fit_leaves_the_size_as_it_was() {
    let (fixture, file) = full(10 * PAGE);
    assert!(file.append(&[7; PAGE]).is_err());
    assert!(file.truncate(20 * PAGE as u64).is_err());
    assert_eq!(contents(&file), pattern(10 * PAGE, 1));
    file.sync().unwrap();
    drop(file);
    assert_eq!(contents(&fixture.open()), pattern(10 * PAGE, 1));
}

/// Runs `operation` while the disk is full: slots are written, what lies behind `from` is not.
fn while_full<T>(
    file: &mut NativeFile,
    from: usize,
    operation: impl FnOnce(&NativeFile) -> T,
) -> T {
    let trace = Arc::new(Trace::default());
    *trace.full_from.lock().unwrap() = Some(file.layout.block(0) + from as u64);
    file.lower.trace = Some(trace);
    let done = operation(file);
    file.lower.trace = None;
    done
}

/// What the file holds: now, after a barrier, and opened anew.
fn holds(fixture: &Fixture, file: NativeFile, expected: &[u8]) {
    assert_eq!(contents(&file), expected, "before a barrier");
    file.sync().unwrap();
    assert_eq!(contents(&file), expected, "after a barrier");
    drop(file);
    let file = fixture.open();
    assert_eq!(contents(&file), expected, "opened anew");
    file.settle().unwrap();
    assert_eq!(contents(&file), expected, "settled");
}

#[test]
fn a_write_into_a_hole_that_fails_leaves_the_hole() {
    let (fixture, mut file) = Fixture::new();
    file.truncate(40 * PAGE as u64).unwrap();
    file.sync().unwrap();
    let write = |file: &NativeFile| file.write_at(28 * PAGE as u64, &[7; 4 * PAGE]);
    assert!(while_full(&mut file, 30 * PAGE, write).is_err());
    let mut expected = vec![0; 40 * PAGE];
    expected[28 * PAGE..30 * PAGE].fill(7);
    holds(&fixture, file, &expected);
}

#[test]
fn a_rewrite_that_fails_leaves_what_was_written_before_it() {
    let (fixture, mut file) = Fixture::new();
    file.write_at(0, &[2; 40 * PAGE]).unwrap();
    let write = |file: &NativeFile| file.write_at(0, &[3; 40 * PAGE]);
    assert!(while_full(&mut file, 30 * PAGE, write).is_err());
    let mut expected = vec![2; 40 * PAGE];
    expected[..30 * PAGE].fill(3);
    holds(&fixture, file, &expected);
}

/// It fails when it is written out, and until then and after that it is there.
#[test]
fn a_rewrite_of_what_is_durable_that_does_not_fit_is_kept_until_it_does() {
    let (fixture, mut file) = Fixture::new();
    file.write_at(0, &[1; 40 * PAGE]).unwrap();
    file.sync().unwrap();
    file.punch(20 * PAGE as u64, PAGE as u64).unwrap();
    let write = |file: &NativeFile| {
        file.write_at(0, &[2; 40 * PAGE]).unwrap();
        file.write_at(0, &[3; 39 * PAGE]).unwrap();
        file.sync()
    };
    let failed = while_full(&mut file, 30 * PAGE, write);
    assert!(matches!(failed, Err(FileError::Io(_))), "{failed:?}");
    let mut expected = vec![3; 40 * PAGE];
    expected[39 * PAGE..].fill(2);
    holds(&fixture, file, &expected);
}

#[test]
fn a_rewrite_of_what_is_durable_costs_a_barrier_more_once_it_is_synced() {
    let (_fixture, mut file) = Fixture::new();
    file.write_at(0, &[1; 4 * PAGE]).unwrap();
    file.sync().unwrap();
    for byte in 2..4 {
        let rewrite = |file: &NativeFile| file.write_at(0, &[byte; 4 * PAGE]).unwrap();
        assert_eq!(cost(&mut file, rewrite), (4, 0), "a half for each block");
    }
    let sync = |file: &NativeFile| file.sync().unwrap();
    assert_eq!(cost(&mut file, sync), (1, 2), "all blocks");
    assert_eq!(cost(&mut file, sync), (0, 0));
}

#[test]
fn of_a_rewrite_that_is_torn_one_block_is_damaged_and_no_other() {
    let (fixture, mut file) = Fixture::new();
    file.write_at(0, &[1; 4 * PAGE]).unwrap();
    let write = |file: &NativeFile| file.write_at(0, &[2; 4 * PAGE]);
    assert!(while_full(&mut file, PAGE + 100, write).is_err());
    let damaged = |file: &NativeFile| {
        let mut damaged = Vec::new();
        file.verify(|block| damaged.push(block), |_, _| {}).unwrap();
        damaged
    };
    assert_eq!(damaged(&file), [1]);
    file.sync().unwrap();
    drop(file);
    let file = fixture.open();
    assert_eq!(damaged(&file), [1]);
    file.write_at(PAGE as u64, &[3; PAGE]).unwrap();
    let expected = [[2; PAGE], [3; PAGE], [1; PAGE], [1; PAGE]];
    assert_eq!(contents(&file), expected.as_flattened());
}

#[test]
fn an_append_that_fails_leaves_what_was_appended_before_it() {
    let (fixture, mut file) = Fixture::new();
    file.write_at(0, &[1; 3 * PAGE]).unwrap();
    file.append(b"first line").unwrap();
    let append = |file: &NativeFile| file.append(b"second line");
    assert!(while_full(&mut file, 3 * PAGE, append).is_err());
    let expected = [&[1; 3 * PAGE], b"first line".as_slice()].concat();
    holds(&fixture, file, &expected);
}

#[test]
fn an_append_that_fails_midway_leaves_a_lower_file_as_long_as_its_size_says() {
    for (full_from, size) in [(0, 6), (10 * PAGE, 4096), (60 * PAGE, 48 * PAGE)] {
        let (fixture, mut file) = Fixture::new();
        file.append(b"line 1").unwrap();
        let append = |file: &NativeFile| file.append(&[7; 100 * PAGE]);
        assert!(while_full(&mut file, full_from, append).is_err());
        let lower_len = fixture.lower.metadata().unwrap().len();
        assert_eq!(
            crate::native::stat_size(lower_len, crate::ids::Scope::Volume),
            size as u64
        );
        let mut expected = [b"line 1".as_slice(), &[7; 48 * PAGE]].concat();
        expected.truncate(size);
        // Nothing of it is there, however the file grows.
        file.truncate(1 << 30).unwrap();
        file.truncate(100 * PAGE as u64).unwrap();
        expected.resize(100 * PAGE, 0);
        holds(&fixture, file, &expected);
    }
}

#[test]
fn a_file_that_cannot_grow_leaves_a_lower_file_as_long_as_its_size_says() {
    let (fixture, mut file) = Fixture::new();
    file.append(b"line 1").unwrap();
    file.sync().unwrap();
    let grow = |file: &NativeFile| file.truncate(200 * PAGE as u64);
    assert!(while_full(&mut file, 100 * PAGE, grow).is_err());
    let lower_len = fixture.lower.metadata().unwrap().len();
    assert_eq!(lower_len, 4096 + 6);
    file.append(b"\nline 2").unwrap();
    holds(&fixture, file, b"line 1\nline 2");
}

#[test]
fn after_a_failed_barrier_every_write_fails_until_the_file_is_opened_anew() {
    let (fixture, mut file) = Fixture::new();
    let trace = Arc::new(Trace::default());
    file.lower.trace = Some(Arc::clone(&trace));
    file.write_at(0, b"lost, maybe").unwrap();
    trace.fail.store(true, Ordering::Relaxed);
    assert!(matches!(file.sync(), Err(FileError::Io(_))));
    assert!(matches!(file.sync(), Err(FileError::Poisoned)));
    assert!(matches!(file.write_at(0, b"x"), Err(FileError::Poisoned)));
    assert!(matches!(file.truncate(0), Err(FileError::Poisoned)));
    assert_eq!(contents(&file), b"lost, maybe");
    drop(file);
    fixture.open().write_at(0, b"x").unwrap();
}

/// Lower writes and barriers of `operation`.
fn cost(file: &mut NativeFile, operation: impl FnOnce(&NativeFile)) -> (usize, usize) {
    let trace = Arc::new(Trace::default());
    file.lower.trace = Some(Arc::clone(&trace));
    operation(file);
    let events = trace.events.lock().unwrap();
    let count = |is: fn(&Event) -> bool| events.iter().filter(|event| is(event)).count();
    (
        count(|event| matches!(event, Event::Write { .. })),
        count(|event| matches!(event, Event::Barrier)),
    )
}

#[test]
fn new_data_takes_two_lower_writes_a_segment_and_no_barrier() {
    let (_fixture, mut file) = Fixture::new();
    let mebibyte = pattern(1 << 20, 1);
    // 48 + 64 + 64 + 64 + 16 blocks, and the shape.
    assert_eq!(
        cost(&mut file, |file| file.write_at(0, &mebibyte).unwrap()),
        (11, 0)
    );
    assert_eq!(
        cost(&mut file, |file| file
            .write_at(0, b"the same size")
            .unwrap()),
        (2, 0)
    );
}

#[test]
fn a_new_file_is_durable_once_it_is_synced_though_nothing_was_written_to_it() {
    let (_fixture, mut file) = Fixture::new();
    assert_eq!(cost(&mut file, |file| file.sync().unwrap()), (0, 1));
    assert_eq!(cost(&mut file, |file| file.sync().unwrap()), (0, 0));
}

#[test]
fn a_sync_waits_for_a_shape_that_may_be_on_the_disk_though_the_size_is_the_old_one_again() {
    let (_fixture, mut file) = Fixture::new();
    file.write_at(0, &[1; PAGE]).unwrap();
    file.sync().unwrap();
    // Too large a gap for hole records: nothing but shapes is written.
    file.truncate(1 << 30).unwrap();
    file.truncate(PAGE as u64).unwrap();
    assert_eq!(cost(&mut file, |file| file.sync().unwrap()).1, 1);
}

#[test]
fn an_append_and_fsync_takes_one_barrier() {
    let (_fixture, mut file) = Fixture::new();
    for _ in 0..3 {
        let append = |file: &NativeFile| {
            file.append(&[1; PAGE]).unwrap();
            file.sync().unwrap();
        };
        assert_eq!(
            cost(&mut file, append),
            (4, 1),
            "slot, block, shape, and a shape that says it is durable"
        );
    }
    assert_eq!(
        cost(&mut file, |file| file.sync().unwrap()),
        (0, 0),
        "nothing is left to do"
    );
}

#[test]
fn opening_reading_and_closing_write_nothing() {
    let (fixture, file) = Fixture::new();
    file.write_at(0, &pattern(300_000, 1)).unwrap();
    drop(file);
    let mut file = fixture.open();
    let read = |file: &NativeFile| {
        assert_eq!(contents(file), pattern(300_000, 1));
    };
    assert_eq!(cost(&mut file, read), (0, 0));
}

#[test]
fn what_is_known_to_be_durable_needs_no_barrier_to_be_written_beside() {
    let (fixture, file) = Fixture::new();
    for seed in 0..2 {
        file.write_at(0, &pattern(PAGE, seed)).unwrap();
        file.sync().unwrap();
    }
    drop(file);
    let overwrite = |file: &NativeFile| file.write_at(0, &[7; PAGE]).unwrap();
    let mut file = fixture.open();
    assert_eq!(
        cost(&mut file, overwrite),
        (1, 1),
        "who knows when it was written"
    );
    drop(file);
    let mut file = fixture.open();
    file.assume_durable();
    assert_eq!(cost(&mut file, overwrite), (1, 0));
    drop(file);
    let append = |file: &NativeFile| {
        file.append(&[7; PAGE]).unwrap();
    };
    let mut file = fixture.open();
    assert_eq!(cost(&mut file, append), (3, 1));
    assert_eq!(cost(&mut file, append), (3, 0));
    drop(file);
    let mut file = fixture.open();
    file.assume_durable();
    assert_eq!(cost(&mut file, append), (3, 0));
}

#[test]
fn a_file_of_two_gibibytes_of_segments_keeps_a_bounded_number_in_memory() {
    let (_fixture, file) = Fixture::new();
    for gap in 0..600_u64 {
        file.write_at(gap << 18, b"x").unwrap();
    }
    for gap in (0..600_u64).rev() {
        let mut out = [0];
        file.read_at(gap << 18, &mut out).unwrap();
        assert_eq!(&out, b"x");
    }
    let kept = file.read_state().segments.kept();
    assert!(kept <= 256, "{kept} segments");
}

#[test]
fn one_file_may_be_opened_for_reading_while_nothing_writes() {
    let (fixture, file) = Fixture::new();
    file.write_at(0, b"data").unwrap();
    file.sync().unwrap();
    drop(file);
    let readers: Vec<NativeFile> = (0..3)
        .map(|_| {
            NativeFile::open(
                fixture.fd(),
                &fixture.head,
                fixture.feks(),
                Access::ReadOnly,
            )
            .unwrap()
        })
        .collect();
    for reader in &readers {
        assert_eq!(contents(reader), b"data");
    }
}
