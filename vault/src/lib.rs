//! Claviger's on-disk formats and their cryptography.
//!
//! Everything a volume keeps below its mount is made, parsed and authenticated here: native files
//! ([`native`]), names, directory records and the manifest. [`ecryptfs`] is a second, older format,
//! that of the Linux kernel's eCryptfs. The crate opens lower files and reads
//! and writes them; it does no FUSE, no sockets and no prompts, and it never sees a token.

pub mod dir;
pub mod ecryptfs;
pub mod epoch;
pub mod format;
pub mod fuzzing;
pub mod ids;
mod kdf;
pub mod locked;
pub mod manifest;
pub mod names;
pub mod native;
pub mod pin;
mod replace;
mod sealed;
pub mod secret;
pub mod stream;
pub mod symlink;
pub mod tree;
pub mod xattr;

#[cfg(test)]
mod examples;
