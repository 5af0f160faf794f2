//! The filesystem, mounted for real: each test in mount, network and pid namespaces of its own.

// A test that cannot go on has failed, and its line says where.
#![allow(clippy::unwrap_used)]

mod ages;
mod appending;
mod content;
mod ecryptfs;
mod extremes;
mod grants;
mod keys;
mod locking;
mod model;
mod mounted;
mod names;
mod namespaces;
mod owners;
mod places;
mod served;
