//! The one place with `unsafe`: a file descriptor that the caller's shell opened for us.
#![allow(unsafe_code)] // Owning a descriptor by its number cannot be checked by the compiler.

use std::fs::File;
use std::os::fd::{BorrowedFd, RawFd};

/// A copy of the open file descriptor `fd`.
///
/// Not by opening `/dev/fd/N`: that asks for permission anew, which `sudo -u` or `runuser` lacks for the
/// pipe that its caller made.
///
/// # Errors
/// EBADF if nothing is open there.
pub(crate) fn duplicate(fd: RawFd) -> std::io::Result<File> {
    if fd < 0 {
        return Err(std::io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: the descriptor is borrowed only for dup(2) below, which answers EBADF if it is not open; it is
    // not -1; and this runs at start, before any thread could close it.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    Ok(File::from(borrowed.try_clone_to_owned()?))
}
