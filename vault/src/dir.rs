//! The record of a directory: its id, the epoch of its names, and where it belongs.
//!
//! ```text
//! 0    8    magic "\x93CLVDIR\0"
//! 8    2    version, 0
//! 10   2    flags, 0
//! 12   4    names epoch: whose names key encrypts the names in the directory
//! 16   16   own id; zero for the root
//! 32   16   zero
//! 48   128  place record A, whose HMAC covers the first 48 bytes as well
//! 176  128  place record B, likewise
//! 304  208  zero
//! ```
//!
//! Lengths are bytes, integers little-endian. Every lower directory has one, named
//! [`RECORD`]. The root's says that it belongs nowhere: parent zero, no name.
//!
//! A rename first lets the directory open at its new place as well ([`Record::prepare_move`]), and
//! binds it there afterwards ([`Record::finish_move`]), so that a crash at any moment leaves a
//! directory that opens where it is. Of the two place records the one that counts is never written
//! over before the other is durable; see the writing rules W2 and W9 in `docs/format.md`.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, fchmod};

use crate::ids::{DirId, Epoch};
use crate::names::{DirNames, EpochRefused, NamesKeys, RECORD};
use crate::native::octets::{Octets, is_zero, join};
use crate::native::{Bound, PLACE_LEN, Place, PlaceCopy, newest_place};

/// Length of a record in bytes.
pub const RECORD_LEN: usize = 512;

/// The first bytes of every record.
pub const MAGIC: [u8; 8] = *b"\x93CLVDIR\0";
/// The version this crate reads and writes. Version 0 is free to change.
pub const VERSION: u16 = 0;

/// What the HMAC of a place record covers ahead of it; also where place record A begins.
const FIXED_LEN: usize = 48;

/// A directory's record, which has verified.
#[derive(Debug)]
pub struct Record {
    id: DirId,
    names_epoch: Epoch,
    /// The copy that counts, what it says, and whether it is durable.
    copy: PlaceCopy,
    place: Place,
    durable: Durable,
    other: Other,
}

/// Whether the copy that counts was seen to reach the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Durable {
    Yes,
    Unknown,
}

/// What the copy that does not count holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Other {
    /// Zeros: it was never written.
    Empty,
    /// An older record, or anything else.
    InUse,
}

/// Where a directory is: the name of its lower directory, and the directory that is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Location<'a> {
    /// Id of the parent directory.
    pub parent: DirId,
    /// Name in the parent's lower directory.
    pub lower_name: &'a [u8],
}

/// A directory cannot be opened or bound.
#[derive(Debug, thiserror::Error)]
pub enum DirError {
    /// No record, or an empty one: not made by Claviger, or a crash came before it reached the disk.
    /// The directory can still be removed.
    #[error("directory has no record: it never reached the disk, or is not Claviger's")]
    NeverReachedDisk,
    /// Neither copy verifies: changed, of another volume, or forged.
    #[error("directory record is not authentic")]
    NotAuthentic,
    /// Written by a newer program.
    #[error("directory record has version {0}; this program knows up to {VERSION}")]
    Version(u16),
    /// The record belongs to another place: the directory was moved or exchanged below.
    #[error("directory does not belong here: it was moved or exchanged in the lower folder")]
    Misplaced,
    /// Its names are of an epoch that is not accepted.
    #[error(transparent)]
    Epoch(#[from] EpochRefused),
    /// The lower filesystem failed.
    #[error("directory record: {0}")]
    Io(#[from] io::Error),
}

impl From<nix::Error> for DirError {
    fn from(errno: nix::Error) -> Self {
        Self::Io(errno.into())
    }
}

impl Location<'_> {
    /// Of the root: it is in no directory of the volume.
    pub const ROOT: Self = Location {
        parent: DirId::ROOT,
        lower_name: b"",
    };
}

impl Record {
    /// Makes the record of the new, empty lower directory `dir`, in the current epoch. Not synced.
    ///
    /// # Errors
    /// [`DirError::Io`], [`io::ErrorKind::AlreadyExists`] among them.
    pub fn create(
        dir: impl AsFd,
        keys: &NamesKeys,
        location: Location<'_>,
    ) -> Result<Self, DirError> {
        let id = if location == Location::ROOT {
            DirId::ROOT
        } else {
            DirId::random()
        };
        let bound = bound_to(keys, id, location)?;
        let place = Place {
            seq: 1,
            names_epoch: keys.current(),
            bound,
        };
        let record = Self::new(id, place);
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
        // Whoever may list the directory may read it; it tells nothing without the names key.
        let mode = Mode::from_bits_truncate(0o644);
        let file = File::from(openat(dir, RECORD, flags, mode)?);
        fchmod(&file, mode)?;
        file.write_all_at(&record.write(keys)?, 0)?;
        Ok(record)
    }

    /// The record of a directory whose names are of the epoch that its place is bound in.
    fn new(id: DirId, place: Place) -> Self {
        Self {
            id,
            names_epoch: place.names_epoch,
            copy: PlaceCopy::A,
            place,
            durable: Durable::Unknown,
            other: Other::Empty,
        }
    }

    /// Reads the record of the lower directory `dir`, which must belong at `location`.
    ///
    /// # Errors
    /// [`DirError`].
    pub fn open(
        dir: impl AsFd,
        keys: &NamesKeys,
        location: Location<'_>,
    ) -> Result<Self, DirError> {
        let record = Self::read(dir, keys)?;
        let places = keys.places(record.place.names_epoch)?;
        let here = places.binding(&record.id.0, &location.parent, location.lower_name);
        if !record.place.bound.allows(&here) {
            return Err(DirError::Misplaced);
        }
        Ok(record)
    }

    /// Reads the record of the lower directory `dir`, wherever that is.
    fn read(dir: impl AsFd, keys: &NamesKeys) -> Result<Self, DirError> {
        let file = match openat(dir, RECORD, open_flags(OFlag::O_RDONLY), Mode::empty()) {
            Ok(fd) => File::from(fd),
            Err(nix::Error::ENOENT) => return Err(DirError::NeverReachedDisk),
            Err(errno) => return Err(errno.into()),
        };
        let mut bytes = Vec::with_capacity(RECORD_LEN + 1);
        file.take(RECORD_LEN as u64 + 1).read_to_end(&mut bytes)?;
        Self::parse(&bytes, keys)
    }

    /// Parses a record. What it says of its place is not judged here.
    pub(crate) fn parse(bytes: &[u8], keys: &NamesKeys) -> Result<Self, DirError> {
        if is_zero(bytes) {
            return Err(DirError::NeverReachedDisk);
        }
        let bytes: &[u8; RECORD_LEN] = bytes.try_into().map_err(|_| DirError::NotAuthentic)?;
        Self::fields(bytes, keys).ok_or(DirError::NotAuthentic)?
    }

    fn fields(bytes: &[u8; RECORD_LEN], keys: &NamesKeys) -> Option<Result<Self, DirError>> {
        let mut octets = Octets(bytes);
        let fixed = octets.array::<FIXED_LEN>()?;
        let places = octets.array::<{ 2 * PLACE_LEN }>()?;
        let rest = octets.0;

        let mut octets = Octets(fixed);
        let (magic, version, flags) = (octets.array::<8>()?, octets.u16()?, octets.u16()?);
        let (names_epoch, id) = (Epoch(octets.u32()?), DirId(*octets.array()?));
        if *magic != MAGIC {
            return None;
        }
        if version != VERSION {
            return Some(Err(DirError::Version(version)));
        }
        if flags != 0 || !is_zero(octets.0) || !is_zero(rest) {
            return None;
        }
        if let Err(refused) = keys.places(names_epoch) {
            return Some(Err(refused.into()));
        }
        let key = |epoch| Some(keys.places(epoch).ok()?.of(&id.0));
        let (copy, place) = newest_place(places, key, fixed)?;
        if place.bound == Bound::Linked {
            // A directory has one name; this would let it open anywhere.
            return None;
        }
        let (_, other) = places.split_at(copy.other().offset());
        let unwritten = is_zero(other.first_chunk::<PLACE_LEN>()?);
        Some(Ok(Self {
            id,
            names_epoch,
            copy,
            place,
            durable: Durable::Unknown,
            other: if unwritten {
                Other::Empty
            } else {
                Other::InUse
            },
        }))
    }

    /// The directory's id.
    pub fn id(&self) -> DirId {
        self.id
    }

    /// The epoch whose names key encrypts the names in it.
    pub fn names_epoch(&self) -> Epoch {
        self.names_epoch
    }

    /// The epoch under whose key it is bound to its place.
    pub fn place_epoch(&self) -> Epoch {
        self.place.names_epoch
    }

    /// The names in it.
    ///
    /// # Errors
    /// [`EpochRefused`] if `keys` are not those that the record was read with.
    pub fn names(&self, keys: &NamesKeys) -> Result<DirNames, EpochRefused> {
        keys.directory(self.names_epoch, self.id)
    }

    /// The record of a new directory: place record A counts, B is zero.
    fn write(&self, keys: &NamesKeys) -> Result<[u8; RECORD_LEN], EpochRefused> {
        Ok(join(&[&self.fixed(), &self.place_bytes(keys)?]))
    }

    fn place_bytes(&self, keys: &NamesKeys) -> Result<[u8; PLACE_LEN], EpochRefused> {
        let places = keys.places(self.place.names_epoch)?;
        Ok(self.place.write(&places.of(&self.id.0), &self.fixed()))
    }

    fn fixed(&self) -> [u8; FIXED_LEN] {
        join(&[
            &MAGIC,
            &VERSION.to_le_bytes(),
            &0_u16.to_le_bytes(),
            &self.names_epoch.0.to_le_bytes(),
            &self.id.0,
        ])
    }
}

fn bound_to(keys: &NamesKeys, id: DirId, location: Location<'_>) -> Result<Bound, EpochRefused> {
    let places = keys.places(keys.current())?;
    let here = places.binding(&id.0, &location.parent, location.lower_name);
    Ok(Bound::Here(here))
}

/// What was put there instead of a record is not followed, and does not block.
fn open_flags(access: OFlag) -> OFlag {
    access | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK
}

mod moving;
#[cfg(test)]
pub(crate) mod tests;
