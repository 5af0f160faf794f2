//! Attributes: from the lower object's to what the kernel is told.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{FileAttr, FileType, INodeNo};
use nix::sys::stat::FileStat;

/// Type of a file, as the upper bits of `st_mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kind(u32);

impl Kind {
    pub(crate) const REGULAR: Self = Self(libc::S_IFREG);
    pub(crate) const DIRECTORY: Self = Self(libc::S_IFDIR);
    pub(crate) const SYMLINK: Self = Self(libc::S_IFLNK);

    /// The kind in a mode.
    pub(crate) fn of_mode(mode: u32) -> Self {
        Self(mode & libc::S_IFMT)
    }

    /// The kind of a lower object.
    pub(crate) fn of(stat: &FileStat) -> Self {
        Self::of_mode(stat.st_mode)
    }

    /// As `fuser` names it.
    pub(crate) fn file_type(self) -> FileType {
        match self.0 {
            libc::S_IFDIR => FileType::Directory,
            libc::S_IFLNK => FileType::Symlink,
            libc::S_IFIFO => FileType::NamedPipe,
            libc::S_IFSOCK => FileType::Socket,
            libc::S_IFCHR => FileType::CharDevice,
            libc::S_IFBLK => FileType::BlockDevice,
            _ => FileType::RegularFile,
        }
    }

    /// From a directory entry's `d_type`.
    pub(crate) fn of_dirent(d_type: u8) -> Self {
        // dirent.h: DTTOIF.
        Self(u32::from(d_type) << 12)
    }
}

/// What the kernel is told of a lower object that shows `size` bytes above.
pub(crate) fn attributes(ino: u64, stat: &FileStat, size: u64) -> FileAttr {
    FileAttr {
        ino: INodeNo(ino),
        size,
        blocks: unsigned(stat.st_blocks),
        atime: time(stat.st_atime, stat.st_atime_nsec),
        mtime: time(stat.st_mtime, stat.st_mtime_nsec),
        ctime: time(stat.st_ctime, stat.st_ctime_nsec),
        crtime: UNIX_EPOCH,
        kind: Kind::of(stat).file_type(),
        perm: (stat.st_mode & 0o7777) as u16,
        nlink: u32::try_from(stat.st_nlink).unwrap_or(u32::MAX),
        uid: stat.st_uid,
        gid: stat.st_gid,
        // The kernel's own 32-bit coding; fuser hands it through.
        rdev: (libc::major(stat.st_rdev) << 8)
            | (libc::minor(stat.st_rdev) & 0xff)
            | ((libc::minor(stat.st_rdev) & !0xff) << 12),
        blksize: 4096,
        flags: 0,
    }
}

/// A time of a lower object; before 1970 too.
pub(crate) fn time(seconds: i64, nanoseconds: i64) -> SystemTime {
    let nanoseconds = Duration::from_nanos(unsigned(nanoseconds));
    let whole = Duration::from_secs(seconds.unsigned_abs());
    if seconds < 0 {
        UNIX_EPOCH - whole + nanoseconds
    } else {
        UNIX_EPOCH + whole + nanoseconds
    }
}

/// A time of a request, for utimensat(2). `fuser` 0.18 takes seconds and nanoseconds of a time before
/// 1970 both as before it (`system_time_from_time`); in the kernel's timespec only the seconds are.
pub(crate) fn timespec(time: SystemTime) -> libc::timespec {
    let (seconds, nanoseconds) = match time.duration_since(UNIX_EPOCH) {
        Ok(after) => (signed(after.as_secs()), after.subsec_nanos()),
        Err(before) => {
            let before = before.duration();
            (-signed(before.as_secs()), before.subsec_nanos())
        }
    };
    libc::timespec {
        tv_sec: seconds,
        tv_nsec: i64::from(nanoseconds),
    }
}

/// Sizes and counts of `stat` are never negative.
pub(crate) fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_before_1970_is_told_as_seconds_before_it_and_nanoseconds_after_those() {
        assert_eq!(
            time(-2, 750_000_000),
            UNIX_EPOCH - Duration::from_millis(1250)
        );
        assert_eq!(time(2, 1), UNIX_EPOCH + Duration::new(2, 1));
    }

    #[test]
    fn a_time_before_1970_is_set_as_the_kernel_sent_it_to_fuser() {
        let as_fuser_reads_it = UNIX_EPOCH - Duration::new(2, 750_000_000);
        let set = timespec(as_fuser_reads_it);
        assert_eq!((set.tv_sec, set.tv_nsec), (-2, 750_000_000));
    }
}
