//! What the requester's thread and its callers share.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use super::{Limits, Observer};
use crate::carrier::{CarrierKind, Inbox};
use crate::ear::Ear;
use crate::frame::{Flags, Kind};
use crate::link::{Link, LinkId, Recalled, SendError, Sent};
use crate::poll::{Bell, Poll};
use crate::session::Subject;
use crate::table::{Abandoned, Body, Completion, Place, Table};
use crate::wipe::Kept;
use crate::{CallError, Outcome, Ticket, foreign};

pub(super) struct Shared {
    state: Mutex<State>,
    registered: Condvar,
    /// What the thread waits for.
    pub(super) poll: Poll,
    pub(super) bell: Bell,
    /// Of the caller that had the last turn, for the next.
    pub(super) inbox: Mutex<Option<Inbox>>,
    pub(super) observer: Arc<dyn Observer>,
    pub(super) limits: Limits,
}

/// Locked for as long as it takes to look at it: no callback, and no system call but epoll_ctl(2), so that
/// an ear is watched while it is in its seat and never otherwise.
pub(super) struct State {
    pub(super) table: Table,
    pub(super) seats: HashMap<u32, Seat>,
    /// Links on which a send failed, for the thread to take down.
    pub(super) lost: Vec<LinkId>,
    /// Links that have frames waiting.
    congested: Vec<Arc<Link>>,
    /// Links of which a caller heard what was not for it.
    pub(super) unheard: Vec<LinkId>,
    run: Run,
}

/// A uid's place for one responder.
pub(super) enum Seat {
    Taken(Seated),
    /// The last one vanished; a successor may come until then.
    Vacant(Instant),
}

/// A registered responder. Dropping it closes the connection, and ends the turn of the caller that listens.
pub(super) struct Seated {
    link: Arc<Link>,
    /// `None` while somebody listens: the thread, or a caller.
    pub(super) ear: Option<Ear>,
    /// Rung when a caller is to let go of the ear.
    pub(super) over: Bell,
}

impl Seated {
    /// A responder to whose ear the thread listens still.
    pub(super) fn new(link: &Arc<Link>) -> io::Result<Self> {
        Ok(Self {
            link: Arc::clone(link),
            ear: None,
            over: Bell::new()?,
        })
    }

    pub(super) fn link(&self) -> &Arc<Link> {
        &self.link
    }
}

impl Drop for Seated {
    fn drop(&mut self) {
        self.link.close();
        self.over.ring();
    }
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
            unheard: Vec::new(),
            run: Run::Going,
        };
        let state = Mutex::new(state);
        Ok(Self {
            state,
            registered: Condvar::new(),
            poll: Poll::new()?,
            bell: Bell::new()?,
            inbox: Mutex::default(),
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
            Some(Seat::Taken(Seated { link, .. })) => {
                (Place::Sent(link.id()), Some(Arc::clone(link)))
            }
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
        let link = self.state().seated(abandoned.uid).cloned();
        let Some(link) = link.filter(|link| link.id() == abandoned.link) else {
            return;
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
        replaced: Option<Seated>,
        adopted: Vec<(Ticket, Body)>,
    },
    /// Too many uids have one.
    Full(Seated),
}

impl State {
    pub(super) fn seated(&self, uid: u32) -> Option<&Arc<Link>> {
        match self.seats.get(&uid)? {
            Seat::Taken(seated) => Some(&seated.link),
            Seat::Vacant(_) => None,
        }
    }

    pub(super) fn run(&self) -> Run {
        self.run
    }

    /// Registers a responder for `uid` and hands it what its predecessor left.
    pub(super) fn seat(&mut self, uid: u32, seated: Seated, limits: &Limits) -> Seating {
        let now = Instant::now();
        self.seats
            .retain(|_, seat| !matches!(seat, Seat::Vacant(until) if *until <= now));
        if !self.seats.contains_key(&uid) && self.seats.len() >= limits.responders {
            return Seating::Full(seated);
        }
        let link = seated.link.id();
        let replaced = match self.seats.insert(uid, Seat::Taken(seated)) {
            Some(Seat::Taken(old)) => {
                self.table.lose(old.link.id(), now + limits.successor_wait);
                Some(old)
            }
            Some(Seat::Vacant(_)) | None => None,
        };
        Seating::Taken {
            replaced,
            adopted: self.table.adopt(uid, link),
        }
    }

    /// Takes the seat from `link`, if it has it.
    pub(super) fn unseat(&mut self, uid: u32, link: LinkId, limits: &Limits) -> Option<Seated> {
        let seat = self.seats.get_mut(&uid)?;
        if !matches!(seat, Seat::Taken(seated) if seated.link.id() == link) {
            return None;
        }
        let until = Instant::now() + limits.successor_wait;
        let unseated = std::mem::replace(seat, Seat::Vacant(until));
        self.table.lose(link, until);
        match unseated {
            Seat::Taken(seated) => Some(seated),
            Seat::Vacant(_) => None,
        }
    }

    /// Takes all seats.
    pub(super) fn take_seated(&mut self) -> Vec<Seated> {
        let seats = std::mem::take(&mut self.seats).into_values();
        seats
            .filter_map(|seat| match seat {
                Seat::Taken(seated) => Some(seated),
                Seat::Vacant(_) => None,
            })
            .collect()
    }

    /// Puts an ear into its seat, or gives it back if that is another's by now.
    pub(super) fn keep_ear(&mut self, uid: u32, ear: Ear) -> Option<Ear> {
        match self.seats.get_mut(&uid) {
            Some(Seat::Taken(seated)) if seated.link.id() == ear.link().id() => {
                seated.ear = Some(ear);
                None
            }
            Some(Seat::Taken(_) | Seat::Vacant(_)) | None => Some(ear),
        }
    }

    pub(super) fn take_lost(&mut self) -> Vec<LinkId> {
        std::mem::take(&mut self.lost)
    }

    pub(super) fn take_congested(&mut self) -> Vec<Arc<Link>> {
        std::mem::take(&mut self.congested)
    }

    pub(super) fn take_unheard(&mut self) -> Vec<LinkId> {
        std::mem::take(&mut self.unheard)
    }

    pub(super) fn put_congested(&mut self, link: Arc<Link>) {
        if !self.congested.iter().any(|other| other.id() == link.id()) {
            self.congested.push(link);
        }
    }
}

/// What a RESPONSE says.
pub(super) fn outcome(response: Subject, body: Zeroizing<Vec<u8>>) -> Outcome {
    match response.flags.contains(Flags::UNANSWERED) {
        true => Err(CallError::Unanswered),
        false => Ok(body),
    }
}
