//! Calls that a module process has not answered yet, and who waits for them.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::module::ModuleError;
use crate::wire::Answer;

/// What comes of a call.
pub type Outcome = Result<Answer, ModuleError>;

/// Takes what comes of a call.
pub type Done = Box<dyn FnOnce(Outcome) + Send>;

/// All calls that one process owes an answer.
#[derive(Debug, Default)]
pub(super) struct InFlight {
    next_id: u32,
    calls: HashMap<u32, Made>,
}

struct Made {
    waiter: Waiter,
    /// When to kill the process if this has not been answered.
    kill_at: Instant,
}

enum Waiter {
    /// Until then.
    Waits(Done, Instant),
    /// Timed out or called back; the process owes the answer all the same.
    Gone,
}

/// Whose an answer is.
pub(super) enum Addressee {
    /// Of somebody who waits.
    Waiter(Done),
    /// Of somebody who waits no more.
    Gone,
    /// Of nobody: there is no such call.
    Nobody,
}

/// What the clock has brought.
pub(super) enum Due {
    /// These calls have timed out.
    TimedOut(Vec<(u32, Done)>),
    /// An answer is overdue by the grace: the process is to be killed.
    Kill,
}

impl InFlight {
    /// Notes a call that is to be answered by `deadline`; what it is called.
    pub(super) fn add(&mut self, done: Done, deadline: Instant, grace: Duration) -> u32 {
        while self.calls.contains_key(&self.next_id) {
            self.next_id = self.next_id.wrapping_add(1);
        }
        let id = self.next_id;
        self.next_id = id.wrapping_add(1);
        let made = Made {
            waiter: Waiter::Waits(done, deadline),
            kill_at: deadline + grace,
        };
        self.calls.insert(id, made);
        id
    }

    /// Call `id` has been answered.
    pub(super) fn answered(&mut self, id: u32) -> Addressee {
        match self.calls.remove(&id).map(|made| made.waiter) {
            Some(Waiter::Waits(done, _)) => Addressee::Waiter(done),
            Some(Waiter::Gone) => Addressee::Gone,
            None => Addressee::Nobody,
        }
    }

    /// Nobody shall wait for `id` any more; gives whoever did.
    pub(super) fn give_up(&mut self, id: u32) -> Option<Done> {
        self.calls.get_mut(&id)?.waiter.leave()
    }

    /// Ends all calls; gives those who wait.
    pub(super) fn end(&mut self) -> Vec<Done> {
        let calls = std::mem::take(&mut self.calls);
        let mut waiters = calls.into_values().map(|made| made.waiter);
        waiters.by_ref().filter_map(Waiter::done).collect()
    }

    pub(super) fn len(&self) -> usize {
        self.calls.len()
    }

    /// When to look at [`InFlight::due`] next.
    pub(super) fn alarm(&self) -> Option<Instant> {
        let times = self.calls.values().map(|made| match made.waiter {
            Waiter::Waits(_, deadline) => deadline,
            Waiter::Gone => made.kill_at,
        });
        times.min()
    }

    /// What is due at `now`.
    pub(super) fn due(&mut self, now: Instant) -> Due {
        if self.calls.values().any(|made| made.kill_at <= now) {
            return Due::Kill;
        }
        let late = self.calls.iter_mut().filter_map(|(id, made)| {
            let Waiter::Waits(_, deadline) = made.waiter else {
                return None;
            };
            let late = deadline <= now;
            Some((*id, late.then(|| made.waiter.leave()).flatten()?))
        });
        Due::TimedOut(late.collect())
    }
}

impl Waiter {
    fn leave(&mut self) -> Option<Done> {
        std::mem::replace(self, Self::Gone).done()
    }

    fn done(self) -> Option<Done> {
        match self {
            Self::Waits(done, _) => Some(done),
            Self::Gone => None,
        }
    }
}

impl std::fmt::Debug for Made {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Made").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(2);

    fn ignored() -> Done {
        Box::new(drop)
    }

    #[test]
    fn an_answer_is_owed_also_to_those_who_have_gone_and_to_nobody_twice() {
        let mut calls = InFlight::default();
        let deadline = Instant::now() + GRACE;
        let (kept, left) = (
            calls.add(ignored(), deadline, GRACE),
            calls.add(ignored(), deadline, GRACE),
        );
        assert!(calls.give_up(left).is_some());
        assert!(calls.give_up(left).is_none());
        assert_eq!(calls.len(), 2);
        assert!(matches!(calls.answered(kept), Addressee::Waiter(_)));
        assert!(matches!(calls.answered(left), Addressee::Gone));
        assert!(matches!(calls.answered(left), Addressee::Nobody));
        assert_eq!(calls.len(), 0);
    }

    #[test]
    fn at_its_deadline_a_call_times_out_and_after_the_grace_the_process_is_to_be_killed() {
        let mut calls = InFlight::default();
        let deadline = Instant::now();
        let id = calls.add(ignored(), deadline, GRACE);
        calls.add(ignored(), deadline + GRACE, GRACE);
        assert_eq!(calls.alarm(), Some(deadline));
        let Due::TimedOut(late) = calls.due(deadline) else {
            panic!("nothing is overdue yet");
        };
        assert_eq!(late.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [id]);
        assert_eq!(calls.alarm(), Some(deadline + GRACE));
        assert!(matches!(calls.due(deadline + GRACE), Due::Kill));
    }
}
