//! Tests of open files against a plain vector of bytes, and against an enemy below.

mod crash;
mod failures;
mod kill;
mod model;
mod reader;

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use super::super::head::{self, Layer};
use super::super::place::{Links, PlaceKeys, PlaceSeal};
use super::super::{Feks, PAGE};
use super::{Access, NativeFile};
use crate::ids::{DirId, Epoch, FileId, VolumeId};
use crate::secret::{Fek, NamesKey};

/// A native file of volume scope, and the means to open it again and to change it from below.
pub(crate) struct Fixture {
    pub(crate) lower: File,
    pub(crate) head: Vec<u8>,
    key: [u8; 32],
}

impl Fixture {
    pub(crate) fn new() -> (Self, NativeFile) {
        Self::with_file([2; 16], [3; 32])
    }

    pub(crate) fn with_file(file: [u8; 16], key: [u8; 32]) -> (Self, NativeFile) {
        let lower = tempfile::tempfile().unwrap();
        let volume = VolumeId([1; 16]);
        let file = FileId(file);
        let epoch_key = crate::epoch::EpochKey::new(&mut [4; 32]).unwrap();
        let epoch = (Epoch::FIRST, &epoch_key);
        let feks = Feks::first(Fek::new(&mut key.clone()));
        let random = super::Random::Kernel;
        let head = head::write(volume, file, epoch, &Layer::Volume, &feks, &random).unwrap();
        let place = place(file);
        let fixture = Self { lower, head, key };
        let native =
            NativeFile::create(fixture.fd(), &fixture.head, fixture.feks(), place).unwrap();
        (fixture, native)
    }

    pub(crate) fn fd(&self) -> OwnedFd {
        self.lower.try_clone().unwrap().into()
    }

    pub(crate) fn feks(&self) -> Feks {
        Feks::first(Fek::new(&mut self.key.clone()))
    }

    pub(crate) fn open(&self) -> NativeFile {
        self.try_open().unwrap()
    }

    pub(crate) fn try_open(&self) -> Result<NativeFile, super::FileError> {
        NativeFile::open(self.fd(), &self.head, self.feks(), Access::ReadWrite)
    }

    /// The lower file's bytes.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.lower.metadata().unwrap().len() as usize];
        self.lower.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    /// Puts back the lower file as it was.
    pub(crate) fn restore(&self, bytes: &[u8]) {
        self.lower.set_len(0).unwrap();
        self.lower.write_all_at(bytes, 0).unwrap();
    }
}

fn place(file: FileId) -> PlaceSeal {
    let keys = PlaceKeys::new(NamesKey::new(&mut [5; 32]));
    PlaceSeal::new(
        (Epoch::FIRST, &keys),
        &file.0,
        &DirId::ROOT,
        b"name",
        Links::One,
    )
}

/// All that can be read.
pub(crate) fn contents(file: &NativeFile) -> Vec<u8> {
    let mut out = vec![0xAA; file.size() as usize + 10];
    let read = file.read_at(0, &mut out).unwrap();
    assert_eq!(read as u64, file.size());
    out.truncate(read);
    out
}

/// Bytes that tell where they belong.
pub(crate) fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..len)
        .map(|at| (at / PAGE) as u8 ^ (at as u8).wrapping_mul(31) ^ seed)
        .collect()
}

#[test]
fn what_was_written_is_read_back_after_reopening() {
    for size in [
        0,
        1,
        4095,
        4096,
        4097,
        48 * PAGE,
        48 * PAGE + 1,
        300_000,
        3_000_000,
    ] {
        let (fixture, file) = Fixture::new();
        let data = pattern(size, 7);
        file.write_at(0, &data).unwrap();
        assert_eq!(contents(&file), data);
        drop(file);
        let lower_len = fixture.lower.metadata().unwrap().len();
        assert_eq!(
            super::super::stat_size(lower_len, crate::ids::Scope::Volume),
            size as u64
        );
        let file = fixture.open();
        assert_eq!(contents(&file), data);
    }
}

#[test]
fn what_is_synced_is_settled_and_solid() {
    let (fixture, file) = Fixture::new();
    file.write_at(0, &pattern(300_000, 1)).unwrap();
    let unsettled = fixture.open();
    assert_eq!(unsettled.read_state().doubtful_end, 74);
    drop(unsettled);
    file.sync().unwrap();
    let state = fixture.open();
    let state = state.read_state();
    assert_eq!((state.solid, state.doubtful_end), (74, 74));
}

#[test]
fn a_file_found_unsettled_is_settled_by_reading_it() {
    let (fixture, file) = Fixture::new();
    file.write_at(0, &pattern(300_000, 1)).unwrap();
    drop(file);
    let file = fixture.open();
    file.settle().unwrap();
    assert_eq!(contents(&file), pattern(300_000, 1));
    drop(file);
    let file = fixture.open();
    let state = file.read_state();
    assert_eq!((state.solid, state.doubtful_end), (74, 74));
}

#[test]
fn bytes_behind_the_end_are_not_shown_by_growing() {
    let (fixture, file) = Fixture::new();
    file.write_at(0, &pattern(300_000, 1)).unwrap();
    file.sync().unwrap();
    file.truncate(5000).unwrap();
    file.truncate(300_000).unwrap();
    let mut expected = pattern(300_000, 1);
    expected[5000..].fill(0);
    assert_eq!(contents(&file), expected);
    drop(file);
    assert_eq!(contents(&fixture.open()), expected);
}

#[test]
fn data_and_holes_are_found_by_block() {
    let (_fixture, file) = Fixture::new();
    file.write_at(0, &[1; 10]).unwrap();
    file.write_at(1 << 30, &[1; 10]).unwrap();
    assert_eq!(file.seek_data(0).unwrap(), Some(0));
    assert_eq!(file.seek_hole(0).unwrap(), Some(4096));
    assert_eq!(file.seek_data(4096).unwrap(), Some(1 << 30));
    assert_eq!(file.seek_hole(1 << 30).unwrap(), Some((1 << 30) + 10));
    assert_eq!(file.seek_data((1 << 30) + 10).unwrap(), None);
    assert_eq!(file.seek_hole((1 << 30) + 10).unwrap(), None);
}

#[test]
fn a_terabyte_of_zeros_takes_no_time_and_no_space() {
    let (fixture, file) = Fixture::new();
    file.truncate(1 << 40).unwrap();
    assert_eq!(file.seek_data(0).unwrap(), None);
    file.punch(0, 1 << 40).unwrap();
    file.write_at(1 << 39, b"x").unwrap();
    file.sync().unwrap();
    file.truncate(10).unwrap();
    file.sync().unwrap();
    assert_eq!(contents(&file), [0; 10]);
    use std::os::unix::fs::MetadataExt;
    assert!(fixture.lower.metadata().unwrap().blocks() * 512 < 100_000);
}

#[test]
fn readers_run_beside_each_other_and_beside_a_writer() {
    let (_fixture, file) = Fixture::new();
    let old = vec![1; 1 << 20];
    let new = vec![2; 1 << 20];
    file.write_at(0, &old).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mut out = vec![0; 1 << 20];
                while out != new {
                    assert_eq!(file.read_at(0, &mut out).unwrap(), out.len());
                    assert!(out == old || out == new, "a read in the middle of a write");
                }
            });
        }
        scope.spawn(|| file.write_at(0, &new).unwrap());
    });
}

#[test]
fn a_file_open_for_reading_only_refuses_to_be_written() {
    let (fixture, file) = Fixture::new();
    file.write_at(0, b"data").unwrap();
    drop(file);
    let file = NativeFile::open(
        fixture.fd(),
        &fixture.head,
        fixture.feks(),
        Access::ReadOnly,
    )
    .unwrap();
    let before = fixture.bytes();
    assert!(matches!(
        file.write_at(0, b"x"),
        Err(super::FileError::ReadOnly)
    ));
    assert!(matches!(file.truncate(0), Err(super::FileError::ReadOnly)));
    assert!(matches!(file.punch(0, 1), Err(super::FileError::ReadOnly)));
    file.sync().unwrap();
    assert_eq!(contents(&file), b"data");
    assert_eq!(fixture.bytes(), before);
}
