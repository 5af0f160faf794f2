//! The module for the TPM 2.0 of this machine.
//!
//! Keys are made under the standard storage root key (SRK) of the owner hierarchy, stay in
//! `TSS2 PRIVATE KEY` files that only this TPM loads, and are used over salted, parameter-encrypting
//! sessions to an SRK whose name was pinned when the key was enrolled.

mod connection;
mod error;
pub mod fuzzing;
mod held;
mod kem;
mod key_file;
mod locator;
mod module;
mod template;

pub use module::TpmModule;
