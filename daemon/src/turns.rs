//! One at a time for each thing; unlike a mutex, waiting for a turn ends.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use claviger_protocol::Failure;

use crate::wait::Wait;

/// What is somebody's turn just now.
#[derive(Debug)]
pub(crate) struct Turns<K> {
    taken: Mutex<HashSet<K>>,
    given_back: Condvar,
}

/// Gives the turn back when dropped.
#[derive(Debug)]
pub(crate) struct Turn<'a, K: Copy + Eq + Hash> {
    turns: &'a Turns<K>,
    at: K,
}

impl<K: Copy + Eq + Hash> Turns<K> {
    /// Waits for the turn at `at`, which an error calls `what`. Who has a turn at anything else is not waited for.
    ///
    /// # Errors
    /// Those of [`Wait::check`].
    pub(crate) fn take(&self, at: K, what: &str, wait: &Wait) -> Result<Turn<'_, K>, Failure> {
        let mut taken = self.lock();
        while taken.contains(&at) {
            wait.check(what)?;
            let waited = self.given_back.wait_timeout(taken, wait.stretch());
            taken = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        taken.insert(at);
        Ok(Turn { turns: self, at })
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<K>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K> Default for Turns<K> {
    fn default() -> Self {
        Self {
            taken: Mutex::default(),
            given_back: Condvar::new(),
        }
    }
}

impl<K: Copy + Eq + Hash> Drop for Turn<'_, K> {
    fn drop(&mut self) {
        self.turns.lock().remove(&self.at);
        // All: those who wait may wait for different things.
        self.turns.given_back.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Duration;

    use super::*;

    fn at_once() -> Wait {
        Wait::at_most(Duration::ZERO)
    }

    #[test]
    fn a_turn_is_one_s_until_it_is_given_back() {
        let turns = Turns::default();
        let taken = turns.take('a', "a", &at_once()).unwrap();
        let waited = turns.take('a', "a", &at_once());
        assert_eq!(waited.unwrap_err(), Failure::TimedOut { what: "a".into() });
        drop(taken);
        turns.take('a', "a", &at_once()).unwrap();
    }

    #[test]
    fn whoever_has_a_turn_at_one_thing_holds_up_nobody_at_another() {
        let turns = Turns::default();
        let _held = turns.take('a', "a", &at_once()).unwrap();
        turns.take('b', "b", &at_once()).unwrap();
    }

    #[test]
    fn of_many_who_wait_for_a_turn_each_gets_it() {
        let turns = Turns::default();
        let soon = Wait::at_most(Duration::from_secs(20));
        let held = turns.take('a', "a", &at_once()).unwrap();
        thread::scope(|scope| {
            let waiting = [(); 8].map(|()| scope.spawn(|| turns.take('a', "a", &soon).map(drop)));
            drop(held);
            for waited in waiting {
                waited.join().unwrap().unwrap();
            }
        });
    }
}
