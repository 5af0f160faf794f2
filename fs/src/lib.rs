//! The FUSE filesystem of Claviger: a lower folder's ciphertext below, its plaintext above.
//!
//! [`filesystem::VolumeFs`] is the volume and its operations, [`fuse::Engine`] hands it to `fuser`.
//! Keys come through [`keys::KeySource`]; openers that wait for one are in [`park::Park`].
//!
//! [`callout_keys::CalloutKeys`] gets the keys from the daemon of whoever asks; [`keeper`], [`lock`]
//! and [`watch`] say when they come, go, or are waited for in vain. [`mount`] puts it all together.

// What unit tests and mounted ones share names the crate as those outside do.
#[cfg(test)]
extern crate self as claviger_fs;

pub mod args;
mod attach;
mod attr;
mod attributes;
pub mod background;
pub mod bodies;
mod bound;
mod caller;
pub mod callout_keys;
mod create;
mod dircache;
mod dirstream;
mod editions;
pub mod failure;
pub mod filesystem;
mod found;
pub mod fuse;
pub mod fuzzing;
mod handles;
mod inode;
mod io;
pub mod keeper;
pub mod kernel;
pub mod keys;
mod kin;
mod linger;
pub mod lock;
mod lookout;
mod lower;
pub mod mount;
mod mount_table;
pub mod mountpoint;
#[cfg(test)]
#[path = "../tests/it/namespaces.rs"]
mod namespaces;
mod open;
mod openfile;
mod opening;
pub mod options;
pub mod park;
pub mod pool;
pub mod prepare;
mod readdir;
mod remove;
mod rename;
mod size_told;
mod syncs;
mod sys;
#[cfg(test)]
mod tests;
mod tree;
mod unsynced;
pub mod watch;
pub mod writer;
mod xattrs;
