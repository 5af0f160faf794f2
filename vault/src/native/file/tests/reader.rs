//! What a reader makes of a lower file that someone else has changed.

use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use super::{Fixture, contents, pattern};
use crate::native::file::FileError;
use crate::native::layout::Layout;
use crate::native::slot::SLOT_LEN;
use crate::native::{NativeFile, PAGE, Part};

const BLOCKS: usize = 120;

/// A file that is synced, settled and solid, each block written twice, so that both halves are in
/// use; with the lower file as it was after the first time.
fn written_twice() -> (Fixture, Vec<u8>) {
    let (fixture, file) = Fixture::new();
    file.write_at(0, &pattern(BLOCKS * PAGE, 1)).unwrap();
    file.sync().unwrap();
    let first = fixture.bytes();
    file.write_at(0, &pattern(BLOCKS * PAGE, 2)).unwrap();
    file.sync().unwrap();
    (fixture, first)
}

fn slot_offset(block: u64) -> u64 {
    let segment = crate::native::layout::segment_of(block);
    let index = crate::native::layout::index_in_segment(block);
    Layout::new(1).slots(segment) + (index * SLOT_LEN) as u64
}

fn block_offset(block: u64) -> u64 {
    Layout::new(1).block(block)
}

impl Fixture {
    fn read(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.lower.read_exact_at(&mut bytes, offset).unwrap();
        bytes
    }

    fn write(&self, offset: u64, bytes: &[u8]) {
        self.lower.write_all_at(bytes, offset).unwrap();
    }
}

/// What reading block `block` gives.
fn read(file: &NativeFile, block: u64) -> Result<Vec<u8>, u64> {
    let mut out = vec![0xAA; PAGE];
    match file.read_at(block * PAGE as u64, &mut out) {
        Ok(_) => Ok(out),
        Err(FileError::Integrity(Part::Block(damaged))) => {
            assert!(
                out.iter().all(|&byte| byte == 0),
                "something is returned with the error"
            );
            Err(damaged)
        }
        Err(error) => panic!("{error}"),
    }
}

fn block_of(seed: u8, block: u64) -> Vec<u8> {
    let at = block as usize * PAGE;
    pattern(BLOCKS * PAGE, seed)[at..at + PAGE].to_vec()
}

#[test]
fn a_flipped_bit_of_a_block_is_damage_to_that_block_alone() {
    let (fixture, _) = written_twice();
    for block in [0, 47, 48, 111, 112] {
        let at = block_offset(block) + 1234;
        let old = fixture.read(at, 1);
        fixture.write(at, &[old[0] ^ 1]);
        let file = fixture.open();
        assert_eq!(read(&file, block), Err(block));
        assert_eq!(read(&file, block + 1), Ok(block_of(2, block + 1)));
        let mut damaged = Vec::new();
        file.verify(|block| damaged.push(block), |_, _| {}).unwrap();
        assert_eq!(damaged, [block]);
        fixture.write(at, &old);
    }
    assert_eq!(contents(&fixture.open()), pattern(BLOCKS * PAGE, 2));
}

/// A changed newer half leaves the older one, whose block is no longer there.
#[test]
fn no_flipped_bit_of_a_slot_passes() {
    let (fixture, _) = written_twice();
    for block in [3, 50] {
        let half_b = slot_offset(block) + 32;
        let old = fixture.read(half_b, 32);
        for bit in 0..256 {
            let mut changed = old.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            fixture.write(half_b, &changed);
            assert_eq!(read(&fixture.open(), block), Err(block), "bit {bit}");
        }
        fixture.write(half_b, &old);
    }
}

#[test]
fn the_other_half_counts_where_the_newer_does_not_verify() {
    let (fixture, first) = written_twice();
    let block = 50;
    let at = block_offset(block) as usize;
    // As a crash leaves it: the new half is there, the block is still the old one.
    fixture.write(at as u64, &first[at..at + PAGE]);
    let file = fixture.open();
    assert_eq!(read(&file, block), Ok(block_of(1, block)));
    // The next version goes beside the one that counts, not over it.
    let durable = fixture.read(slot_offset(block), 32);
    file.write_at(block * PAGE as u64, &block_of(3, block))
        .unwrap();
    assert_eq!(fixture.read(slot_offset(block), 32), durable);
    assert_eq!(read(&file, block), Ok(block_of(3, block)));
    file.sync().unwrap();
    assert_eq!(read(&fixture.open(), block), Ok(block_of(3, block)));
}

#[test]
fn a_block_moved_to_another_place_is_refused_there() {
    let (fixture, _) = written_twice();
    for (from, to) in [(5, 6), (5, 48), (48, 5), (48, 49), (48, 112)] {
        let before = fixture.bytes();
        fixture.write(block_offset(to), &fixture.read(block_offset(from), PAGE));
        assert_eq!(
            read(&fixture.open(), to),
            Err(to),
            "a block without its slot"
        );
        fixture.write(slot_offset(to), &fixture.read(slot_offset(from), SLOT_LEN));
        assert_eq!(read(&fixture.open(), to), Err(to), "a block with its slot");
        fixture.restore(&before);
    }
}

#[test]
fn a_block_of_another_file_is_refused() {
    let (fixture, _) = written_twice();
    let (other, file) = Fixture::with_file([9; 16], [3; 32]);
    file.write_at(0, &pattern(BLOCKS * PAGE, 2)).unwrap();
    file.sync().unwrap();
    fixture.write(block_offset(5), &other.read(block_offset(5), PAGE));
    fixture.write(slot_offset(5), &other.read(slot_offset(5), SLOT_LEN));
    assert_eq!(read(&fixture.open(), 5), Err(5));
}

/// Not covered, and listed so: nothing tells an old block with its old slot from the newest.
#[test]
fn a_block_put_back_with_its_slot_reads_as_it_was() {
    let (fixture, first) = written_twice();
    let block = 50;
    let (slot, at) = (slot_offset(block) as usize, block_offset(block) as usize);
    fixture.write(slot as u64, &first[slot..slot + SLOT_LEN]);
    fixture.write(at as u64, &first[at..at + PAGE]);
    assert_eq!(read(&fixture.open(), block), Ok(block_of(1, block)));
}

#[test]
fn a_solid_block_does_not_become_zeros_by_zeroing_its_slot() {
    let (fixture, _) = written_twice();
    fixture.write(slot_offset(50), &[0; SLOT_LEN]);
    assert_eq!(read(&fixture.open(), 50), Err(50));
}

#[test]
fn an_unsettled_block_without_its_data_is_zeros_and_only_that() {
    let (fixture, file) = Fixture::new();
    file.write_at(0, &pattern(60 * PAGE, 1)).unwrap();
    file.sync().unwrap();
    file.write_at(60 * PAGE as u64, &pattern(PAGE, 1)).unwrap();
    drop(file);
    fixture.write(block_offset(60), &[0; PAGE]);
    fixture.write(block_offset(59), &[0; PAGE]);
    let file = fixture.open();
    assert_eq!(
        read(&file, 60),
        Ok(vec![0; PAGE]),
        "written after the last sync"
    );
    assert_eq!(read(&file, 59), Err(59), "solid");
    file.write_at(59 * PAGE as u64, &[7; PAGE]).unwrap();
    file.settle().unwrap();
    let file = fixture.open();
    assert_eq!(read(&file, 60), Ok(vec![0; PAGE]));
    assert_eq!(read(&file, 59), Ok(vec![7; PAGE]));
}

#[test]
fn an_unwritten_block_of_a_settled_file_is_zeros_and_a_broken_one_is_damage() {
    let (fixture, file) = Fixture::new();
    file.write_at(0, &[1; PAGE]).unwrap();
    file.truncate(1 << 30).unwrap();
    file.sync().unwrap();
    drop(file);
    assert_eq!(read(&fixture.open(), 9999), Ok(vec![0; PAGE]));
    fixture.write(slot_offset(9999), &[1; SLOT_LEN]);
    assert_eq!(read(&fixture.open(), 9999), Err(9999));
}

#[test]
fn a_hole_is_vouched_for_and_gives_its_space_back() {
    use std::os::unix::fs::MetadataExt;
    let (fixture, _) = written_twice();
    let file = fixture.open();
    let used = fixture.lower.metadata().unwrap().blocks();
    file.punch(40 * PAGE as u64, 20 * PAGE as u64).unwrap();
    assert_eq!(read(&file, 50), Ok(vec![0; PAGE]));
    let before = fixture.lower.metadata().unwrap().blocks();
    assert_eq!(before, used, "freed before the hole records are durable");
    file.sync().unwrap();
    let after = fixture.lower.metadata().unwrap().blocks();
    assert!(
        after * 512 + 20 * PAGE as u64 <= used * 512,
        "{used} blocks, then {after}"
    );
    drop(file);
    let file = fixture.open();
    assert_eq!(read(&file, 50), Ok(vec![0; PAGE]));
    assert_eq!(file.seek_hole(0).unwrap(), Some(40 * PAGE as u64));
    assert_eq!(
        file.seek_data(40 * PAGE as u64).unwrap(),
        Some(60 * PAGE as u64)
    );
    drop(file);
    let [newest, _] = [0, 32].map(|at| slot_offset(50) + at);
    fixture.write(newest, &[0; 32]);
    assert_eq!(
        read(&fixture.open(), 50),
        Err(50),
        "the hole record was taken away"
    );
}

#[test]
fn a_block_is_solid_only_when_the_wiping_of_its_old_hole_record_is_durable() {
    let (fixture, file) = Fixture::new();
    let solid = || {
        file.sync().unwrap();
        file.read_state().shapes.last().solid
    };
    file.write_at(0, &pattern(3 * PAGE, 1)).unwrap();
    assert_eq!(solid(), 3);
    file.punch(PAGE as u64, PAGE as u64).unwrap();
    assert_eq!(solid(), 3, "a hole record vouches for a hole");
    file.write_at(PAGE as u64, &block_of(1, 1)).unwrap();
    assert_eq!(solid(), 1, "wiped, not yet durably");
    let halves = fixture.read(slot_offset(1), SLOT_LEN);
    let in_use = halves
        .chunks(32)
        .filter(|half| half.iter().any(|&byte| byte != 0));
    assert_eq!(in_use.count(), 1);
    assert_eq!(solid(), 3);
    drop(file);
    fixture.write(block_offset(1), &[0; PAGE]);
    assert_eq!(
        read(&fixture.open(), 1),
        Err(1),
        "no hole record speaks for zeros"
    );
}

#[test]
fn a_file_whose_shapes_are_changed_does_not_open() {
    let (fixture, _) = written_twice();
    fixture.write(512 + 8, &[1]);
    fixture.write(640 + 8, &[1]);
    let opened = fixture.try_open();
    assert!(matches!(opened, Err(FileError::Integrity(Part::Shape))));
}

#[test]
fn a_file_does_not_open_by_the_feks_of_another() {
    let (fixture, _) = written_twice();
    let (other, _file) = Fixture::with_file([2; 16], [8; 32]);
    let opened = NativeFile::open(
        fixture.fd(),
        &fixture.head,
        other.feks(),
        crate::native::Access::ReadWrite,
    );
    assert!(matches!(opened, Err(FileError::Integrity(Part::Shape))));
}

#[test]
fn a_file_cut_within_its_header_never_reached_the_disk() {
    let (fixture, file) = Fixture::new();
    drop(file);
    for len in [0, 1, 512, 4095] {
        fixture.lower.set_len(len).unwrap();
        let head = NativeFile::read_head(fixture.fd().as_fd());
        assert!(
            matches!(head, Err(FileError::NeverReachedDisk)),
            "{len} bytes"
        );
        assert!(matches!(
            fixture.try_open(),
            Err(FileError::NeverReachedDisk)
        ));
    }
    fixture.lower.set_len(8192).unwrap();
    fixture.write(0, &[0; 4096]);
    let head = NativeFile::read_head(fixture.fd().as_fd());
    assert!(matches!(head, Err(FileError::NeverReachedDisk)), "zeros");
}

#[test]
fn a_file_of_tebibytes_with_little_in_it_is_verified_at_once() {
    let (fixture, file) = Fixture::new();
    let places = [0, 1 << 40, 1 << 42, (1 << 43) - 9];
    for place in places {
        file.write_at(place, b"something").unwrap();
    }
    file.sync().unwrap();
    let damage = |file: &NativeFile| {
        let (mut damage, mut last) = (Vec::new(), (0, 1));
        let verified = file.verify(|block| damage.push(block), |done, of| last = (done, of));
        verified.unwrap();
        assert_eq!(last.0, last.1, "told to the end");
        damage
    };
    assert_eq!(damage(&file), []);
    let block = (1 << 40) / PAGE as u64;
    let at = Layout::new(1).block(block);
    fixture.lower.write_all_at(&[7], at).unwrap();
    assert_eq!(damage(&fixture.open()), [block]);
}
