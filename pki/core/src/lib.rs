//! Keys that open things, and the modules that hold their private halves.
//!
//! [`key`] has public keys and their ids, [`wrap`] what is sealed to them, [`seed`] the two kinds of
//! recipient that need no module: passphrase and recovery key. [`auth_tok`] says which module holds
//! the private half of which key.
//!
//! A module is a program of its own. [`module`] is what it implements, [`serve`] its main loop,
//! [`wire`] what it speaks with [`host`], which `clavigerd` runs it under, and `contract` (a cargo
//! feature) the test that each passes.

pub mod auth_tok;
pub mod cancel;
#[cfg(feature = "contract")]
pub mod contract;
mod der;
mod dhkem;
pub mod fuzzing;
pub mod host;
pub mod key;
pub mod module;
pub mod oaep;
pub mod p11_modules;
pub mod p11_uri;
pub mod seed;
pub mod serve;
mod sys;
mod text;
pub mod wire;
pub mod wrap;

pub use text::UnknownName;
