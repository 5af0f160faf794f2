//! System calls that `nix` does not wrap. All `unsafe` of the file operations is here.
#![allow(unsafe_code)] // Raw system calls have no other form; each block argues its own safety.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;

/// Fills `buffer` with raw `linux_dirent64` records; 0 at the end of the directory.
pub(crate) fn getdents64(dir: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<usize, Errno> {
    // SAFETY: the kernel writes at most `buffer.len()` bytes into `buffer`, which is borrowed
    // mutably for the whole call; bytes have no invalid values.
    let read = unsafe {
        libc::syscall(libc::SYS_getdents64, dir.as_raw_fd(), buffer.as_mut_ptr(), buffer.len())
    };
    Errno::result(read).map(|n| usize::try_from(n).unwrap_or(0))
}

/// Sets access and modification time of what an `O_PATH` descriptor refers to, a symlink included.
pub(crate) fn set_times(
    object: BorrowedFd<'_>,
    access: libc::timespec,
    modification: libc::timespec,
) -> Result<(), Errno> {
    let times = [access, modification];
    // SAFETY: the path is a NUL-terminated literal and `times` two initialised timespecs that
    // outlive the call; the kernel writes to neither.
    let done = unsafe {
        libc::utimensat(object.as_raw_fd(), c"".as_ptr(), times.as_ptr(), libc::AT_EMPTY_PATH)
    };
    Errno::result(done).map(drop)
}

/// Keeps this thread's capabilities when its fsuid changes (`SECBIT_NO_SETUID_FIXUP`).
pub(crate) fn keep_capabilities_across_setfsuid() -> Result<(), Errno> {
    const SECBIT_NO_SETUID_FIXUP: libc::c_ulong = 1 << 2; // linux/securebits.h
    // SAFETY: both calls take and return integers only and change this thread's credentials.
    let done = unsafe {
        let bits = libc::prctl(libc::PR_GET_SECUREBITS);
        let bits = libc::c_ulong::try_from(Errno::result(bits)?).unwrap_or(0);
        libc::prctl(libc::PR_SET_SECUREBITS, bits | SECBIT_NO_SETUID_FIXUP)
    };
    Errno::result(done).map(drop)
}

/// Reads extended attribute `name` of the object at `path` into `value`; empty asks for the length.
pub(crate) fn get_xattr(path: &CStr, name: &CStr, value: &mut [u8]) -> Result<usize, Errno> {
    // SAFETY: both strings end in NUL, and the kernel writes at most `value.len()` bytes.
    let read = unsafe {
        libc::getxattr(path.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len())
    };
    Errno::result(read).map(|n| usize::try_from(n).unwrap_or(0))
}

/// Sets extended attribute `name` of the object at `path`; `flags` as in setxattr(2).
pub(crate) fn set_xattr(path: &CStr, name: &CStr, value: &[u8], flags: i32) -> Result<(), Errno> {
    // SAFETY: both strings end in NUL, and the kernel reads `value.len()` bytes of `value` only.
    let done = unsafe {
        libc::setxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), flags)
    };
    Errno::result(done).map(drop)
}

/// Lists the extended attributes of the object at `path` into `names`; empty asks for the length.
pub(crate) fn list_xattrs(path: &CStr, names: &mut [u8]) -> Result<usize, Errno> {
    // SAFETY: the string ends in NUL, and the kernel writes at most `names.len()` bytes.
    let read = unsafe { libc::listxattr(path.as_ptr(), names.as_mut_ptr().cast(), names.len()) };
    Errno::result(read).map(|n| usize::try_from(n).unwrap_or(0))
}

/// Removes extended attribute `name` of the object at `path`.
pub(crate) fn remove_xattr(path: &CStr, name: &CStr) -> Result<(), Errno> {
    // SAFETY: both strings end in NUL.
    let done = unsafe { libc::removexattr(path.as_ptr(), name.as_ptr()) };
    Errno::result(done).map(drop)
}
