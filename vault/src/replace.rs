//! Replacing a small file so that a crash leaves the old one or the new one, whole.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use nix::NixPath;
use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::{UnlinkatFlags, fsync, unlinkat};

/// Replaces `name` in `dir` by a file of `content`, durably. The caller holds a lock that keeps
/// other writers of this name away: the new file has a fixed name until it is whole.
pub(crate) fn replace(dir: impl AsFd, name: &str, content: &[u8], mode: Mode) -> io::Result<()> {
    let dir = dir.as_fd();
    let new_name = format!("{name}.new");
    match unlinkat(dir, new_name.as_str(), UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(nix::Error::ENOENT) => (),
        Err(error) => return Err(error.into()),
    }
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
    let mut file = File::from(openat(dir, new_name.as_str(), flags, mode)?);
    // The mode is stated, not left to the caller's umask.
    fchmod(&file, mode)?;
    file.write_all(content)?;
    file.sync_all()?;
    renameat(dir, new_name.as_str(), dir, name)?;
    Ok(fsync(dir)?)
}

/// What a file of at most `limit` bytes holds.
///
/// # Errors
/// [`io::ErrorKind::FileTooLarge`] beyond `limit`; [`io::ErrorKind::NotFound`]; whatever open(2) and
/// read(2) say. A symlink is not followed, a fifo does not block.
pub(crate) fn read_small(dir: impl AsFd, name: &str, limit: u64) -> io::Result<Vec<u8>> {
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let file = File::from(openat(dir, name, flags, Mode::empty())?);
    let mut content = Vec::new();
    file.take(limit + 1).read_to_end(&mut content)?;
    if content.len() as u64 > limit {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(content)
}

/// Opens the directory `name` in `dir`; a symlink is not followed.
pub(crate) fn open_dir(dir: impl AsFd, name: &(impl NixPath + ?Sized)) -> io::Result<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    Ok(openat(dir, name, flags, Mode::empty())?)
}
