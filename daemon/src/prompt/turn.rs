//! One question at a time for one pair of eyes.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use claviger_protocol::Failure;

use crate::wait::Wait;

/// Whose turn it is; unlike a mutex, waiting for it ends.
#[derive(Debug, Default)]
pub(super) struct Turn {
    taken: Mutex<bool>,
    given_back: Condvar,
}

/// Gives the turn back when dropped.
#[derive(Debug)]
pub(super) struct Taken<'a>(&'a Turn);

impl Turn {
    /// Waits for the turn.
    pub(super) fn take(&self, what: &str, wait: &Wait) -> Result<Taken<'_>, Failure> {
        let mut taken = self.lock();
        while *taken {
            wait.check(what)?;
            let waited = self.given_back.wait_timeout(taken, wait.stretch());
            taken = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        *taken = true;
        Ok(Taken(self))
    }

    fn lock(&self) -> MutexGuard<'_, bool> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        *self.0.lock() = false;
        self.0.given_back.notify_one();
    }
}
