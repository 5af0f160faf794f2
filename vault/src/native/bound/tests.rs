//! Moving files that are not open, and giving them a new head.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use super::super::head::{self, Layer, NewFek, Opened};
use super::super::{Access, Feks, Links};
use super::*;
use crate::epoch::EpochKey;
use crate::ids::VolumeId;
use crate::secret::{FileKey, NamesKey};

const VOLUME: VolumeId = VolumeId([1; 16]);
const FILE: FileId = FileId([2; 16]);
const HOME: DirId = DirId([3; 16]);

fn names(epoch: Epoch) -> Option<Box<PlaceKeys>> {
    let keys = || PlaceKeys::new(NamesKey::new(&mut [epoch.0 as u8; 32]));
    (epoch.0 < 9).then(|| Box::new(keys()))
}

fn seal(name: &[u8], links: Links) -> PlaceSeal {
    let key = names(Epoch(1)).unwrap();
    PlaceSeal::new((Epoch(1), &key), &FILE.0, &HOME, name, links)
}

/// A new file called `a` in `HOME`.
fn file_in(layer: &Layer<'_>, epoch_key: &EpochKey) -> (File, NativeFile) {
    let lower = tempfile::tempfile().unwrap();
    let (head, fek) = head::fresh(VOLUME, FILE, (Epoch(1), epoch_key), layer).unwrap();
    let fd = lower.try_clone().unwrap().into();
    let place = seal(b"a", Links::One);
    let file = NativeFile::create(fd, &head, Feks::first(fek), place).unwrap();
    (lower, file)
}

fn file() -> File {
    file_in(&Layer::Volume, &EpochKey::random().unwrap()).0
}

fn is_at(file: &File, parent: &DirId, name: &[u8]) -> bool {
    match check_place(file.as_fd(), names, parent, name) {
        Ok(()) => true,
        Err(FileError::Misplaced) => false,
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn a_file_is_where_it_was_put_and_nowhere_else() {
    let file = file();
    assert!(is_at(&file, &HOME, b"a"));
    assert!(!is_at(&file, &HOME, b"b"));
    assert!(!is_at(&file, &DirId::ROOT, b"a"));
}

#[test]
fn a_file_is_at_both_places_while_it_is_renamed_and_at_the_new_one_after() {
    for synced in [Synced::Maybe, Synced::Never] {
        let file = file();
        let mut old = b"a".to_vec();
        for new in [b"b", b"c", b"d"] {
            let to = seal(new, Links::One);
            prepare_move(file.as_fd(), names, &to, synced).unwrap();
            assert!(is_at(&file, &HOME, &old) && is_at(&file, &HOME, new));
            assert!(!is_at(&file, &HOME, b"z"));
            finish_move(file.as_fd(), names, &to, synced).unwrap();
            assert!(!is_at(&file, &HOME, &old) && is_at(&file, &HOME, new));
            old = new.to_vec();
        }
    }
}

#[test]
fn a_torn_place_record_leaves_the_one_before() {
    let file = file();
    prepare_move(file.as_fd(), names, &seal(b"b", Links::One), Synced::Maybe).unwrap();
    file.write_all_at(&[0xFF; 40], PLACES + PLACE_LEN as u64 + 60)
        .unwrap();
    assert!(is_at(&file, &HOME, b"a") && !is_at(&file, &HOME, b"b"));
}

#[test]
fn a_file_with_several_links_may_be_anywhere() {
    let file = file();
    finish_move(
        file.as_fd(),
        names,
        &seal(b"a", Links::Several),
        Synced::Maybe,
    )
    .unwrap();
    assert!(is_at(&file, &HOME, b"a") && is_at(&file, &DirId::ROOT, b"z"));
}

#[test]
fn a_place_of_an_unknown_epoch_or_changed_by_hand_is_told_apart() {
    let file = file();
    let unknown = check_place(file.as_fd(), |_| None::<Box<PlaceKeys>>, &HOME, b"a");
    assert!(matches!(unknown, Err(FileError::NoNamesKey(Epoch(1)))));
    file.write_all_at(&[9], PLACES + 20).unwrap();
    let changed = check_place(file.as_fd(), names, &HOME, b"a");
    assert!(matches!(changed, Err(FileError::Integrity(Part::Place))));
}

#[test]
fn a_head_sealed_anew_replaces_the_old_one_on_disk_and_the_file_goes_on() {
    let (old, new) = (EpochKey::random().unwrap(), EpochKey::random().unwrap());
    let file_key = FileKey::random();
    let layers = [
        Layer::Volume,
        Layer::File {
            file_key: &file_key,
            packets: &[],
        },
    ];
    for layer in layers {
        let (lower, file) = file_in(&layer, &old);
        file.write_at(0, b"before").unwrap();
        let head = NativeFile::read_head(lower.as_fd()).unwrap();
        let sealed = (Epoch(2), &new);
        let head = head::rewrap(&head, VOLUME, |_| Some(&old), sealed, NewFek::Add).unwrap();
        replace_head(lower.as_fd(), &head).unwrap();
        assert_eq!(NativeFile::read_head(lower.as_fd()).unwrap(), head);
        let opened = |head: &[u8]| {
            let key = |epoch| (epoch == Epoch(2)).then_some(&new);
            match head::open(head, VOLUME, key).unwrap() {
                Opened::Feks(feks, _) => feks,
                Opened::FileScope(sealed) => sealed.open(&file_key).unwrap(),
            }
        };
        file.adopt(opened(&head));
        file.write_at(4096, b"after").unwrap();
        drop(file);
        let fd = lower.try_clone().unwrap().into();
        let file = NativeFile::open(fd, &head, opened(&head), Access::ReadOnly).unwrap();
        let mut out = [0; 4101];
        assert_eq!(file.read_at(0, &mut out).unwrap(), out.len());
        assert_eq!(
            (&out[..6], &out[4096..]),
            (b"before".as_slice(), b"after".as_slice())
        );
    }
}

#[test]
fn a_head_of_another_file_does_not_replace_one() {
    let key = EpochKey::random().unwrap();
    let (lower, _file) = file_in(&Layer::Volume, &key);
    let other = FileId([9; 16]);
    let (head, _) = head::fresh(VOLUME, other, (Epoch(1), &key), &Layer::Volume).unwrap();
    let refused = replace_head(lower.as_fd(), &head);
    assert!(matches!(
        refused,
        Err(FileError::Integrity(Part::KeyRecord))
    ));
}
