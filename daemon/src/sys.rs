//! The one place with `unsafe`: what happens in a child between fork(2) and execve(2).
#![allow(unsafe_code)] // What runs there must be async-signal-safe, which the compiler cannot check.

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
