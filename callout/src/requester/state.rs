//! What the requester's thread and its callers share.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use super::{Limits, Observer};
use crate::carrier::CarrierKind;
use crate::frame::{Flags, Kind};
use crate::link::{Link, LinkId, Recalled, SendError, Sent};
use crate::poll::Bell;
use crate::session::Subject;
use crate::table::{Abandoned, Body, Completion, Place, Table};
use crate::wipe::Kept;
use crate::{CallError, Ticket, foreign};

pub(super) struct Shared {
    state: Mutex<State>,
    registered: Condvar,
    pub(super) bell: Bell,
    pub(super) observer: Arc<dyn Observer>,
    pub(super) limits: Limits,
}

/// Locked for as long as it takes to look at it: no system call, no callback.
pub(super) struct State {
    pub(super) table: Table,
    seats: HashMap<u32, Seat>,
    /// Links on which a send failed, for the thread to take down.
    lost: Vec<LinkId>,
    /// Links that have frames waiting.
    congested: Vec<Arc<Link>>,
    run: Run,
}

/// A uid's place for one responder.
enum Seat {
    Taken(Arc<Link>),
    /// The last one vanished; a successor may come until then.
    Vacant(Instant),
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Run {
    Going,
    Stopping,
}

/// A request that got no context.
pub(super) struct Refused {
    pub(super) completion: Completion,
    pub(super) error: CallError,
}

impl Shared {
    pub(super) fn new(limits: Limits, observer: Arc<dyn Observer>) -> io::Result<Self> {
        let state = State {
            table: Table::new(limits.contexts, limits.contexts_per_uid),
            seats: HashMap::new(),
            lost: Vec::new(),
            congested: Vec::new(),
            run: Run::Going,
        };
        let state = Mutex::new(state);
        Ok(Self {
            state,
            registered: Condvar::new(),
            bell: Bell::new()?,
            observer,
            limits,
        })
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn submit(
        &self,
        uid: u32,
        body: Zeroizing<Vec<u8>>,
        deadline: Instant,
        completion: Completion,
    ) -> Result<Ticket, Refused> {
        let body = Arc::new(Kept::new(body));
        let mut state = self.state();
        if state.run == Run::Stopping {
            return Err(Refused {
                completion,
                error: CallError::Stopped,
            });
        }
        let (place, link) = match state.seats.get(&uid) {
            Some(Seat::Taken(link)) => (Place::Sent(link.id()), Some(Arc::clone(link))),
            Some(Seat::Vacant(until)) if Instant::now() < *until => (Place::Waiting(*until), None),
            Some(Seat::Vacant(_)) | None => {
                return Err(Refused {
                    completion,
                    error: CallError::NoResponder,
                });
            }
        };
        let alarm = state.table.alarm();
        let ticket = state
            .table
            .allocate(uid, place, deadline, Arc::clone(&body), completion)
            .map_err(|completion| Refused {
                completion,
                error: CallError::TableFull,
            })?;
        let alarm_moved = state.table.alarm() != alarm;
        drop(state);
        if let Some(link) = link {
            self.send_request(&link, ticket, &body);
        }
        if alarm_moved {
            self.bell.ring();
        }
        Ok(ticket)
    }

    /// Sends a request whose context is with `link` already.
    pub(super) fn send_request(&self, link: &Arc<Link>, ticket: Ticket, body: &Body) {
        let Ticket { index, sequence } = ticket;
        let subject = Subject {
            kind: Kind::Request,
            flags: Flags::NONE,
            index,
            sequence,
        };
        match link.send(subject, body) {
            Ok(sent) => self.note(link, sent),
            Err(SendError::Lost) => self.report_lost(link.id()),
            Err(SendError::Full) => self.refuse(ticket, CallError::TableFull),
            Err(SendError::TooLarge(len)) => self.refuse(ticket, CallError::TooLarge(len)),
        }
    }

    /// Settles a request that never left.
    fn refuse(&self, ticket: Ticket, error: CallError) {
        self.state().table.abandon(ticket, error);
        self.bell.ring();
    }

    pub(super) fn cancel(&self, ticket: Ticket) {
        let mut state = self.state();
        let abandoned = state.table.abandon(ticket, CallError::Cancelled);
        drop(state);
        abandoned
            .iter()
            .for_each(|abandoned| self.tell_abandoned(abandoned));
        self.bell.ring();
    }

    /// Tells the responder that a request is off, unless it never saw it.
    pub(super) fn tell_abandoned(&self, abandoned: &Abandoned) {
        let link = match self.state().seats.get(&abandoned.uid) {
            Some(Seat::Taken(link)) if link.id() == abandoned.link => Arc::clone(link),
            Some(Seat::Taken(_) | Seat::Vacant(_)) | None => return,
        };
        if link.recall(abandoned.ticket) == Recalled::Unsent {
            return;
        }
        match link.signal(Kind::Cancel, Flags::NONE, abandoned.ticket) {
            Ok(sent) => self.note(&link, sent),
            Err(SendError::Lost) => self.report_lost(link.id()),
            // It does not read, or this would not be full: it learns nothing anyway.
            Err(SendError::Full | SendError::TooLarge(_)) => {}
        }
    }

    fn note(&self, link: &Arc<Link>, sent: Sent) {
        match sent {
            Sent::Out => {}
            Sent::Queued => {
                self.state().put_congested(Arc::clone(link));
                self.bell.ring();
            }
        }
    }

    pub(super) fn report_lost(&self, link: LinkId) {
        self.state().lost.push(link);
        self.bell.ring();
    }

    /// Changes the state, then runs the completions of whatever that settled: the only place that
    /// runs any, always on the requester's thread and without the lock.
    pub(super) fn settle<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state();
        let result = change(&mut state);
        while let Some((completion, outcome)) = state.table.collect() {
            drop(state);
            foreign::run("a completion", || completion(outcome));
            state = self.state();
        }
        result
    }

    pub(super) fn registered(&self, uid: u32) -> Option<CarrierKind> {
        self.state().seated(uid).map(|link| link.kind())
    }

    pub(super) fn wait_registered(&self, uid: u32, timeout: Duration) -> bool {
        let absent = |state: &mut State| state.seated(uid).is_none();
        let waited = self
            .registered
            .wait_timeout_while(self.state(), timeout, absent);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.seated(uid).is_some()
    }

    pub(super) fn announce_registered(&self) {
        self.registered.notify_all();
    }

    pub(super) fn stop(&self) {
        self.state().run = Run::Stopping;
        self.bell.ring();
    }
}

/// Whether a responder may sit down.
pub(super) enum Seating {
    /// It has the seat; the one it replaced, and what waited for it.
    Taken {
        replaced: Option<Arc<Link>>,
        adopted: Vec<(Ticket, Body)>,
    },
    /// Too many uids have one.
    Full,
}

impl State {
    pub(super) fn seated(&self, uid: u32) -> Option<&Arc<Link>> {
        match self.seats.get(&uid)? {
            Seat::Taken(link) => Some(link),
            Seat::Vacant(_) => None,
        }
    }

    pub(super) fn run(&self) -> Run {
        self.run
    }

    /// Registers `link` for `uid` and hands it what its predecessor left.
    pub(super) fn seat(&mut self, uid: u32, link: &Arc<Link>, limits: &Limits) -> Seating {
        let now = Instant::now();
        self.seats
            .retain(|_, seat| !matches!(seat, Seat::Vacant(until) if *until <= now));
        if !self.seats.contains_key(&uid) && self.seats.len() >= limits.responders {
            return Seating::Full;
        }
        let replaced = match self.seats.insert(uid, Seat::Taken(Arc::clone(link))) {
            Some(Seat::Taken(old)) => {
                self.table.lose(old.id(), now + limits.successor_wait);
                Some(old)
            }
            Some(Seat::Vacant(_)) | None => None,
        };
        Seating::Taken {
            replaced,
            adopted: self.table.adopt(uid, link.id()),
        }
    }

    /// Takes the seat from `link`, if it has one; says so.
    pub(super) fn unseat(&mut self, uid: u32, link: LinkId, limits: &Limits) -> Unseated {
        match self.seats.get(&uid) {
            Some(Seat::Taken(seated)) if seated.id() == link => {
                let until = Instant::now() + limits.successor_wait;
                self.seats.insert(uid, Seat::Vacant(until));
                self.table.lose(link, until);
                Unseated::Vacant
            }
            Some(Seat::Taken(_) | Seat::Vacant(_)) | None => Unseated::WasNotSeated,
        }
    }

    pub(super) fn take_lost(&mut self) -> Vec<LinkId> {
        std::mem::take(&mut self.lost)
    }

    pub(super) fn take_congested(&mut self) -> Vec<Arc<Link>> {
        std::mem::take(&mut self.congested)
    }

    pub(super) fn put_congested(&mut self, link: Arc<Link>) {
        if !self.congested.iter().any(|other| other.id() == link.id()) {
            self.congested.push(link);
        }
    }
}

/// Whether a link that ended was registered.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Unseated {
    Vacant,
    WasNotSeated,
}
