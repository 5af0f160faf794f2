//! Changing records of a file that need not be open: its place, and its head at a new epoch.
//!
//! Both follow rule W9: write the copy that does not count, make it durable, and only then do what
//! depends on it.

#[cfg(test)]
mod tests;

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
use super::place::{Bound, PLACE_LEN, Place, PlaceCopy, PlaceKeys, PlaceSeal, newest_place};
use super::{HEAD_LEN, NativeFile, PAGE};
use crate::ids::{DirId, Epoch, FileId};

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
/// if no place record verifies; [`FileError::NoNamesKey`] if one is of an epoch that `keys` does
/// not know; [`FileError::NeverReachedDisk`]; [`FileError::Io`].
pub fn check_place<K: Deref<Target = PlaceKeys>>(
    fd: BorrowedFd<'_>,
    keys: impl Fn(Epoch) -> Option<K>,
    parent: &DirId,
    lower_name: &[u8],
) -> Result<(), FileError> {
    let placed = Placed::read(fd, &keys)?;
    if placed.place.bound == Bound::Linked {
        return Ok(());
    }
    let epoch = placed.place.names_epoch;
    let keys = keys(epoch).ok_or(FileError::NoNamesKey(epoch))?;
    let binding = keys.binding(&placed.file.0, parent, lower_name);
    match placed.place.bound.allows(&binding) {
        true => Ok(()),
        false => Err(FileError::Misplaced),
    }
}

/// What the place record of a file says, and the file's id: not whether it is there.
///
/// # Errors
/// As [`check_place`], but for [`FileError::Misplaced`].
pub fn read_place<K: Deref<Target = PlaceKeys>>(
    fd: BorrowedFd<'_>,
    keys: impl Fn(Epoch) -> Option<K>,
) -> Result<(FileId, Place), FileError> {
    let placed = Placed::read(fd, keys)?;
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
pub fn prepare_move<K: Deref<Target = PlaceKeys>>(
    fd: BorrowedFd<'_>,
    keys: impl Fn(Epoch) -> Option<K>,
    to: &PlaceSeal,
    synced: Synced,
) -> Result<(), FileError> {
    let placed = Placed::read(fd, keys)?;
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
pub fn finish_move<K: Deref<Target = PlaceKeys>>(
    fd: BorrowedFd<'_>,
    keys: impl Fn(Epoch) -> Option<K>,
    to: &PlaceSeal,
    synced: Synced,
) -> Result<(), FileError> {
    let placed = Placed::read(fd, keys)?;
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
    fn read<K: Deref<Target = PlaceKeys>>(
        fd: BorrowedFd<'_>,
        keys: impl Fn(Epoch) -> Option<K>,
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
        let key = |epoch| match keys(epoch) {
            Some(keys) => Some(keys.of(&file.0)),
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
