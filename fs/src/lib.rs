//! The FUSE filesystem of Claviger: a lower folder's ciphertext below, its plaintext above.
//!
//! [`filesystem::VolumeFs`] is the volume and its operations, [`fuse::Engine`] hands it to `fuser`.
//! Keys come through [`keys::KeySource`]; openers that wait for one are in [`park::Park`].

mod attr;
mod attributes;
mod bound;
mod caller;
mod create;
mod dircache;
mod dirstream;
pub mod failure;
pub mod filesystem;
pub mod fuse;
mod handles;
mod inode;
mod io;
pub mod keys;
mod linger;
mod lower;
mod open;
mod opening;
pub mod park;
mod readdir;
mod remove;
mod rename;
mod sys;
mod tree;
mod unsynced;
mod xattrs;
