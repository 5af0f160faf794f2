//! The module program with real key files, and the module itself where the program adds nothing.

#![allow(clippy::unwrap_used)] // clippy.toml allows it in tests, not in what they share.

mod contract;
mod files;
