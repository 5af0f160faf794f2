//! getattr and setattr, and what goes with a change of content: suid bits and times.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::SystemTime;

use fuser::{FileAttr, FileHandle};
use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::stat::{FileStat, Mode, fstat, futimens};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchownat};

use crate::attr::timespec;
use crate::caller::{Caller, SuidOnChange};
use crate::failure::OpError;
use crate::filesystem::VolumeFs;
use crate::inode::{Inode, ROOT};
use crate::lower::Pinned;
use crate::open::{OpenUse, Want};
use crate::sys;

/// What setattr changes; `None` stays.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Change {
    pub(crate) mode: Option<u32>,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
    pub(crate) size: Option<u64>,
    pub(crate) atime: NewTime,
    pub(crate) mtime: NewTime,
}

/// A time that setattr sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NewTime {
    Unchanged,
    Now,
    At(SystemTime),
}

impl NewTime {
    fn timespec(self) -> libc::timespec {
        let special = |tv_nsec| libc::timespec { tv_sec: 0, tv_nsec };
        match self {
            Self::Unchanged => special(libc::UTIME_OMIT),
            Self::Now => special(libc::UTIME_NOW),
            Self::At(time) => timespec(time),
        }
    }
}

impl VolumeFs {
    /// Attributes of an inode; of the root even while the volume is locked.
    pub(crate) fn getattr(&self, ino: u64, fh: Option<FileHandle>) -> Result<FileAttr, OpError> {
        if ino == ROOT {
            let stat = fstat(&self.lower)?;
            return self.attributes_of(self.inodes.root(), &stat);
        }
        let inode = match fh.and_then(|fh| self.files.find(fh)) {
            Some(handle) => {
                self.tree()?;
                Arc::clone(handle.inode())
            }
            None => self.inode(ino)?,
        };
        let stat = self.stat_any(&inode)?;
        self.attributes_of(&inode, &stat)
    }

    /// Changes attributes, then calls `done`: at once, or when the caller has been granted the file
    /// that he truncates.
    pub(crate) fn setattr(
        self: &Arc<Self>,
        caller: Caller,
        ino: u64,
        fh: Option<FileHandle>,
        change: Change,
        done: impl FnOnce(Result<FileAttr, OpError>) + Send + 'static,
    ) {
        let inode = match self.inode(ino) {
            Ok(inode) => inode,
            Err(error) => return done(Err(error)),
        };
        let Some(size) = change.size else {
            return done(self.change(&inode, caller, change));
        };
        let fs = Arc::clone(self);
        let resized = Arc::clone(&inode);
        let resize = move |open: Result<OpenUse, OpError>| {
            // The open file is held until its new size has been told.
            let resized = open.and_then(|open| {
                open.truncate(size)?;
                // truncate(2) sets the time even where the size stays.
                let mtime = match change.mtime {
                    NewTime::Unchanged => NewTime::Now,
                    mtime => mtime,
                };
                fs.change(&resized, caller, Change { mtime, ..change })
            });
            done(resized);
        };
        match fh.and_then(|fh| self.files.find(fh)) {
            Some(handle) => resize(handle.writable()),
            None if size == 0 => self.grant(inode, caller, Want::Truncated, Box::new(resize)),
            None => self.grant(inode, caller, Want::Write, Box::new(resize)),
        }
    }

    /// Clears the set-user-id and set-group-id bits of a file whose content changes.
    pub(crate) fn clear_suid(&self, lower: BorrowedFd<'_>) -> Result<(), OpError> {
        let stat = fstat(lower)?;
        if let Some(mode) = without_suid(&stat) {
            nix::sys::stat::fchmod(lower, mode)?;
        }
        Ok(())
    }

    /// Everything but the size.
    fn change(
        &self,
        inode: &Arc<Inode>,
        caller: Caller,
        change: Change,
    ) -> Result<FileAttr, OpError> {
        let pinned = self.hold(inode)?;
        let set = || {
            set_permissions(&pinned, caller, &change)?;
            set_times(&pinned, &change)
        };
        // Times and set-id bits are put back after what is not content has been written, unless something
        // changed meanwhile: such as these.
        match inode.open.file() {
            Some(open) => open.set_attributes(pinned.fd.as_fd(), set)?,
            None => set()?,
        }
        let stat = fstat(&pinned.fd)?;
        self.attributes_of(inode, &stat)
    }

    /// Holds the lower object, even one that has no name any more but is open.
    pub(crate) fn hold(&self, inode: &Arc<Inode>) -> Result<Pinned, OpError> {
        if let Some(fd) = inode.open.lower()? {
            let stat = fstat(&fd)?;
            return Ok(Pinned { fd, stat });
        }
        self.pin(inode)
    }

    /// Attributes of the lower object, even of one that has no name any more but is open.
    fn stat_any(&self, inode: &Arc<Inode>) -> Result<FileStat, OpError> {
        match inode.open.stat() {
            Some(stat) => Ok(stat?),
            None => self.stat(inode),
        }
    }
}

fn set_permissions(pinned: &Pinned, caller: Caller, change: &Change) -> Result<(), OpError> {
    if change.uid.is_some() || change.gid.is_some() {
        let (uid, gid) = (change.uid.map(Uid::from_raw), change.gid.map(Gid::from_raw));
        // The lower kernel clears the suid bits of what is not a directory.
        fchownat(&pinned.fd, "", uid, gid, AtFlags::AT_EMPTY_PATH)?;
    }
    if let Some(mode) = change.mode {
        pinned.set_mode(Mode::from_bits_truncate(mode & 0o7777))?;
    } else if change.size.is_some()
        && caller.suid_on_change() == SuidOnChange::Clear
        && let Some(mode) = without_suid(&pinned.stat)
    {
        pinned.set_mode(mode)?;
    }
    Ok(())
}

fn set_times(pinned: &Pinned, change: &Change) -> Result<(), OpError> {
    if (change.atime, change.mtime) == (NewTime::Unchanged, NewTime::Unchanged) {
        return Ok(());
    }
    let (atime, mtime) = (change.atime.timespec(), change.mtime.timespec());
    Ok(sys::set_times(pinned.fd.as_fd(), atime, mtime)?)
}

/// Sets the modification time to now.
pub(crate) fn touch(lower: BorrowedFd<'_>) -> Result<(), Errno> {
    futimens(lower, &TimeSpec::UTIME_OMIT, &TimeSpec::UTIME_NOW)
}

/// The mode that a change of content leaves; `None` if it stays. As Linux does it: set-group-id
/// without group execution is not a privilege but mandatory locking's mark.
fn without_suid(stat: &FileStat) -> Option<Mode> {
    let group_exec = stat.st_mode & libc::S_IXGRP != 0;
    let drop = libc::S_ISUID | if group_exec { libc::S_ISGID } else { 0 };
    (stat.st_mode & drop != 0).then(|| Mode::from_bits_truncate(stat.st_mode & 0o7777 & !drop))
}
