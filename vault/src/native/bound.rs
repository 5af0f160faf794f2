//! Changing records of a file that need not be open: its place, and its head at a new epoch.
//!
//! Both follow rule W9: write the copy that does not count, make it durable, and only then do what
//! depends on it.

use core::ops::Deref;
use std::os::fd::BorrowedFd;

use nix::unistd::fdatasync;

use super::error::{FileError, Part};
use super::fixed::FixedPart;
use super::key_record::KEY_RECORD_LEN;
use super::layout::{KEY_RECORDS, PLACES};
use super::lower;
use super::octets::is_zero;
use super::packet::PACKETS_LEN;
use super::place::{
    Bound, PLACE_LEN, Place, PlaceCopy, PlaceKey, PlaceSeal, binding, newest_place,
};
use super::{HEAD_LEN, NativeFile, PAGE};
use crate::ids::{DirId, Epoch, FileId};
use crate::secret::NamesKey;

/// Whether what a file holds may be durable, and so has to stay readable wherever it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Synced {
    /// It may be.
    Maybe,
    /// The file was made since the mount began and no barrier has been asked for.
    Never,
}

/// Checks that a file is where it was put: as `lower_name` in `parent`.
///
/// # Errors
/// [`FileError::Misplaced`] if it belongs elsewhere; [`FileError::Integrity`] with [`Part::Place`]
/// if no place record verifies; [`FileError::NoNamesKey`] if one is of an epoch that `names` does
/// not know; [`FileError::NeverReachedDisk`]; [`FileError::Io`].
pub fn check_place<K: Deref<Target = NamesKey>>(
    fd: BorrowedFd<'_>,
    names: impl Fn(Epoch) -> Option<K>,
    parent: &DirId,
    lower_name: &[u8],
) -> Result<(), FileError> {
    let placed = Placed::read(fd, &names)?;
    if placed.place.bound == Bound::Linked {
        return Ok(());
    }
    let names =
        names(placed.place.names_epoch).ok_or(FileError::NoNamesKey(placed.place.names_epoch))?;
    match placed
        .place
        .bound
        .allows(&binding(&names, &placed.file.0, parent, lower_name))
    {
        true => Ok(()),
        false => Err(FileError::Misplaced),
    }
}

/// What the place record of a file says, and the file's id: not whether it is there.
///
/// # Errors
/// As [`check_place`], but for [`FileError::Misplaced`].
pub fn read_place<K: Deref<Target = NamesKey>>(
    fd: BorrowedFd<'_>,
    names: impl Fn(Epoch) -> Option<K>,
) -> Result<(FileId, Place), FileError> {
    let placed = Placed::read(fd, names)?;
    Ok((placed.file, placed.place))
}

/// Lets a file be at `to` as well as where it is, ahead of a rename; durable when this returns,
/// unless nothing of the file is.
///
/// `to` must be of the names epoch of the record there is, or the binding to the old place could not
/// be kept; [`FileError::NoNamesKey`] tells the epoch.
///
/// # Errors
/// As [`check_place`].
pub fn prepare_move<K: Deref<Target = NamesKey>>(
    fd: BorrowedFd<'_>,
    names: impl Fn(Epoch) -> Option<K>,
    to: &PlaceSeal,
    synced: Synced,
) -> Result<(), FileError> {
    let placed = Placed::read(fd, names)?;
    let bound = match (placed.place.bound, to.bound()) {
        (Bound::Linked, _) | (_, Bound::Linked | Bound::Moving { .. }) => Bound::Linked,
        (Bound::Here(here) | Bound::Moving { here, .. }, Bound::Here(next)) => {
            if placed.place.names_epoch != to.epoch() {
                return Err(FileError::NoNamesKey(placed.place.names_epoch));
            }
            Bound::Moving { here, next }
        }
    };
    placed.write_next(fd, to, bound, synced)?;
    match synced {
        Synced::Maybe => Ok(fdatasync(fd)?),
        Synced::Never => Ok(()),
    }
}

/// Binds a file to `to`, and to nowhere else: after the rename, at leisure.
///
/// # Errors
/// As [`check_place`].
pub fn finish_move<K: Deref<Target = NamesKey>>(
    fd: BorrowedFd<'_>,
    names: impl Fn(Epoch) -> Option<K>,
    to: &PlaceSeal,
    synced: Synced,
) -> Result<(), FileError> {
    let placed = Placed::read(fd, names)?;
    placed.write_next(fd, to, to.bound(), synced)
}

/// What the place records of a file say.
struct Placed {
    file: FileId,
    copy: PlaceCopy,
    place: Place,
    other_in_use: bool,
}

impl Placed {
    fn read<K: Deref<Target = NamesKey>>(
        fd: BorrowedFd<'_>,
        names: impl Fn(Epoch) -> Option<K>,
    ) -> Result<Self, FileError> {
        let mut page = [0; PAGE];
        if lower::read_at(fd, 0, &mut page)? < PAGE || is_zero(&page) {
            return Err(FileError::NeverReachedDisk);
        }
        let fixed = page.first_chunk().ok_or(FileError::NeverReachedDisk)?;
        let FixedPart { file, .. } = FixedPart::parse(fixed)?;
        let (_, records) = page.split_at(PLACES as usize);
        let copies = records
            .first_chunk::<{ 2 * PLACE_LEN }>()
            .ok_or(FileError::NeverReachedDisk)?;
        let missing = core::cell::Cell::new(None);
        let key = |epoch| match names(epoch) {
            Some(names) => Some(PlaceKey::new(&names, &file.0)),
            None => {
                missing.set(Some(epoch));
                None
            }
        };
        match (newest_place(copies, key, &[]), missing.get()) {
            (Some((copy, place)), _) => {
                let (_, other) = copies.split_at(copy.other().offset());
                let other_in_use = !is_zero(&other[..PLACE_LEN]);
                Ok(Self {
                    file,
                    copy,
                    place,
                    other_in_use,
                })
            }
            (None, Some(epoch)) => Err(FileError::NoNamesKey(epoch)),
            (None, None) => Err(FileError::Integrity(Part::Place)),
        }
    }

    /// Writes the copy that does not count.
    fn write_next(
        &self,
        fd: BorrowedFd<'_>,
        seal: &PlaceSeal,
        bound: Bound,
        synced: Synced,
    ) -> Result<(), FileError> {
        if self.other_in_use && synced == Synced::Maybe {
            // The one that counts was written some time ago: whether it is durable, only this tells.
            fdatasync(fd)?;
        }
        let bytes = seal.write_bound(self.place.seq, bound, &[]);
        let offset = PLACES + self.copy.other().offset() as u64;
        Ok(lower::write_at(fd, offset, &bytes)?)
    }
}

/// Brings a head that [`super::head::rewrap`] made to disk: first the new records, then, when they
/// are durable, zeros over the old ones.
///
/// # Errors
/// [`FileError::Integrity`] with [`Part::KeyRecord`] if it is not a head of this file;
/// [`FileError::NeverReachedDisk`]; [`FileError::Unsupported`]; [`FileError::Io`].
pub fn replace_head(fd: BorrowedFd<'_>, head: &[u8]) -> Result<(), FileError> {
    let old = NativeFile::read_head(fd)?;
    let (old_fixed, new_fixed) = (old.get(..KEY_RECORDS), head.get(..KEY_RECORDS));
    if old.len() != head.len() || old_fixed != new_fixed {
        return Err(FileError::Integrity(Part::KeyRecord));
    }
    let mut records = Vec::new();
    let mut wipes = Vec::new();
    for (offset, len) in record_places(head.len()) {
        let range = offset..offset + len;
        let (Some(old), Some(new)) = (old.get(range.clone()), head.get(range)) else {
            continue;
        };
        // In a head, page 1 follows page 0's first bytes at once.
        let on_disk = if offset < HEAD_LEN {
            offset
        } else {
            offset - HEAD_LEN + PAGE
        };
        match (old == new, is_zero(new)) {
            (true, _) => {}
            (false, false) => records.push((on_disk as u64, new)),
            (false, true) => wipes.push((on_disk as u64, new)),
        }
    }
    for (offset, record) in records {
        lower::write_at(fd, offset, record)?;
    }
    fdatasync(fd)?;
    for (offset, zeros) in wipes {
        lower::write_at(fd, offset, zeros)?;
    }
    Ok(())
}

/// Offset and length within a head of all that exists twice.
fn record_places(head_len: usize) -> impl Iterator<Item = (usize, usize)> {
    [
        (KEY_RECORDS, KEY_RECORD_LEN),
        (KEY_RECORDS + KEY_RECORD_LEN, KEY_RECORD_LEN),
        (HEAD_LEN, PACKETS_LEN),
        (HEAD_LEN + PACKETS_LEN, PACKETS_LEN),
    ]
    .into_iter()
    .filter(move |(offset, len)| offset + len <= head_len)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;
    use std::os::unix::fs::FileExt;

    use super::super::head::{self, Layer, NewFek, Opened};
    use super::super::{Access, Feks, Links};
    use super::*;
    use crate::epoch::EpochKey;
    use crate::ids::VolumeId;
    use crate::secret::FileKey;

    const VOLUME: VolumeId = VolumeId([1; 16]);
    const FILE: FileId = FileId([2; 16]);
    const HOME: DirId = DirId([3; 16]);

    fn names(epoch: Epoch) -> Option<Box<NamesKey>> {
        (epoch.0 < 9).then(|| Box::new(NamesKey::new(&mut [epoch.0 as u8; 32])))
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
        let unknown = check_place(file.as_fd(), |_| None::<Box<NamesKey>>, &HOME, b"a");
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
            file.flush().unwrap();
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
}
