//! The one system call nix does not wrap.
#![allow(unsafe_code, reason = "pidfd_open has no safe wrapper in nix 0.31")]

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// Opens a process: readable once it has ended (pidfd_open(2)). Close-on-exec by definition.
///
/// # Errors
/// The kernel's: `ESRCH` if there is no such process here.
pub(crate) fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open takes two integers and touches no memory of ours.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, libc::c_long::from(pid), 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the call above made this descriptor, and nothing else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
