//! The module program against SoftHSM, run as `clavigerd` runs it.

#![allow(clippy::unwrap_used)] // That is how a test fails; clippy.toml's exception misses helpers.

mod contract;
mod habits;
mod keys;
mod library;
mod pins;
mod removal;
mod softhsm;
