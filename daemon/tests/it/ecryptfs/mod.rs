//! Folders of eCryptfs: unlocked, asked by a mount, locked.

mod lower;
mod opening;
mod rsa;
mod vectors;
