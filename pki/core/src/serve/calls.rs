//! Calls that a module was given and has not answered.

use std::collections::{HashMap, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::module::ModuleError;
use crate::wire::Call;

/// The longest that a reader rests: by so much a call may be called back later than it could be.
const REST: Duration = Duration::from_millis(5);

/// One call that waits to be begun.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) id: u32,
    pub(super) deadline: Instant,
    pub(super) call: Call,
}

/// Calls in the order in which they came, for workers to take.
#[derive(Default)]
pub(super) struct Calls {
    table: Mutex<Table>,
    /// Told when there is a call for a worker that waits, or will be none.
    work: Condvar,
    /// Told when a reader that rests has rested enough.
    hunger: Condvar,
}

#[derive(Default)]
struct Table {
    waiting: VecDeque<Job>,
    begun: HashMap<u32, Begun>,
    /// Workers that wait.
    idle: usize,
    /// A reader rests while so many calls wait.
    plenty: Option<usize>,
    closed: bool,
}

#[derive(Clone, Copy)]
enum Begun {
    Wanted,
    CalledBack,
}

/// What became of a call that is called back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CalledBack {
    /// Nobody will begin it: to be answered now.
    Unbegun,
    /// It is answered when it ends, or was answered before.
    Later,
}

impl Calls {
    pub(super) fn add(&self, job: Job) {
        let mut table = self.lock();
        table.waiting.push_back(job);
        let idle = table.idle > 0;
        drop(table);
        if idle {
            self.work.notify_one();
        }
    }

    /// Waits for a call and begins it; `None` once there will be none.
    pub(super) fn begin(&self) -> Option<Job> {
        let mut table = self.lock();
        while !table.closed {
            if let Some(job) = table.waiting.pop_front() {
                table.begun.insert(job.id, Begun::Wanted);
                let hungry = table
                    .plenty
                    .is_some_and(|plenty| table.waiting.len() < plenty);
                drop(table);
                if hungry {
                    self.hunger.notify_one();
                }
                return Some(job);
            }
            table.idle += 1;
            let waited = self.work.wait(table);
            table = waited.unwrap_or_else(PoisonError::into_inner);
            table.idle -= 1;
        }
        None
    }

    pub(super) fn call_back(&self, id: u32) -> CalledBack {
        let mut table = self.lock();
        if let Some(place) = table.waiting.iter().position(|job| job.id == id) {
            table.waiting.remove(place);
            return CalledBack::Unbegun;
        }
        if let Some(begun) = table.begun.get_mut(&id) {
            *begun = Begun::CalledBack;
        }
        CalledBack::Later
    }

    /// Ends a call; what it is answered with if it was called back.
    pub(super) fn end<T>(&self, id: u32, result: Result<T, ModuleError>) -> Result<T, ModuleError> {
        match self.lock().begun.remove(&id) {
            Some(Begun::CalledBack) => Err(ModuleError::Cancelled),
            Some(Begun::Wanted) | None => result,
        }
    }

    /// Rests while `plenty` calls or more wait, and not for long: who adds calls one by one that nobody can
    /// begin takes the processor from those who work.
    pub(super) fn rest(&self, plenty: usize) {
        let mut table = self.lock();
        table.plenty = Some(plenty);
        let enough = |table: &mut Table| table.waiting.len() >= plenty;
        let rested = self.hunger.wait_timeout_while(table, REST, enough);
        let (mut table, _) = rested.unwrap_or_else(PoisonError::into_inner);
        table.plenty = None;
    }

    /// Nothing more is begun.
    pub(super) fn close(&self) {
        let mut table = self.lock();
        table.closed = true;
        table.waiting.clear();
        drop(table);
        self.work.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    fn job(id: u32) -> Job {
        Job {
            id,
            deadline: Instant::now(),
            call: Call::Tokens,
        }
    }

    fn waits(calls: &Calls, what: impl Fn(&Table) -> bool) {
        while !what(&calls.lock()) {
            thread::yield_now();
        }
    }

    #[test]
    fn calls_are_begun_in_order_and_one_called_back_before_is_not() {
        let calls = Calls::default();
        (1..=3).for_each(|id| calls.add(job(id)));
        assert_eq!(calls.call_back(2), CalledBack::Unbegun);
        assert_eq!(calls.begin().unwrap().id, 1);
        assert_eq!(calls.begin().unwrap().id, 3);
        assert_eq!(calls.call_back(2), CalledBack::Later);
    }

    #[test]
    fn a_begun_call_that_is_called_back_ends_so_whatever_came_of_it() {
        let calls = Calls::default();
        calls.add(job(1));
        calls.begin().unwrap();
        assert_eq!(calls.call_back(1), CalledBack::Later);
        assert_eq!(calls.end(1, Ok(())), Err(ModuleError::Cancelled));
        assert_eq!(calls.end(1, Ok(())), Ok(()));
    }

    #[test]
    fn a_worker_waits_for_a_call_and_for_the_end() {
        let calls = Calls::default();
        thread::scope(|scope| {
            let worker = scope.spawn(|| (calls.begin().map(|job| job.id), calls.begin().is_none()));
            waits(&calls, |table| table.idle == 1);
            calls.add(job(1));
            waits(&calls, |table| table.idle == 1 && table.waiting.is_empty());
            calls.close();
            assert_eq!(worker.join().unwrap(), (Some(1), true));
        });
    }

    #[test]
    fn nothing_that_waited_is_begun_after_the_end() {
        let calls = Calls::default();
        calls.add(job(1));
        calls.close();
        assert!(calls.begin().is_none());
    }

    #[test]
    fn a_reader_rests_only_while_there_is_plenty() {
        let calls = Calls::default();
        calls.add(job(1));
        calls.rest(2);
        calls.add(job(2));
        thread::scope(|scope| {
            let reader = scope.spawn(|| calls.rest(2));
            waits(&calls, |table| table.plenty.is_some());
            calls.begin().unwrap();
            reader.join().unwrap();
        });
        assert!(calls.lock().plenty.is_none());
    }

    #[test]
    fn a_reader_rests_for_a_moment_if_nobody_takes_anything() {
        let calls = Calls::default();
        calls.add(job(1));
        let begun = Instant::now();
        calls.rest(1);
        assert!(begun.elapsed() >= REST);
    }
}
