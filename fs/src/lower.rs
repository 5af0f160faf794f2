//! Opening, renaming and removing in lower directories, without following or waking anything.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use claviger_vault::names::LowerName;
use claviger_vault::secret::random_array;
use claviger_vault::tree;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, RenameFlags, openat, renameat, renameat2};
use nix::sys::stat::{FchmodatFlags, FileStat, Mode, fchmodat, fstat, fstatat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::attr::Kind;
use crate::dircache::Dir;

/// Begins the names of what is not yet, or no longer, there. Has a dot, so it is nobody's lower name.
const TEMPORARY: &str = ".claviger.tmp-";

/// A lower object held by an `O_PATH` descriptor: nobody can put another in its place.
pub(crate) struct Pinned {
    pub(crate) fd: OwnedFd,
    pub(crate) stat: FileStat,
}

impl Pinned {
    /// Holds `name` in `dir`, whatever it is.
    pub(crate) fn new(dir: BorrowedFd<'_>, name: &[u8]) -> Result<Self, Errno> {
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let fd = openat(dir, name, flags, Mode::empty())?;
        let stat = fstat(&fd)?;
        Ok(Self { fd, stat })
    }

    /// A path to the object itself, for calls that take no `O_PATH` descriptor.
    pub(crate) fn proc_path(&self) -> std::ffi::CString {
        let path = format!("/proc/self/fd/{}", self.fd.as_raw_fd());
        std::ffi::CString::new(path).expect("a number has no NUL")
    }

    /// The permission bits that it had when it was pinned.
    pub(crate) fn mode(&self) -> Mode {
        Mode::from_bits_truncate(self.stat.st_mode & 0o7777)
    }

    /// Changes the permission bits.
    pub(crate) fn set_mode(&self, mode: Mode) -> Result<(), Errno> {
        let path = self.proc_path();
        fchmodat(
            AT_FDCWD,
            path.as_c_str(),
            mode,
            FchmodatFlags::FollowSymlink,
        )
    }
}

/// A lower name for what is not yet, or no longer, there.
pub(crate) fn temporary_name() -> Vec<u8> {
    format!("{TEMPORARY}{:016x}", u64::from_ne_bytes(random_array())).into_bytes()
}

/// Whether `lower` is such a name.
pub(crate) fn is_temporary(lower: &[u8]) -> bool {
    lower.starts_with(TEMPORARY.as_bytes())
}

/// Opens a lower file, and nothing that waits or acts when opened.
pub(crate) fn open_regular(
    dir: BorrowedFd<'_>,
    name: &[u8],
    access: OFlag,
) -> Result<OwnedFd, Errno> {
    let safe = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let fd = openat(dir, name, access | safe, Mode::empty())?;
    match Kind::of(&fstat(&fd)?) {
        Kind::REGULAR => Ok(fd),
        _ => Err(Errno::ESTALE),
    }
}

/// Opens a lower file to look at what is its format's. That is no access of anybody's: its access time
/// stays, where the kernel lets us, which is in files of the user who mounts, and of all for root.
pub(crate) fn open_to_look_at(dir: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    match open_regular(dir, name, OFlag::O_RDONLY | OFlag::O_NOATIME) {
        Err(Errno::EPERM) => open_regular(dir, name, OFlag::O_RDONLY),
        opened => opened,
    }
}

/// Opens a lower file of ours whose mode denies us what we need: for a moment it does not.
pub(crate) fn open_whatever_its_mode(
    dir: &Dir,
    name: &[u8],
    access: OFlag,
) -> Result<OwnedFd, Errno> {
    use std::os::fd::AsFd;
    let pinned = Pinned::new(dir.fd.as_fd(), name)?;
    if Kind::of(&pinned.stat) != Kind::REGULAR {
        return Err(Errno::ESTALE);
    }
    pinned.set_mode(pinned.mode() | Mode::S_IRUSR | Mode::S_IWUSR)?;
    let path = pinned.proc_path();
    let opened = nix::fcntl::open(path.as_c_str(), access | OFlag::O_CLOEXEC, Mode::empty());
    pinned.set_mode(pinned.mode())?;
    opened
}

/// Opens a lower directory to work in.
pub(crate) fn open_dir(dir: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(dir, name, flags, Mode::empty())
}

/// Opens a lower directory to list or sync it.
pub(crate) fn open_dir_to_read(dir: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(dir, name, flags, Mode::empty())
}

/// Attributes of a lower name, if it is there.
pub(crate) fn stat_at(dir: &Dir, name: &[u8]) -> Result<Option<FileStat>, Errno> {
    match fstatat(&dir.fd, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::ENOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Renames within the lower filesystem. One that does not know `RENAME_NOREPLACE` does without: we
/// are the only writer, and the kernel above has looked.
pub(crate) fn rename(
    from: (&Dir, &[u8]),
    to: (&Dir, &[u8]),
    flags: RenameFlags,
) -> Result<(), Errno> {
    match renameat2(&from.0.fd, from.1, &to.0.fd, to.1, flags) {
        Err(Errno::EINVAL) if flags == RenameFlags::RENAME_NOREPLACE => {
            renameat(&from.0.fd, from.1, &to.0.fd, to.1)
        }
        done => done,
    }
}

/// Removes the sidecar of `name`, unless it still names something.
pub(crate) fn drop_sidecar(dir: &Dir, name: &LowerName) {
    let LowerName::Long { name: lower, .. } = name else {
        return;
    };
    if matches!(stat_at(dir, lower.as_bytes()), Ok(None))
        && let Err(error) = tree::remove_sidecar(&dir.fd, name)
    {
        tracing::warn!(lower, %error, "sidecar left behind in the lower folder");
    }
}

/// Removes a lower file that only takes up room if it stays.
pub(crate) fn remove(dir: &Dir, name: &[u8]) {
    if let Err(errno) = unlinkat(&dir.fd, name, UnlinkatFlags::NoRemoveDir)
        && errno != Errno::ENOENT
    {
        tracing::warn!(name = %name.escape_ascii(), %errno, "left behind in the lower folder");
    }
}
