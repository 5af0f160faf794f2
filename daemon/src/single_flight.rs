//! One piece of work at a time for each thing: whoever else wants the same waits for that result.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use claviger_protocol::Failure;

use crate::wait::Wait;

/// Work in progress, by what it is about.
#[derive(Debug)]
pub struct SingleFlight<K, V> {
    slots: Mutex<HashMap<K, Slot<V>>>,
}

#[derive(Debug)]
enum Slot<V> {
    Flying(Arc<Flight<V>>),
    /// The last result, for those who began to want it before it was there.
    Landed(Instant, V),
}

/// How a caller came by its result.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome<V> {
    /// It did the work itself.
    Led(V),
    /// Another was at it already.
    Joined(V),
    /// Another is at it, and was not done when the caller's own wait ended.
    GaveUp(Failure),
}

#[derive(Debug)]
struct Flight<V> {
    landed: Mutex<Landing<V>>,
    changed: Condvar,
}

#[derive(Debug)]
enum Landing<V> {
    Flying,
    Landed(V),
    /// The leader panicked: its followers start over.
    Lost,
}

impl<K: Clone + Eq + Hash, V: Clone> SingleFlight<K, V> {
    /// Nothing in progress.
    pub fn new() -> Self {
        Self {
            slots: Mutex::new(HashMap::new()),
        }
    }

    /// Does `work` for `key`, unless that is being done: then waits for its result as long as `wait`
    /// allows. A result that came after `since` is taken too: whoever found at `since` that the work
    /// is needed, and was slow to say so, must not have it done twice.
    pub fn run(
        &self,
        key: &K,
        since: Instant,
        wait: &Wait,
        work: impl FnOnce() -> V,
    ) -> Outcome<V> {
        loop {
            let flight = {
                let mut slots = lock(&self.slots);
                match slots.get(key) {
                    Some(Slot::Flying(flight)) => flight.clone(),
                    Some(Slot::Landed(at, value)) if *at > since => {
                        return Outcome::Joined(value.clone());
                    }
                    Some(Slot::Landed(..)) | None => {
                        let flight = Arc::new(Flight {
                            landed: Mutex::new(Landing::Flying),
                            changed: Condvar::new(),
                        });
                        slots.insert(key.clone(), Slot::Flying(flight.clone()));
                        drop(slots);
                        return Outcome::Led(self.lead(key, &flight, work));
                    }
                }
            };
            tracing::debug!("waits for another request for the same");
            match flight.join(wait) {
                Ok(Some(value)) => return Outcome::Joined(value),
                Ok(None) => {}
                Err(failure) => return Outcome::GaveUp(failure),
            }
        }
    }

    fn lead(&self, key: &K, flight: &Flight<V>, work: impl FnOnce() -> V) -> V {
        // Also when `work` panics: nobody may wait for a result that will not come.
        struct Land<'a, K: Clone + Eq + Hash, V: Clone> {
            slots: &'a Mutex<HashMap<K, Slot<V>>>,
            key: &'a K,
            flight: &'a Flight<V>,
            value: Option<V>,
        }
        impl<K: Clone + Eq + Hash, V: Clone> Drop for Land<'_, K, V> {
            fn drop(&mut self) {
                let mut slots = lock(self.slots);
                let landing = match self.value.take() {
                    Some(value) => {
                        let landed = Slot::Landed(Instant::now(), value.clone());
                        slots.insert(self.key.clone(), landed);
                        Landing::Landed(value)
                    }
                    None => {
                        slots.remove(self.key);
                        Landing::Lost
                    }
                };
                drop(slots);
                *lock(&self.flight.landed) = landing;
                self.flight.changed.notify_all();
            }
        }
        let mut land = Land {
            slots: &self.slots,
            key,
            flight,
            value: None,
        };
        let value = work();
        land.value = Some(value.clone());
        value
    }
}

impl<K: Clone + Eq + Hash, V: Clone> Default for SingleFlight<K, V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<V: Clone> Flight<V> {
    /// Waits for the result; `None` if the leader was lost.
    fn join(&self, wait: &Wait) -> Result<Option<V>, Failure> {
        let mut landed = lock(&self.landed);
        loop {
            match &*landed {
                Landing::Landed(value) => return Ok(Some(value.clone())),
                Landing::Lost => return Ok(None),
                Landing::Flying => wait.check("another request for the same")?,
            }
            let waited = self.changed.wait_timeout(landed, wait.stretch());
            landed = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::thread;
    use std::time::Duration;

    use super::*;

    fn soon() -> Wait {
        Wait::at_most(Duration::from_secs(20))
    }

    #[test]
    fn work_that_many_want_at_once_is_done_once() {
        let flights = SingleFlight::new();
        let started = Barrier::new(2);
        let (release, held) = crossbeam_channel::bounded::<()>(0);
        let runs = AtomicU32::new(0);
        thread::scope(|scope| {
            let leader = scope.spawn(|| {
                flights.run(&"volume", Instant::now(), &soon(), || {
                    started.wait();
                    held.recv().unwrap();
                    runs.fetch_add(1, Ordering::SeqCst)
                })
            });
            started.wait();
            let followers: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| {
                        flights.run(&"volume", Instant::now(), &soon(), || unreachable!())
                    })
                })
                .collect();
            // Each follower holds a share of the flight: the map one, the leader one.
            let flight = match lock(&flights.slots).get("volume") {
                Some(Slot::Flying(flight)) => flight.clone(),
                other => panic!("{other:?}"),
            };
            while Arc::strong_count(&flight) < 2 + 1 + 8 {
                thread::yield_now();
            }
            release.send(()).unwrap();
            assert_eq!(leader.join().unwrap(), Outcome::Led(0));
            for follower in followers {
                assert_eq!(follower.join().unwrap(), Outcome::Joined(0));
            }
        });
        assert_eq!(runs.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn a_result_is_not_kept_for_those_who_come_later() {
        let flights = SingleFlight::new();
        assert_eq!(
            flights.run(&1, Instant::now(), &soon(), || 'a'),
            Outcome::Led('a')
        );
        assert_eq!(
            flights.run(&1, Instant::now(), &soon(), || 'b'),
            Outcome::Led('b')
        );
    }

    #[test]
    fn who_wanted_a_result_before_it_was_there_gets_it_however_slow_he_was() {
        let flights = SingleFlight::new();
        let since = Instant::now();
        assert_eq!(flights.run(&1, since, &soon(), || 'a'), Outcome::Led('a'));
        let late = flights.run(&1, since, &soon(), || unreachable!());
        assert_eq!(late, Outcome::Joined('a'));
    }

    #[test]
    fn a_follower_waits_no_longer_than_its_deadline() {
        let flights = SingleFlight::new();
        let outcome = flights.run(&1, Instant::now(), &soon(), || {
            match flights.run(&1, Instant::now(), &Wait::at_most(Duration::ZERO), || 0) {
                Outcome::GaveUp(_) => -1,
                Outcome::Led(value) | Outcome::Joined(value) => value,
            }
        });
        assert_eq!(outcome, Outcome::Led(-1));
    }

    #[test]
    fn work_that_panics_leaves_nobody_waiting() {
        let flights = SingleFlight::new();
        thread::scope(|scope| {
            let lost =
                scope.spawn(|| flights.run(&1, Instant::now(), &soon(), || panic!("planted")));
            lost.join().unwrap_err();
        });
        assert_eq!(
            flights.run(&1, Instant::now(), &soon(), || 7),
            Outcome::Led(7)
        );
    }
}
