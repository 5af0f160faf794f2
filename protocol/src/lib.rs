//! What `clavigerd`'s requesters and its user's CLI say to it, and the closed set of failures.
//!
//! [`keys`] is the body of callout frames: a filesystem, or `claviger cat`, asking for keys.
//! [`control`] is the conversation of the CLI with its own user's daemon: volumes, tokens, prompts.
//! [`paths`], [`mount_table`], [`log_file`], [`plain`] and [`inherited`] are what the programs that speak it have in common otherwise.
//! Every failure either of them can end in is a [`Failure`], with one errno and one exit code.

pub mod control;
#[cfg(test)]
mod document;
mod encoding;
pub mod failure;
pub mod inherited;
pub mod keys;
pub mod log_file;
pub mod mount_table;
pub mod paths;
pub mod plain;
pub mod secret;

pub use encoding::encode;
pub use failure::Failure;
pub use secret::Secret;
