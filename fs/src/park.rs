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

use crate::keys::Ticket;

/// What is waited for: one inode, for one uid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flight {
    /// The lower inode number.
    pub ino: u64,
    /// The fsuid of those who wait.
    pub uid: u32,
}

/// One parked caller, as the watcher sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Caller {
    /// Names it to [`Park::interrupt`]; never re-used.
    pub id: u64,
    /// Its thread id; 0 cannot be watched.
    pub pid: u32,
}

/// Answers one parked caller: `Ok` when its inode has been opened and granted.
pub(crate) type Wake = Box<dyn FnOnce(Result<(), Failure>) + Send>;

/// The parked callers of a mount.
#[derive(Default)]
pub struct Park {
    state: Mutex<State>,
    arrived: Condvar,
}

#[derive(Default)]
struct State {
    next_id: u64,
    flights: HashMap<Flight, Waiting>,
}

#[derive(Default)]
struct Waiting {
    ticket: Option<Ticket>,
    callers: Vec<(Caller, Wake)>,
}

/// Whether a caller has to start the unwrap that it waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Joined {
    /// It is the first: it starts the unwrap.
    First,
    /// The unwrap is under way.
    UnderWay,
}

impl Park {
    /// An empty car park.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Everyone who waits now.
    pub fn callers(&self) -> Vec<Caller> {
        let state = self.state();
        let waiting = state.flights.values();
        waiting
            .flat_map(|w| w.callers.iter().map(|(caller, _)| *caller))
            .collect()
    }

    /// Blocks until somebody waits, at most `timeout`, and returns [`Park::callers`].
    pub fn wait(&self, timeout: Duration) -> Vec<Caller> {
        let state = self.state();
        let empty = |state: &mut State| state.flights.is_empty();
        drop(self.arrived.wait_timeout_while(state, timeout, empty));
        self.callers()
    }

    /// Answers caller `id` with `EINTR`. Returns the ticket to cancel if nobody else waits for it.
    pub fn interrupt(&self, id: u64) -> Option<Ticket> {
        let (wake, ticket) = {
            let mut state = self.state();
            let is_it = |(caller, _): &(Caller, Wake)| caller.id == id;
            let (flight, at) = state.flights.iter().find_map(|(flight, waiting)| {
                Some((*flight, waiting.callers.iter().position(is_it)?))
            })?;
            let waiting = state.flights.get_mut(&flight)?;
            let (_, wake) = waiting.callers.swap_remove(at);
            let ticket = waiting.ticket.filter(|_| waiting.callers.is_empty());
            // An abandoned flight is gone: the next opener starts one of its own.
            if waiting.callers.is_empty() {
                state.flights.remove(&flight);
            }
            (wake, ticket)
        };
        wake(Err(Failure::Cancelled));
        ticket
    }

    /// Parks a caller.
    pub(crate) fn join(&self, flight: Flight, pid: u32, wake: Wake) -> Joined {
        let mut state = self.state();
        state.next_id += 1;
        let caller = Caller {
            id: state.next_id,
            pid,
        };
        let joined = if state.flights.contains_key(&flight) {
            Joined::UnderWay
        } else {
            Joined::First
        };
        state
            .flights
            .entry(flight)
            .or_default()
            .callers
            .push((caller, wake));
        drop(state);
        self.arrived.notify_all();
        joined
    }

    /// Notes the ticket of a flight that has been started, unless it has landed already.
    pub(crate) fn started(&self, flight: Flight, ticket: Ticket) {
        if let Some(waiting) = self.state().flights.get_mut(&flight) {
            waiting.ticket = Some(ticket);
        }
    }

    /// Takes everyone who waits for `flight`: the caller answers them, without holding any lock.
    pub(crate) fn land(&self, flight: Flight) -> Vec<Wake> {
        let waiting = self.state().flights.remove(&flight).unwrap_or_default();
        waiting.callers.into_iter().map(|(_, wake)| wake).collect()
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
