//! The extended attribute of a lower file, by descriptor.
#![allow(unsafe_code)] // fgetxattr(2) and fsetxattr(2), which nix does not have

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// The attribute that holds a header.
const NAME: &core::ffi::CStr = c"user.ecryptfs";

/// More than a header may have: what is longer is no header.
const MAX_LEN: usize = 4096;

/// The header in the extended attribute of `file`, if there is one.
pub(super) fn xattr(file: BorrowedFd<'_>) -> io::Result<Option<Vec<u8>>> {
    let mut value = vec![0; MAX_LEN];
    // SAFETY: the name is terminated, and the kernel writes at most `value.len()` bytes to `value`.
    let got = unsafe {
        libc::fgetxattr(
            file.as_raw_fd(),
            NAME.as_ptr(),
            value.as_mut_ptr().cast(),
            value.len(),
        )
    };
    match usize::try_from(got) {
        Ok(len) => {
            value.truncate(len);
            Ok(Some(value))
        }
        Err(_) => match io::Error::last_os_error() {
            error if is_none(&error) => Ok(None),
            error => Err(error),
        },
    }
}

/// Replaces or makes it.
pub(super) fn set_xattr(file: BorrowedFd<'_>, value: &[u8]) -> io::Result<()> {
    // SAFETY: the name is terminated, and the kernel reads `value.len()` bytes of `value`.
    let set = unsafe {
        libc::fsetxattr(
            file.as_raw_fd(),
            NAME.as_ptr(),
            value.as_ptr().cast(),
            value.len(),
            0,
        )
    };
    match set {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// No such attribute, no attributes at all, or one that is longer than a header.
fn is_none(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENODATA | libc::EOPNOTSUPP | libc::ERANGE)
    )
}
