//! Tests of whole formats through the crate's interface.

mod ecryptfs;
