//! The system calls nix does not wrap, or not so.
#![allow(
    unsafe_code,
    reason = "nix 0.31 has no pidfd_open, and no way to change the identity of one thread"
)]

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

/// From now on, what this thread opens names `uid` as the effective uid of its opener; root's rights to
/// open it stay. For a thread that does nothing else, and for root.
///
/// Not setresuid(3): that changes every thread of the process.
///
/// # Errors
/// The kernel's: `EPERM` unless it is root's.
pub(crate) fn open_files_as(uid: u32) -> io::Result<()> {
    const UNCHANGED: libc::c_long = -1;
    let uid = libc::c_long::from(uid);
    // SAFETY: setresuid takes three integers and touches no memory of ours.
    let set = unsafe { libc::syscall(libc::SYS_setresuid, UNCHANGED, uid, UNCHANGED) };
    if set < 0 {
        return Err(io::Error::last_os_error());
    }
    // The rights went with the effective uid; they come back, as far as files are concerned, with the
    // filesystem uid (capabilities(7)). It returns the one before, whether it worked or not.
    // SAFETY: setfsuid takes an integer and touches no memory of ours.
    let _ = unsafe { libc::syscall(libc::SYS_setfsuid, 0 as libc::c_long) };
    Ok(())
}
