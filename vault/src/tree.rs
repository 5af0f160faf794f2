//! The upper tree seen from the lower one: what the filesystem, `claviger cat` and `verify` share.
//!
//! Every directory on the way is opened by descriptor, without following symlinks, and its record
//! must verify and belong where it is found.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::dir::{Dir, Type};
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{FileStat, Mode, SFlag, fchmod, fstatat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::dir::{DirError, Location, Record};
use crate::ids::DirId;
use crate::names::{
    DirNames, Lower, LowerName, NameError, NamesKeys, RESERVED, classify, sidecar_of,
};
use crate::replace::{open_dir, read_small};

/// An open lower directory that has verified.
#[derive(Debug)]
pub struct Folder {
    fd: OwnedFd,
    record: Record,
    names: DirNames,
}

/// One name in a lower directory that stands for something above.
#[derive(Debug)]
pub struct Entry {
    /// The lower name.
    pub lower: Vec<u8>,
    /// What it is below: regular files hold content, symlinks sealed targets.
    pub kind: Kind,
    /// The upper name, or why there is none; the latter are not shown above.
    pub upper: Result<Vec<u8>, EntryError>,
}

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A regular file.
    File,
    /// A symbolic link.
    Symlink,
    /// A fifo, socket or device.
    Special,
}

/// A lower name without an upper one.
#[derive(Debug, thiserror::Error)]
pub enum EntryError {
    /// Nothing that Claviger makes; a sidecar whose long name is gone, too.
    #[error("not made by Claviger")]
    Foreign,
    /// Made elsewhere or by another volume, or its name was changed.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A long name whose sidecar cannot be read.
    #[error("sidecar of a long name: {0}")]
    Sidecar(#[source] io::Error),
}

/// An upper path leads nowhere.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// No such file or directory.
    #[error("no such file or directory")]
    NotFound,
    /// Something on the way is not a directory.
    #[error("not a directory")]
    NotADirectory,
    /// No file can have this name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A directory on the way is refused.
    #[error(transparent)]
    Directory(#[from] DirError),
    /// The lower filesystem failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Folder {
    /// Opens the root of a volume, whose lower root is `lower_root`.
    ///
    /// # Errors
    /// [`TreeError::Directory`].
    pub fn root(lower_root: OwnedFd, keys: &NamesKeys) -> Result<Self, TreeError> {
        Self::open(lower_root, keys, Location::ROOT)
    }

    /// Opens the directory `name` in this one.
    ///
    /// # Errors
    /// [`TreeError`].
    pub fn enter(&self, name: &[u8], keys: &NamesKeys) -> Result<Self, TreeError> {
        let lower = self.names.encrypt(name)?;
        let fd = match open_dir(&self.fd, lower.as_bytes()) {
            Ok(fd) => fd,
            Err(error) => return Err(absent(error)),
        };
        let location = Location {
            parent: self.id(),
            lower_name: lower.as_bytes(),
        };
        Self::open(fd, keys, location)
    }

    /// Follows the upper path `path`, relative to this directory, to the directory that its last
    /// component is in, and gives that component's lower name; whether it is there is not looked at.
    /// `None` where the path names this directory itself. `.` is skipped; `..` and symlinks are not
    /// followed.
    ///
    /// # Errors
    /// [`TreeError`].
    pub fn resolve(
        self,
        path: &[u8],
        keys: &NamesKeys,
    ) -> Result<(Self, Option<LowerName>), TreeError> {
        let mut folder = self;
        let components = path.split(|byte| *byte == b'/');
        let mut components = components
            .filter(|name| *name != b"" && *name != b".")
            .peekable();
        while let Some(name) = components.next() {
            if components.peek().is_none() {
                let lower = folder.names.encrypt(name)?;
                return Ok((folder, Some(lower)));
            }
            folder = folder.enter(name, keys)?;
        }
        Ok((folder, None))
    }

    /// All entries, in the order of the lower directory; what is not one of Claviger's as well.
    ///
    /// # Errors
    /// [`TreeError::Io`].
    pub fn entries(&self) -> Result<Vec<Entry>, TreeError> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let mut dir = Dir::openat(&self.fd, ".", flags, Mode::empty()).map_err(io::Error::from)?;
        let mut entries = Vec::new();
        for found in dir.iter() {
            let found = found.map_err(io::Error::from)?;
            let lower = found.file_name().to_bytes();
            let Some(upper) = self.upper_name(lower) else {
                continue;
            };
            let kind = match found.file_type() {
                Some(kind) => Kind::from(kind),
                None => Kind::of(&self.stat(lower)?),
            };
            entries.push(Entry {
                lower: lower.into(),
                kind,
                upper,
            });
        }
        Ok(entries)
    }

    /// What the lower name `lower` is called above; `None` if it is a name that Claviger keeps for
    /// itself.
    fn upper_name(&self, lower: &[u8]) -> Option<Result<Vec<u8>, EntryError>> {
        if lower == RESERVED.as_bytes() && self.id() != DirId::ROOT {
            return Some(Err(EntryError::Foreign));
        }
        upper_name(&self.fd, &self.names, lower)
    }

    /// lstat(2) of a lower name.
    fn stat(&self, lower: &[u8]) -> io::Result<FileStat> {
        Ok(fstatat(&self.fd, lower, AtFlags::AT_SYMLINK_NOFOLLOW)?)
    }

    /// Its id.
    pub fn id(&self) -> DirId {
        self.record.id()
    }

    /// Its record.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// The names in it.
    pub fn names(&self) -> &DirNames {
        &self.names
    }

    fn open(fd: OwnedFd, keys: &NamesKeys, location: Location<'_>) -> Result<Self, TreeError> {
        let record = Record::open(&fd, keys, location)?;
        let names = record.names(keys).map_err(DirError::from)?;
        Ok(Self { fd, record, names })
    }
}

impl AsFd for Folder {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl From<Folder> for OwnedFd {
    fn from(folder: Folder) -> Self {
        folder.fd
    }
}

impl Kind {
    fn of(stat: &FileStat) -> Self {
        match SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT {
            SFlag::S_IFDIR => Self::Directory,
            SFlag::S_IFREG => Self::File,
            SFlag::S_IFLNK => Self::Symlink,
            _ => Self::Special,
        }
    }
}

impl From<Type> for Kind {
    fn from(kind: Type) -> Self {
        match kind {
            Type::Directory => Self::Directory,
            Type::File => Self::File,
            Type::Symlink => Self::Symlink,
            Type::Fifo | Type::Socket | Type::CharacterDevice | Type::BlockDevice => Self::Special,
        }
    }
}

fn absent(error: io::Error) -> TreeError {
    match error.kind() {
        io::ErrorKind::NotFound => TreeError::NotFound,
        // O_DIRECTORY has open(2) say so of symlinks too.
        io::ErrorKind::NotADirectory => TreeError::NotADirectory,
        _ => TreeError::Io(error),
    }
}

/// What the lower name `lower` in the lower directory `dir` is called above; `None` if it is a name
/// that Claviger keeps for itself: the record, a sidecar, `.claviger`, `.` and `..`.
pub fn upper_name(
    dir: impl AsFd,
    names: &DirNames,
    lower: &[u8],
) -> Option<Result<Vec<u8>, EntryError>> {
    match classify(lower) {
        Lower::Entry => Some(names.decrypt(lower).map_err(EntryError::Name)),
        Lower::Long => Some(long_name(dir, names, lower)),
        Lower::Foreign => Some(Err(EntryError::Foreign)),
        Lower::Sidecar | Lower::Record | Lower::Reserved | Lower::Dot => None,
    }
}

fn long_name(dir: impl AsFd, names: &DirNames, lower: &[u8]) -> Result<Vec<u8>, EntryError> {
    let sidecar = sidecar_of(lower).ok_or(EntryError::Foreign)?;
    let content = read_small(dir, &sidecar, LowerName::SIDECAR_MAX);
    let content = content.map_err(EntryError::Sidecar)?;
    Ok(names.decrypt_long(lower, &content)?)
}

/// Writes the sidecar of `name` to the lower directory `dir`, if it needs one: before the name itself
/// appears there. Not synced; the caller syncs `dir` too.
///
/// # Errors
/// What open(2) and write(2) say.
pub fn write_sidecar(dir: impl AsFd, name: &LowerName) -> io::Result<()> {
    let LowerName::Long {
        sidecar, content, ..
    } = name
    else {
        return Ok(());
    };
    let dir = dir.as_fd();
    if read_small(dir, sidecar, LowerName::SIDECAR_MAX).is_ok_and(|there| there == *content) {
        return Ok(());
    }
    // Cut short by a crash, or put there by someone: never written through, for it may be a link to
    // another file.
    remove_sidecar(dir, name)?;
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
    let mode = Mode::from_bits_truncate(0o644);
    let mut file = File::from(openat(dir, sidecar.as_str(), flags, mode)?);
    fchmod(&file, mode)?;
    file.write_all(content)
}

/// Removes the sidecar of `name` from the lower directory `dir`, if it has one: after the name itself
/// is gone from there.
///
/// # Errors
/// What unlink(2) says; one that is not there is no error.
pub fn remove_sidecar(dir: impl AsFd, name: &LowerName) -> io::Result<()> {
    let LowerName::Long { sidecar, .. } = name else {
        return Ok(());
    };
    match unlinkat(dir, sidecar.as_str(), UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(nix::Error::ENOENT) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests;
