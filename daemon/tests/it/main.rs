//! `clavigerd` as it is installed: the program, real modules, a second user, a kernel keyring.
//!
//! Each test runs as a user of its own, in namespaces of its own: whatever it leaves, even killed, goes
//! with them.

#![allow(unreachable_pub)] // The harness is shared by the modules below, and nothing else.
#![allow(clippy::unwrap_used)] // The exception for tests does not reach functions that tests call.

mod cards;
mod ecryptfs;
mod harness;
mod keyring;
mod locking;
mod prompts;
mod recipients;
mod requests;
mod starting;
mod unlocking;
