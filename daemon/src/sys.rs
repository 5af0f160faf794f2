//! The one place with `unsafe`: what happens in a child between fork(2) and execve(2), and a system call that
//! no crate offers.
#![allow(unsafe_code)] // Each is argued where it is made.

use std::ffi::CStr;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::sys::signal::SigSet;

/// Lets signals reach the program that `command` will start: this process blocks those that end it in all
/// its threads, and children inherit that. A pinentry that takes SIGTERM puts its terminal in order.
pub(crate) fn unblock_signals(command: &mut Command) {
    let unblock = || SigSet::empty().thread_set_mask().map_err(io::Error::from);
    // SAFETY: pthread_sigmask(3) is async-signal-safe (signal-safety(7)), and neither it nor the conversion
    // of its error number takes memory or a lock.
    unsafe { command.pre_exec(unblock) };
}

/// Whether the user keyring has a key of the type `encrypted` with this description. linux-keyutils looks for
/// keys of the type `user` only.
pub(crate) fn has_encrypted_key(description: &CStr) -> bool {
    let ring = libc::c_long::from(libc::KEY_SPEC_USER_KEYRING);
    let key_type = c"encrypted";
    let nowhere: libc::c_long = 0;
    // SAFETY: both texts end in a zero and outlive the call, which reads them and writes nothing; what is
    // found is linked nowhere.
    let serial = unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            libc::KEYCTL_SEARCH,
            ring,
            key_type.as_ptr(),
            description.as_ptr(),
            nowhere,
        )
    };
    serial > 0
}
