//! The kernel's own eCryptfs, on Debian's stock kernel: what `clavigerd` answers it, and what
//! `claviger-fs` makes of the same folders.

mod daemon;
mod files;
mod folders;
mod keys;
mod users;
