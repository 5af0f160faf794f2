//! The seam between the file operations and whoever has the keys.
//!
//! File operations ask a [`KeySource`]; the mounted filesystem implements it over callout, and
//! knows daemons and deadlines. Nothing here ever sees an epoch key, a PIN or a private key.

use std::sync::Arc;

use claviger_protocol::Failure;
use claviger_vault::format::{FileKeys, NewFile, Tree};

/// Gives the unlocked tree, what new files start with, and the keys of existing ones.
pub trait KeySource: Send + Sync + 'static {
    /// The volume's tree; `None` while it is locked, and then everything is `ENOKEY`.
    ///
    /// Called by nearly every operation: it clones an [`Arc`] and waits for nobody.
    fn tree(&self) -> Option<Arc<dyn Tree>>;

    /// What a new file of `uid` starts with, from a pool: called under a directory's lock, so it
    /// fails rather than wait for a person or a token.
    ///
    /// # Errors
    /// [`Failure::Locked`], [`Failure::NoDaemon`] or [`Failure::Busy`] when the pool has run dry.
    fn fresh(&self, uid: u32) -> Result<Box<dyn NewFile>, Failure>;

    /// Asks for the keys of one existing file, on behalf of an opener who is not yet granted it.
    ///
    /// Returns at once. `done` is called exactly once, from any thread, possibly before this
    /// returns; by the deadline that the source sets itself ([`Failure::TimedOut`]) at the latest.
    /// A source that cannot unwrap for this caller (locked, no daemon, the daemon itself or one of
    /// its modules opening a file) calls `done` at once.
    fn unwrap(&self, request: Unwrap, done: UnwrapDone) -> Ticket;

    /// Calls an unwrap back; its `done` gets [`Failure::Cancelled`] if it was still to come.
    fn cancel(&self, ticket: Ticket);
}

/// What [`KeySource::unwrap`] is told of the opener and of the file.
#[derive(Clone, Debug)]
pub struct Unwrap {
    /// The opener's fsuid: whose daemon is asked.
    pub uid: u32,
    /// The opener's thread id; 0 where it is in a pid namespace that we cannot see.
    pub pid: u32,
    /// What the format needs to have unwrapped: [`claviger_vault::format::Begun::Sealed`].
    pub head: Vec<u8>,
    /// The lower path from the lower root, for prompts and the audit line.
    pub lower_path: Vec<u8>,
}

/// What becomes of an unwrap: the file's keys, or the failure to report.
pub type UnwrapDone = Box<dyn FnOnce(Result<Box<dyn FileKeys>, Failure>) + Send>;

/// Names one unwrap to its [`KeySource`], which hands out each number once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ticket(pub u64);
