//! What stat(2) says of an object, as far as a migration keeps it.

use nix::sys::stat::FileStat;
use serde::{Deserialize, Serialize};

/// The bits of a mode that chmod(2) sets.
const PERMISSIONS: u32 = 0o7777;

/// What an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Kind {
    Directory,
    File,
    Symlink,
    Fifo,
    Socket,
    CharDevice,
    BlockDevice,
}

impl Kind {
    fn of(mode: u32) -> Self {
        match mode & libc::S_IFMT {
            libc::S_IFDIR => Self::Directory,
            libc::S_IFLNK => Self::Symlink,
            libc::S_IFIFO => Self::Fifo,
            libc::S_IFSOCK => Self::Socket,
            libc::S_IFCHR => Self::CharDevice,
            libc::S_IFBLK => Self::BlockDevice,
            _ => Self::File,
        }
    }
}

/// A time, in seconds since 1970 and nanoseconds after those.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Time {
    pub(super) seconds: i64,
    pub(super) nanoseconds: i64,
}

/// What stat(2) says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Object {
    pub(super) kind: Kind,
    pub(super) device: u64,
    pub(super) ino: u64,
    pub(super) links: u64,
    /// Of files and symlinks; 0 for others, whose size is the filesystem's business.
    pub(super) size: u64,
    /// Bytes on the disk.
    pub(super) allocated: u64,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Of a device.
    pub(super) number: u64,
    pub(super) accessed: Time,
    pub(super) modified: Time,
    pub(super) changed: Time,
}

impl Object {
    pub(super) fn of(stat: &FileStat) -> Self {
        let kind = Kind::of(stat.st_mode);
        let positive = |value: i64| u64::try_from(value).unwrap_or(0);
        let time = |seconds, nanoseconds| Time {
            seconds,
            nanoseconds,
        };
        Self {
            kind,
            device: stat.st_dev,
            ino: stat.st_ino,
            links: stat.st_nlink,
            size: match kind {
                Kind::File | Kind::Symlink => positive(stat.st_size),
                _ => 0,
            },
            allocated: positive(stat.st_blocks) * 512,
            mode: stat.st_mode & PERMISSIONS,
            uid: stat.st_uid,
            gid: stat.st_gid,
            number: match kind {
                Kind::CharDevice | Kind::BlockDevice => stat.st_rdev,
                _ => 0,
            },
            accessed: time(stat.st_atime, stat.st_atime_nsec),
            modified: time(stat.st_mtime, stat.st_mtime_nsec),
            changed: time(stat.st_ctime, stat.st_ctime_nsec),
        }
    }

    /// By what it is known again.
    pub(super) fn stamp(&self) -> Stamp {
        Stamp {
            kind: self.kind,
            ino: self.ino,
            links: self.links,
            size: self.size,
            modified: self.modified,
            changed: self.changed,
        }
    }

    /// Whether another name of it may be met.
    pub(super) fn has_other_names(&self) -> bool {
        self.links > 1 && self.kind != Kind::Directory
    }
}

/// By what an unchanged object is known again: whatever changes it moves one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stamp {
    pub(super) kind: Kind,
    pub(super) ino: u64,
    pub(super) links: u64,
    pub(super) size: u64,
    pub(super) modified: Time,
    pub(super) changed: Time,
}
