//! Tests of whole programs: module processes under their host, and the kernel's keyring.

#![allow(clippy::unwrap_used)] // clippy.toml allows it in tests, not in what they share.

mod contract;
mod host;
mod keyring;
mod mock;
mod python;
mod wire;
