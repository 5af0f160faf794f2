//! Kills: all that was written is there, up to some system call.

use std::sync::Arc;

use proptest::prelude::*;

use super::crash::{Disk, Operation, operation, traced};
use super::{Fixture, contents};
use crate::native::lower::trace::Event;
use crate::native::{NativeFile, PAGE};

/// What is done to the file, and to a plain vector of octets.
fn run(file: &NativeFile, plain: &mut Vec<u8>, operation: &Operation, byte: u8) {
    match *operation {
        Operation::Write { offset, len } => {
            let data: Vec<u8> = (0..len).map(|at| byte ^ (at / 64) as u8).collect();
            plain.resize((offset + len).max(plain.len()), 0);
            plain[offset..offset + len].copy_from_slice(&data);
            file.write_at(offset as u64, &data).unwrap();
        }
        Operation::Truncate { size } => {
            plain.resize(size, 0);
            file.truncate(size as u64).unwrap();
        }
        Operation::Punch { offset, len } => {
            let end = (offset + len).min(plain.len());
            if offset < end {
                plain[offset..end].fill(0);
            }
            file.punch(offset as u64, len as u64).unwrap();
        }
        Operation::Sync => file.sync().unwrap(),
        Operation::Reopen => {}
    }
}

/// Block `block` of `plain`, with zeros behind its end.
fn block(plain: &[u8], block: usize) -> [u8; PAGE] {
    let mut bytes = [0; PAGE];
    let data = plain.get(block * PAGE..).unwrap_or_default();
    let len = data.len().min(PAGE);
    bytes[..len].copy_from_slice(&data[..len]);
    bytes
}

/// Opens what a kill left of a file that has been all of `versions`.
fn check(image: &[u8], versions: &[Vec<u8>]) -> Result<(), TestCaseError> {
    let (killed, file) = Fixture::new();
    drop(file);
    killed.restore(image);
    let file = killed.open();
    let size = file.size() as usize;
    prop_assert!(
        versions.iter().any(|plain| plain.len() == size),
        "size {}",
        size
    );
    let mut found = vec![0xAA; size];
    for number in 0..size.div_ceil(PAGE) {
        let start = number * PAGE;
        let len = PAGE.min(size - start);
        let found = &mut found[start..start + len];
        let read = file.read_at(start as u64, found);
        prop_assert!(read.is_ok(), "block {} is damaged", number);
        prop_assert!(
            versions
                .iter()
                .any(|plain| block(plain, number)[..len] == *found),
            "block {} is what it never was",
            number
        );
    }
    // What was found stays when something else is rewritten again and again.
    let ends = [(0, found.first()), (size.wrapping_sub(1), found.last())];
    for (at, byte) in ends.repeat(2) {
        if let Some(byte) = byte {
            file.write_at(at as u64, &[*byte]).unwrap();
        }
    }
    file.sync().unwrap();
    drop(file);
    prop_assert!(contents(&killed.open()) == found, "written on");
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    /// Between any two system calls each block is what it was at the last sync or at some moment since.
    #[test]
    fn a_kill_damages_nothing(operations in proptest::collection::vec(operation(), 1..8)) {
        let (fixture, mut file) = Fixture::new();
        let trace = traced(&fixture, &mut file);
        let mut versions = vec![Vec::new()];
        for (at, operation) in operations.iter().enumerate() {
            let mut plain = versions.last().unwrap().clone();
            let done = trace.events.lock().unwrap().len();
            match operation {
                Operation::Reopen => {
                    file = fixture.open();
                    file.lower.trace = Some(Arc::clone(&trace));
                    plain = contents(&file);
                }
                operation => run(&file, &mut plain, operation, at as u8 * 16 + 1),
            }
            versions.push(plain);
            let events: Vec<Event> = trace.events.lock().unwrap().clone();
            for upto in done..=events.len() {
                check(&Disk::at(&events[..upto]).written(), &versions)?;
            }
            if let Operation::Sync = operation {
                versions.drain(..versions.len() - 1);
            }
        }
    }
}

/// What was never synced is in the lower file as soon as it is written.
#[test]
fn a_kill_loses_nothing_of_a_new_file() {
    let (fixture, mut file) = Fixture::new();
    let trace = traced(&fixture, &mut file);
    let mut lines = Vec::new();
    for number in 0..200_u8 {
        let done = trace.events.lock().unwrap().len();
        let before = lines.clone();
        let line = [number; 50];
        lines.extend(line);
        file.append(&line).unwrap();
        let events: Vec<Event> = trace.events.lock().unwrap().clone();
        for upto in done..=events.len() {
            let (killed, file) = Fixture::new();
            drop(file);
            killed.restore(&Disk::at(&events[..upto]).written());
            let found = contents(&killed.open());
            assert!(found == before || found == lines, "{number}");
        }
        assert_eq!(contents(&fixture.open()), lines);
    }
}
