//! The kernel's own eCryptfs, on Debian's stock kernel: what `clavigerd` answers it.

mod daemon;
mod keys;
mod users;
