//! The kernel's own eCryptfs, on Debian's stock kernel: what `clavigerd` answers it, and what
//! `claviger-fs` makes of the same folders.

mod daemon;
mod folders;
mod keys;
mod users;
