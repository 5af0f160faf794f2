//! The system calls that no safe wrapper offers.

#![allow(unsafe_code)] // Each is one call, argued where it is made.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// File descriptor of a module program's end of the socketpair.
pub(crate) const MODULE_SOCKET: RawFd = 3;

/// Has `command` start with `socket` as its file descriptor 3.
pub(crate) fn pass_socket(command: &mut Command, socket: OwnedFd) {
    let place = move || {
        let fd = socket.as_raw_fd();
        // SAFETY: both calls take plain integers; `fd` is open, since the closure owns it.
        let placed = if fd == MODULE_SOCKET {
            unsafe { libc::fcntl(fd, libc::F_SETFD, 0) }
        } else {
            unsafe { libc::dup2(fd, MODULE_SOCKET) }
        };
        if placed < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    };
    // SAFETY: between fork and exec, `place` makes one async-signal-safe call and allocates nothing
    // (`last_os_error` holds the number only). It does not overwrite the pipe on which std reports a
    // failed exec: that one is made after the socketpair, so descriptor 3 was taken by then. If another thread
    // has closed it in between, a failed exec is seen as the end of the module instead.
    unsafe { command.pre_exec(place) };
}

/// Takes over file descriptor 3 of this process.
///
/// To be called once, before anything else in the program opens files.
pub(crate) fn take_module_socket() -> io::Result<OwnedFd> {
    // SAFETY: takes plain integers; a closed descriptor gives EBADF.
    let set = unsafe { libc::fcntl(MODULE_SOCKET, libc::F_SETFD, libc::FD_CLOEXEC) };
    if set < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, and nothing else in this process knows of it: the program was given it by
    // whoever started it, for this purpose.
    Ok(unsafe { OwnedFd::from_raw_fd(MODULE_SOCKET) })
}

/// Joins a new, anonymous session keyring in place of the one this process came with.
///
/// It belongs to the calling thread's credentials: threads that it starts later share it, those that
/// run already do not. linux-keyutils has no such call.
pub(crate) fn join_session_keyring() -> io::Result<()> {
    let anonymous: *const libc::c_char = std::ptr::null();
    let operation = libc::KEYCTL_JOIN_SESSION_KEYRING;
    // SAFETY: a null name asks for an anonymous keyring; nothing is read or written through it.
    let serial = unsafe { libc::syscall(libc::SYS_keyctl, operation, anonymous) };
    if serial < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
