//! Directories and what is in them, by descriptors: a name is looked up in a directory that is held, and
//! a symlink is never followed. So nobody can turn the way of a path under us, and paths may be of any
//! length.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open, openat};
use nix::sys::stat::{Mode, fstat, fstatat};

use super::object::{Kind, Object};

/// How anything is opened: without following it, waiting for it or keeping it for a child.
const SAFELY: OFlag = OFlag::O_NOFOLLOW
    .union(OFlag::O_NONBLOCK)
    .union(OFlag::O_NOCTTY)
    .union(OFlag::O_CLOEXEC);

/// A directory that is held open.
#[derive(Debug)]
pub(crate) struct Folder(OwnedFd);

impl Folder {
    /// Opens the root of a tree; symlinks on the way to it are followed.
    pub(crate) fn open(path: &Path) -> Result<Self, Errno> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        leaving_its_time(flags, |flags| open(path, flags, Mode::empty())).map(Self)
    }

    /// Opens the directory `name` in it.
    pub(super) fn enter(&self, name: &OsStr) -> Result<Self, Errno> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | SAFELY;
        leaving_its_time(flags, |flags| openat(&self.0, name, flags, Mode::empty())).map(Self)
    }

    /// Opens the directory at `path` below it.
    pub(super) fn enter_all(&self, path: &Path) -> Result<Self, Errno> {
        let mut folder = self.enter(OsStr::new("."))?;
        for name in path {
            folder = folder.enter(name)?;
        }
        Ok(folder)
    }

    /// The names in it, in order.
    pub(super) fn names(&self) -> Result<Vec<OsString>, Errno> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let mut dir = leaving_its_time(flags, |flags| {
            Dir::openat(&self.0, ".", flags, Mode::empty())
        })?;
        let mut names = Vec::new();
        for entry in dir.iter() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(OsStr::from_bytes(name).to_owned());
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// What `name` in it is, if it is there.
    pub(super) fn find(&self, name: &OsStr) -> Result<Option<Object>, Errno> {
        match fstatat(&self.0, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(Object::of(&stat))),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// What it is itself.
    pub(super) fn object(&self) -> Result<Object, Errno> {
        Ok(Object::of(&fstat(&self.0)?))
    }

    /// Opens the file `name` in it for reading.
    pub(super) fn read(&self, name: &OsStr) -> Result<File, Errno> {
        let flags = OFlag::O_RDONLY | SAFELY;
        leaving_its_time(flags, |flags| openat(&self.0, name, flags, Mode::empty())).map(File::from)
    }

    /// Opens the file `name` in it for reading, and holds what is no file without opening it.
    pub(super) fn hold(&self, name: &OsStr, kind: Kind) -> Result<File, Errno> {
        match kind {
            Kind::File => self.read(name),
            _ => self.pin(name).map(File::from),
        }
    }

    /// Makes the file `name` in it, which is not there, readable to its owner only.
    pub(super) fn make(&self, name: &OsStr) -> Result<File, Errno> {
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL | SAFELY;
        openat(&self.0, name, flags, Mode::S_IRUSR | Mode::S_IWUSR).map(File::from)
    }

    /// Opens the file `name` in it for reading and writing.
    pub(super) fn change(&self, name: &OsStr) -> Result<File, Errno> {
        openat(&self.0, name, OFlag::O_RDWR | SAFELY, Mode::empty()).map(File::from)
    }

    /// Holds `name` in it, whatever it is, without opening it.
    pub(super) fn pin(&self, name: &OsStr) -> Result<OwnedFd, Errno> {
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        openat(&self.0, name, flags, Mode::empty())
    }
}

impl AsFd for Folder {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A path to what `held` holds, for calls that take no `O_PATH` descriptor.
pub(super) fn proc_path(held: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", held.as_raw_fd()))
}

/// Opens with `O_NOATIME`, which the kernel grants to the owner and to root only.
fn leaving_its_time<T>(flags: OFlag, open: impl Fn(OFlag) -> Result<T, Errno>) -> Result<T, Errno> {
    match open(flags | OFlag::O_NOATIME) {
        Err(Errno::EPERM) => open(flags),
        opened => opened,
    }
}
