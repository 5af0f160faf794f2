//! A caller that waits takes its answer off the connection itself.
//!
//! Through the requester's thread an answer wakes two threads, one after the other, and the second
//! wake-up costs as much as all the rest (decision 090). So a caller that is alone borrows the
//! connection's [`Ear`] for as long as it waits. It looks for its own answer and for nothing else:
//! whatever comes instead goes back to the thread with the ear, and the caller waits like any other. So
//! events, completions and all clocks stay where they were, and so does the order of what is heard.
//!
//! An ear has one owner: its [`Seat`], the thread or a caller. A lent one is not watched by the thread.

use std::sync::PoisonError;
use std::time::Instant;

use super::state::{Seat, Shared, outcome};
use crate::carrier::Inbox;
use crate::ear::{Ear, Heard};
use crate::frame::Kind;
use crate::link::LinkId;
use crate::poll::{self, Bell, Source, Woken};
use crate::session::Subject;
use crate::{Outcome, Ticket};

impl Shared {
    /// Lends a caller the ear of `uid`'s responder, unless somebody has it or others wait for
    /// answers too: those would only come later. Nor while the thread has yet to hear what another
    /// caller has put back: that comes first, and a caller who sleeps for the next frame would keep it.
    pub(super) fn turn(&self, uid: u32) -> Option<Turn<'_>> {
        let mut state = self.state();
        if state.table.held(uid) > 0 {
            return None;
        }
        let Some(Seat::Taken(seated)) = state.seats.get_mut(&uid) else {
            return None;
        };
        let ear = seated.ear.take_if(|ear| !ear.has_put_back())?;
        self.poll.forget(ear.fd());
        let over = seated.over.clone();
        Some(Turn {
            shared: self,
            uid,
            ear: Some(ear),
            over,
        })
    }

    /// Takes back what [`Self::turn`] lent.
    fn give_back(&self, uid: u32, ear: Ear) {
        let id = ear.link().id();
        let mut state = self.state();
        if ear.has_put_back() {
            state.unheard.push(id);
        }
        // By a responder that is gone, perhaps: then the thread finds no ear, and that is all.
        if self.poll.watch(ear.fd(), Source::Frames(id)).is_err() {
            state.lost.push(id);
        }
        let attend = !state.unheard.is_empty() || !state.lost.is_empty();
        let unwanted = state.keep_ear(uid, ear);
        drop(state);
        drop(unwanted);
        if attend {
            self.bell.ring();
        }
    }

    /// Asks the caller who listens to `link`, if one does, to let go of it.
    pub(super) fn recall(&self, uid: u32, link: LinkId) -> EarIs {
        let over = match self.state().seats.get(&uid) {
            Some(Seat::Taken(seated)) if seated.link().id() == link && seated.ear.is_none() => {
                seated.over.clone()
            }
            Some(Seat::Taken(_) | Seat::Vacant(_)) | None => return EarIs::Here,
        };
        over.ring();
        EarIs::Lent
    }

    /// For the thread, which is not watching meanwhile: the ear of `link`, unless a caller has it.
    pub(super) fn take_ear(&self, uid: u32, link: LinkId) -> Option<Ear> {
        match self.state().seats.get_mut(&uid) {
            Some(Seat::Taken(seated)) if seated.link().id() == link => seated.ear.take(),
            Some(Seat::Taken(_) | Seat::Vacant(_)) | None => None,
        }
    }

    /// Takes back what [`Self::take_ear`] gave.
    pub(super) fn keep_ear(&self, uid: u32, ear: Ear) {
        let unwanted = self.state().keep_ear(uid, ear);
        drop(unwanted);
    }

    fn take_inbox(&self) -> Inbox {
        let spare = self
            .inbox
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        spare.unwrap_or_else(Inbox::new)
    }

    fn keep_inbox(&self, inbox: Inbox) {
        *self.inbox.lock().unwrap_or_else(PoisonError::into_inner) = Some(inbox);
    }
}

/// Where a connection's ear is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum EarIs {
    Here,
    /// With a caller.
    Lent,
}

/// The ear of a connection, in the hands of a caller. Dropping it gives it back.
pub(super) struct Turn<'a> {
    shared: &'a Shared,
    uid: u32,
    /// `None` once it is given back.
    ear: Option<Ear>,
    /// Rung when the thread wants it back, or the connection has lost its seat.
    over: Bell,
}

impl Turn<'_> {
    /// Waits for the answer to `ticket`; `None` if it comes by way of the thread.
    pub(super) fn wait(mut self, ticket: Ticket, deadline: Instant) -> Option<Outcome> {
        let ear = self.ear.as_mut()?;
        let link = ear.link().id();
        if !self.shared.state().table.is_with(link, ticket) {
            return None;
        }
        let mut inbox = self.shared.take_inbox();
        let outcome = loop {
            // Asked before each frame: whoever sends without end what is dropped keeps nobody here.
            match poll::wait_for(ear.fd(), &self.over, deadline) {
                Woken::Readable => {}
                Woken::Bell | Woken::Late => break None,
            }
            match ear.hear(&mut inbox) {
                Heard::Nothing | Heard::Dropped => {}
                Heard::Sealed(subject, body, _) if is_answer(subject, ticket) => {
                    // Settled a moment ago, by the clock: then that is what became of it.
                    let taken = self.shared.state().table.answer(link, ticket);
                    break taken.ok().map(|()| outcome(subject, body));
                }
                other => {
                    ear.put_back(other);
                    break None;
                }
            }
        };
        self.shared.keep_inbox(inbox);
        outcome
    }
}

fn is_answer(subject: Subject, ticket: Ticket) -> bool {
    let Subject {
        kind,
        index,
        sequence,
        ..
    } = subject;
    kind == Kind::Response && Ticket { index, sequence } == ticket
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if let Some(ear) = self.ear.take() {
            self.shared.give_back(self.uid, ear);
        }
    }
}
