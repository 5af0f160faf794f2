//! Small files of ours in lower directories, and names that nothing else has.

use std::fmt::Write as _;
use std::os::fd::{BorrowedFd, OwnedFd};

use claviger_vault::names::LowerName;
use claviger_vault::secret::random_array;
use nix::errno::Errno;
use nix::fcntl::{OFlag, RenameFlags, openat, renameat, renameat2};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat, write};

use crate::dircache::Dir;

/// Longest sidecar: a sealed name of 255 bytes, and some room to see that it is too long.
const SMALL: usize = 512;

/// A lower name for what is not yet, or no longer, there. Has a dot, so it is nobody's lower name.
pub(crate) fn temporary_name() -> String {
    let mut name = String::from(".claviger.tmp-");
    for byte in random_array::<8>() {
        // Writing to a String does not fail.
        let _ = write!(name, "{byte:02x}");
    }
    name
}

/// Whether `lower` is such a name.
pub(crate) fn is_temporary(lower: &[u8]) -> bool {
    lower.starts_with(b".claviger.tmp-")
}

/// Reads a small lower file.
pub(crate) fn read_small(dir: BorrowedFd<'_>, name: &str) -> Result<Vec<u8>, Errno> {
    let fd = open_regular(dir, name, OFlag::O_RDONLY)?;
    let mut content = vec![0; SMALL];
    let len = nix::unistd::read(&fd, &mut content)?;
    content.truncate(len);
    Ok(content)
}

/// Opens a lower file, and nothing that waits or acts when opened.
pub(crate) fn open_regular(dir: BorrowedFd<'_>, name: &str, mode: OFlag) -> Result<OwnedFd, Errno> {
    let safe = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    openat(dir, name, mode | safe, Mode::empty())
}

/// Writes the sidecar of a long name, before what it names appears. One that is there is kept.
pub(crate) fn write_sidecar(dir: &Dir, name: &LowerName) -> Result<Sidecar, Errno> {
    let LowerName::Long { sidecar, content, .. } = name else { return Ok(Sidecar::NotNeeded) };
    if read_small_is(dir, sidecar, content) {
        return Ok(Sidecar::WasThere);
    }
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
    let temporary = temporary_name();
    let fd = openat(&dir.fd, temporary.as_str(), flags, Mode::S_IRUSR | Mode::S_IWUSR)?;
    let done = write_whole(&fd, content)
        .and_then(|()| renameat(&dir.fd, temporary.as_str(), &dir.fd, sidecar.as_str()));
    if let Err(errno) = done {
        remove(dir, &temporary);
        return Err(errno);
    }
    Ok(Sidecar::Written)
}

/// Removes the sidecar of a long name, after what it named is gone.
pub(crate) fn remove_sidecar(dir: &Dir, name: &LowerName) {
    if let LowerName::Long { sidecar, .. } = name {
        remove(dir, sidecar);
    }
}

/// What [`write_sidecar`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sidecar {
    NotNeeded,
    WasThere,
    Written,
}

/// Renames within the lower filesystem; one that does not know `flags` but need not (we are the
/// only writer, and the kernel has looked) does without.
pub(crate) fn rename(
    from: (&Dir, &str),
    to: (&Dir, &str),
    flags: RenameFlags,
) -> Result<(), Errno> {
    match renameat2(&from.0.fd, from.1, &to.0.fd, to.1, flags) {
        Err(Errno::EINVAL) if flags == RenameFlags::RENAME_NOREPLACE => {
            renameat(&from.0.fd, from.1, &to.0.fd, to.1)
        }
        done => done,
    }
}

/// Removes a lower file that only takes up room if it stays.
pub(crate) fn remove(dir: &Dir, name: &str) {
    if let Err(errno) = unlinkat(&dir.fd, name, UnlinkatFlags::NoRemoveDir)
        && errno != Errno::ENOENT
    {
        tracing::warn!(name, %errno, "left behind in the lower folder");
    }
}

fn read_small_is(dir: &Dir, name: &str, content: &[u8]) -> bool {
    use std::os::fd::AsFd;
    read_small(dir.fd.as_fd(), name).is_ok_and(|there| there == content)
}

fn write_whole(fd: &OwnedFd, content: &[u8]) -> Result<(), Errno> {
    match write(fd, content)? {
        written if written == content.len() => Ok(()),
        _ => Err(Errno::ENOSPC),
    }
}
