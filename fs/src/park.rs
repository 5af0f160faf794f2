//! Openers whose reply is held back until their file's FEKs have come.
//!
//! Only opens of existing files that are not yet granted to the caller are ever parked, and
//! truncations by path, which are opens in all but name. Callers of one uid that want the same inode
//! wait for one unwrap. Once the server has read a request the kernel frees nobody but by the reply,
//! so whoever watches for signals reads [`Park::callers`] and calls [`Park::interrupt`].

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use claviger_protocol::Failure;

use crate::failure::OpError;
use crate::keys::Ticket;
use crate::open::Access;

/// One parked caller, as the watcher sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Caller {
    /// Names it to [`Park::interrupt`]; never re-used, and greater than those of all who came before.
    pub id: u64,
    /// Its thread id; 0 cannot be watched.
    pub pid: u32,
}

/// What is waited for: one inode, for one uid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Wanted {
    pub(crate) ino: u64,
    pub(crate) generation: u64,
    pub(crate) uid: u32,
    pub(crate) access: Access,
}

/// One unwrap that callers wait for. Its number keeps a late answer from waking those who wait for a
/// later one of the same inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Flight {
    wanted: Wanted,
    number: u64,
}

/// Answers one parked caller: `Ok` when its inode has been opened and granted.
pub(crate) type Wake = Box<dyn FnOnce(Result<(), OpError>) + Send>;

/// What a caller has to do who has been parked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Parked {
    /// Start the unwrap: it is the first who waits.
    First(Flight),
    /// Nothing: an unwrap is under way.
    Joined,
}

/// Whether anybody still waits for an unwrap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Awaited {
    Yes,
    No,
}

/// The parked callers of a mount.
#[derive(Default)]
pub struct Park {
    state: Mutex<State>,
    arrived: Condvar,
}

#[derive(Default)]
struct State {
    last: u64,
    flights: HashMap<Wanted, Waiting>,
}

struct Waiting {
    number: u64,
    ticket: Option<Ticket>,
    callers: Vec<(Caller, Wake)>,
}

impl Park {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Everyone who waits now.
    pub fn callers(&self) -> Vec<Caller> {
        let state = self.state();
        let flights = state.flights.values();
        flights
            .flat_map(|waiting| waiting.callers.iter().map(|(caller, _)| *caller))
            .collect()
    }

    /// Those who still wait of whoever waited when [`Park::wait`] gave `newest`.
    pub fn callers_up_to(&self, newest: u64) -> Vec<Caller> {
        let mut callers = self.callers();
        callers.retain(|caller| caller.id <= newest);
        callers
    }

    /// Blocks until somebody waits, at most `timeout`, and gives the id of the newest of all callers.
    pub fn wait(&self, timeout: Duration) -> u64 {
        let state = self.state();
        let waited = self
            .arrived
            .wait_timeout_while(state, timeout, |state| state.flights.is_empty());
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.last
    }

    /// Answers caller `id` with `EINTR`. Returns the ticket to cancel if nobody else waits for it.
    pub fn interrupt(&self, id: u64) -> Option<Ticket> {
        let (wake, ticket) = {
            let mut state = self.state();
            let (wanted, at) = state.flights.iter().find_map(|(wanted, waiting)| {
                let at = waiting
                    .callers
                    .iter()
                    .position(|(caller, _)| caller.id == id)?;
                Some((*wanted, at))
            })?;
            let waiting = state.flights.get_mut(&wanted)?;
            let (_, wake) = waiting.callers.swap_remove(at);
            let ticket = waiting.ticket.filter(|_| waiting.callers.is_empty());
            if waiting.callers.is_empty() {
                // Abandoned: the next opener starts an unwrap of his own.
                state.flights.remove(&wanted);
            }
            (wake, ticket)
        };
        wake(Err(Failure::Cancelled.into()));
        ticket
    }

    /// Parks a caller.
    pub(crate) fn join(&self, wanted: Wanted, pid: u32, wake: Wake) -> Parked {
        let mut state = self.state();
        state.last += 1;
        let number = state.last;
        let caller = (Caller { id: number, pid }, wake);
        let parked = match state.flights.get_mut(&wanted) {
            Some(waiting) => {
                waiting.callers.push(caller);
                Parked::Joined
            }
            None => {
                let waiting = Waiting {
                    number,
                    ticket: None,
                    callers: vec![caller],
                };
                state.flights.insert(wanted, waiting);
                Parked::First(Flight { wanted, number })
            }
        };
        drop(state);
        self.arrived.notify_all();
        parked
    }

    /// Notes the ticket of a flight. If nobody waits any more it has landed, or is to be cancelled.
    pub(crate) fn started(&self, flight: Flight, ticket: Ticket) -> Awaited {
        let mut state = self.state();
        match state
            .flights
            .get_mut(&flight.wanted)
            .filter(|w| w.number == flight.number)
        {
            Some(waiting) => {
                waiting.ticket = Some(ticket);
                Awaited::Yes
            }
            None => Awaited::No,
        }
    }

    /// Takes everyone who waits for `flight`, to be answered without any lock held.
    pub(crate) fn land(&self, flight: Flight) -> Vec<Wake> {
        let mut state = self.state();
        let there = state.flights.get(&flight.wanted);
        if there.is_none_or(|waiting| waiting.number != flight.number) {
            return Vec::new();
        }
        let waiting = state.flights.remove(&flight.wanted);
        let callers = waiting.into_iter().flat_map(|waiting| waiting.callers);
        callers.map(|(_, wake)| wake).collect()
    }

    /// Takes everyone, with the tickets to cancel: the volume is being locked.
    pub(crate) fn land_all(&self) -> (Vec<Wake>, Vec<Ticket>) {
        let flights = std::mem::take(&mut self.state().flights);
        let tickets = flights
            .values()
            .filter_map(|waiting| waiting.ticket)
            .collect();
        let callers = flights.into_values().flat_map(|waiting| waiting.callers);
        (callers.map(|(_, wake)| wake).collect(), tickets)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, channel};

    use super::*;

    const WANTED: Wanted = Wanted {
        ino: 5,
        generation: 0,
        uid: 1000,
        access: Access::Read,
    };

    fn parked(park: &Park, pid: u32) -> (Parked, Receiver<i32>) {
        let (answer, answered) = channel();
        let wake = move |result: Result<(), OpError>| {
            let _ = answer.send(result.map_or_else(|error| error.errno(), |()| 0));
        };
        (park.join(WANTED, pid, Box::new(wake)), answered)
    }

    #[test]
    fn callers_of_one_uid_and_inode_wait_for_one_unwrap() {
        let park = Park::new();
        let (Parked::First(flight), first) = parked(&park, 1) else {
            panic!("nobody waited")
        };
        let (second, second_answer) = parked(&park, 2);
        assert_eq!(second, Parked::Joined);
        for wake in park.land(flight) {
            wake(Ok(()));
        }
        assert_eq!((first.recv(), second_answer.recv()), (Ok(0), Ok(0)));
    }

    #[test]
    fn a_signal_frees_one_caller_and_cancels_the_unwrap_only_with_the_last() {
        let park = Park::new();
        let (Parked::First(flight), first) = parked(&park, 1) else {
            panic!("nobody waited")
        };
        let (_, second) = parked(&park, 2);
        assert_eq!(park.started(flight, Ticket(9)), Awaited::Yes);
        let id_of = |pid| park.callers().iter().find(|c| c.pid == pid).map(|c| c.id);
        assert_eq!(park.interrupt(id_of(1).expect("it waits")), None);
        assert_eq!(first.recv(), Ok(libc::EINTR));
        assert_eq!(park.interrupt(id_of(2).expect("it waits")), Some(Ticket(9)));
        assert_eq!(second.recv(), Ok(libc::EINTR));
    }

    #[test]
    fn who_came_later_is_not_among_those_who_have_waited() {
        let park = Park::new();
        assert_eq!(park.wait(Duration::ZERO), 0);
        let (_, _first) = parked(&park, 1);
        let newest = park.wait(Duration::from_secs(60));
        let (_, _second) = parked(&park, 2);
        let pids = |callers: Vec<Caller>| callers.iter().map(|c| c.pid).collect::<Vec<_>>();
        assert_eq!(pids(park.callers_up_to(newest)), [1]);
        assert_eq!(pids(park.callers()), [1, 2]);
    }

    #[test]
    fn a_late_answer_wakes_nobody_who_waits_for_a_later_unwrap() {
        let park = Park::new();
        let (Parked::First(old), _gone) = parked(&park, 1) else {
            panic!("nobody waited")
        };
        let id = park.callers()[0].id;
        assert_eq!(park.interrupt(id), None);
        assert_eq!(park.started(old, Ticket(1)), Awaited::No);
        let (Parked::First(_), later) = parked(&park, 2) else {
            panic!("nobody waited")
        };
        assert!(park.land(old).is_empty());
        assert!(later.try_recv().is_err());
    }
}
