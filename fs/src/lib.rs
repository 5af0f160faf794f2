//! The FUSE filesystem of Claviger: a lower folder's ciphertext below, its plaintext above.
//!
//! [`filesystem::VolumeFs`] is the volume and its operations, [`fuse::Engine`] hands it to `fuser`.
//! Keys come through [`keys::KeySource`]; openers that wait for one are in [`park::Park`].
//!
//! [`callout_keys::CalloutKeys`] gets the keys from the daemon of whoever asks; [`keeper`], [`lock`]
//! and [`watch`] say when they come, go, or are waited for in vain. [`mount`] puts it all together.

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
mod openfile;
mod opening;
pub mod park;
mod readdir;
mod remove;
mod rename;
mod sys;
mod tree;
mod unsynced;
mod xattrs;

pub mod args;
mod attach;
pub mod background;
pub mod callout_keys;
pub mod keeper;
pub mod kernel;
mod kin;
pub mod lock;
pub mod mount;
pub mod mountpoint;
pub mod options;
pub mod pool;
pub mod watch;
pub mod writer;
