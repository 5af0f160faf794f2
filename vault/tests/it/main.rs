//! Tests of whole formats through the crate's interface.

#![allow(clippy::unwrap_used)] // clippy.toml allows it in tests, not in what they share.

mod ecryptfs;
