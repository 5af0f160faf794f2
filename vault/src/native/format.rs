//! The native format, as mounts use it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::fcntl::{FallocateFlags, fallocate};

use super::{
    Access, Feks, FileError, FixedPart, Links, NativeFile, PAGE, PlaceKeys, PlaceSeal, check_place,
    lower, stat_size,
};
use crate::dir::{Location, Record};
use crate::format::{
    self, Begun, Carrier, Content, Edition, FileKeys, Folder, Format, FormatError, KeysMark,
    LowerObject, NewFile, Ranges, Settles, Sized, Tree,
};
use crate::ids::{DirId, Epoch, Scope, VolumeId};
use crate::names::{DirNames, LowerName, NAME_MAX, NamesKeys};
use crate::symlink;
use crate::tree::{EntryError, upper_name};
use crate::xattr::{Attributes, Owner};

/// The native format in one volume.
#[derive(Clone, Copy, Debug)]
pub struct NativeFormat {
    /// Whose files are opened; those of others are refused.
    pub volume: VolumeId,
}

/// The names keys, and what a file costs to open: it decides how many header pages a new one has.
#[derive(Debug)]
pub struct NativeTree {
    /// Of all epochs that are accepted.
    pub names: NamesKeys,
    /// The volume's.
    pub scope: Scope,
}

/// What opens a native file: the head it was asked for by, and what the daemon made of it.
#[derive(Debug)]
pub struct NativeKeys {
    /// As [`NativeFile::read_head`] gave it.
    pub head: Vec<u8>,
    /// The FEKs that it seals.
    pub feks: Feks,
    /// The epoch that it is sealed under.
    pub epoch: Epoch,
}

/// What a new native file starts with, made by the daemon.
#[derive(Debug)]
pub struct NewNative {
    /// The epoch whose key seals `head`.
    pub epoch: Epoch,
    /// The head of the new lower file.
    pub head: Vec<u8>,
    /// The FEKs that `head` seals.
    pub feks: Feks,
}

impl Format for NativeFormat {
    fn name_max(&self) -> u32 {
        NAME_MAX as u32
    }

    /// `.claviger`.
    fn hidden_in_root(&self) -> u32 {
        1
    }

    fn begin(&self, lower: OwnedFd, _access: Access) -> Result<Begun, FormatError> {
        let head = match NativeFile::read_head(lower.as_fd()) {
            Err(FileError::NeverReachedDisk) => return Ok(Begun::NeverReachedDisk(lower)),
            head => head?,
        };
        let FixedPart { volume, .. } = fixed_part(&head)?;
        if volume != self.volume {
            let text = format!("file belongs to volume {volume}");
            return Err(FormatError::Damaged(text));
        }
        Ok(Begun::Sealed { lower, head })
    }
}

impl Tree for NativeTree {
    fn folder(
        &self,
        dir: BorrowedFd<'_>,
        at: Location<'_>,
    ) -> Result<Box<dyn Folder>, FormatError> {
        let record = Record::open(dir, &self.names, at)?;
        Ok(Box::new(record.names(&self.names)?))
    }

    fn size(&self, kind: Sized, lower_len: u64, _object: &dyn LowerObject) -> u64 {
        match kind {
            Sized::File => stat_size(lower_len, self.scope),
            Sized::Symlink => symlink::target_len(lower_len),
        }
    }

    fn attributes<'a>(
        &'a self,
        carrier: Carrier<'_>,
    ) -> Result<Box<dyn format::Attributes + 'a>, FormatError> {
        let owner = match carrier {
            Carrier::Folder(folder) => Owner::Directory(folder.id()),
            Carrier::File(file) => {
                let mut fixed = [0; FIXED_LEN];
                if lower::read_at(file.open()?.as_fd(), 0, &mut fixed)? < FIXED_LEN {
                    return Err(FileError::NeverReachedDisk.into());
                }
                Owner::File(FixedPart::parse(&fixed)?.file)
            }
        };
        Ok(Box::new(Attributes::new(&self.names, owner)))
    }

    fn names_keys(&self) -> Option<&NamesKeys> {
        Some(&self.names)
    }
}

impl Folder for DirNames {
    fn id(&self) -> DirId {
        self.dir()
    }

    fn encrypt(&self, name: &[u8]) -> Result<LowerName, FormatError> {
        Ok(self.encrypt(name)?)
    }

    fn upper_name(&self, dir: BorrowedFd<'_>, lower: &[u8]) -> Option<Result<Vec<u8>, EntryError>> {
        upper_name(dir, self, lower)
    }

    fn seal_target(&self, target: &[u8]) -> Result<Vec<u8>, FormatError> {
        Ok(symlink::seal(self, target)?.into_bytes())
    }

    fn open_target(&self, lower: &[u8]) -> Result<Vec<u8>, FormatError> {
        Ok(symlink::open(self, lower)?)
    }
}

impl FileKeys for NativeKeys {
    fn mark(&self) -> KeysMark {
        mark(&self.feks)
    }

    fn open(
        self: Box<Self>,
        lower: OwnedFd,
        access: Access,
        tree: &dyn Tree,
        at: Option<Location<'_>>,
    ) -> Result<Box<dyn Content>, FormatError> {
        let names = names_keys(tree)?;
        if self.epoch < names.minimum() {
            let text = format!("sealed under epoch {}, which is over", self.epoch);
            return Err(FormatError::Damaged(text));
        }
        if let Some(Location { parent, lower_name }) = at {
            check_place(lower.as_fd(), places_of(names), &parent, lower_name)?;
        }
        let file = NativeFile::open(lower, &self.head, self.feks, access)?;
        Ok(Box::new(file))
    }
}

impl NewFile for NewNative {
    fn epoch(&self) -> Option<Epoch> {
        Some(self.epoch)
    }

    fn mark(&self) -> KeysMark {
        mark(&self.feks)
    }

    fn create(
        self: Box<Self>,
        lower: OwnedFd,
        tree: &dyn Tree,
        at: Location<'_>,
        links: Links,
    ) -> Result<Box<dyn Content>, FormatError> {
        let names = names_keys(tree)?;
        let keys = (names.current(), names.places(names.current())?);
        let file = fixed_part(&self.head)?.file;
        let place = PlaceSeal::new(keys, &file.0, &at.parent, at.lower_name, links);
        let file = NativeFile::create(lower, &self.head, self.feks, place)?;
        Ok(Box::new(file))
    }
}

impl Content for NativeFile {
    fn size(&self) -> u64 {
        self.size()
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<usize, FormatError> {
        Ok(self.read_at(offset, out)?)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<(), FormatError> {
        Ok(self.write_at(offset, data)?)
    }

    fn truncate(&self, size: u64) -> Result<(), FormatError> {
        Ok(self.truncate(size)?)
    }

    fn sync(&self) -> Result<(), FormatError> {
        Ok(self.sync()?)
    }

    fn edition(&self) -> Option<Edition> {
        let (seq, size) = self.told()?;
        let file = self.fixed().file;
        Some(Edition { file, seq, size })
    }

    fn settles(&self) -> Option<&dyn Settles> {
        Some(self)
    }

    fn ranges(&self) -> Option<&dyn Ranges> {
        Some(self)
    }
}

impl Settles for NativeFile {
    fn made_durable(&self) -> Result<(), FormatError> {
        Ok(self.made_durable()?)
    }

    fn announces(&self) -> bool {
        self.announces()
    }
}

impl Ranges for NativeFile {
    fn allocate(&self, offset: u64, len: u64) -> Result<(), FormatError> {
        Ok(self.allocate(offset, len)?)
    }

    fn punch(&self, offset: u64, len: u64) -> Result<(), FormatError> {
        Ok(self.punch(offset, len)?)
    }

    /// A block is at least as far into the lower file as into the upper one, and at most by its header
    /// pages and one slot page for each segment of 64 further.
    fn reserve(&self, offset: u64, end: u64) -> Result<(), FormatError> {
        let page = PAGE as u64;
        let end = end.checked_add((end / (64 * page) + 3) * page);
        let end = end.ok_or(FormatError::TooLarge)?;
        let signed = |length| i64::try_from(length).map_err(|_| FormatError::TooLarge);
        let (start, len) = (signed(offset)?, signed(end - offset)?);
        Ok(fallocate(
            self.lower(),
            FallocateFlags::FALLOC_FL_KEEP_SIZE,
            start,
            len,
        )?)
    }

    fn seek_data(&self, offset: u64) -> Result<Option<u64>, FormatError> {
        Ok(self.seek_data(offset)?)
    }

    fn seek_hole(&self, offset: u64) -> Result<Option<u64>, FormatError> {
        Ok(self.seek_hole(offset)?)
    }
}

/// The keys of place records, as functions of this module ask for them.
pub fn places_of<'a>(names: &'a NamesKeys) -> impl Fn(Epoch) -> Option<&'a PlaceKeys> {
    |epoch| names.places(epoch).ok()
}

fn mark(feks: &Feks) -> KeysMark {
    KeysMark::of(feks.iter().map(|fek| fek.expose().as_slice()))
}

/// Length of the fixed part of a file.
const FIXED_LEN: usize = 64;

fn fixed_part(head: &[u8]) -> Result<FixedPart, FormatError> {
    let fixed = head.first_chunk().ok_or(FileError::NeverReachedDisk)?;
    Ok(FixedPart::parse(fixed)?)
}

fn names_keys(tree: &dyn Tree) -> Result<&NamesKeys, FormatError> {
    let other = || io::Error::other("a native file in a folder of another format");
    Ok(tree.names_keys().ok_or_else(other)?)
}
