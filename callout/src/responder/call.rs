//! One request, in the hands of whoever answers it.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use zeroize::Zeroizing;

use super::PeerInfo;
use super::peer::{Peer, Shared};
use crate::frame::{Flags, Kind};
use crate::session::Subject;
use crate::wipe::{Kept, wipe};
use crate::{BODY_MAX, Pending, Ticket, foreign};

/// One request. Dropped without an answer, it tells the requester so at once.
pub struct Call {
    /// Who asks.
    pub peer: Arc<PeerInfo>,
    /// What.
    pub body: Zeroizing<Vec<u8>>,
    ticket: Ticket,
    to: Arc<Peer>,
    shared: Arc<Shared>,
}

impl Call {
    /// Answers. A body above [`BODY_MAX`] is an error of this program: it is logged, and the
    /// requester gets no answer.
    pub fn reply(self, body: Zeroizing<Vec<u8>>) {
        let body = Kept::new(body);
        if body.len() > BODY_MAX {
            tracing::error!(len = body.len(), "answer is too large to send");
            return;
        }
        self.respond(Flags::NONE, &body);
        // Dropped now, it finds itself answered.
    }

    /// Tells the requester what the answer waits for.
    pub fn pending(&self, reason: Pending) {
        if !self.cancelled() {
            self.send(Kind::Pending, Flags::NONE, &[reason.wire()]);
        }
    }

    /// Whether nobody waits for the answer any more.
    pub fn cancelled(&self) -> bool {
        !self.to.calls.is_open(self.ticket)
    }

    /// Runs `hook` when nobody waits for the answer any more: at once, if that is so already, else
    /// on the responder's thread. Replaces a hook given before. Not run once the call is answered.
    pub fn on_cancel(&self, hook: impl FnOnce() + Send + 'static) {
        if let Some(hook) = self.to.calls.hang_on(self.ticket, Box::new(hook)) {
            hook();
        }
    }

    fn respond(&self, flags: Flags, body: &[u8]) {
        if self.to.calls.close(self.ticket) == Closed::Now {
            self.send(Kind::Response, flags, body);
        }
    }

    fn send(&self, kind: Kind, flags: Flags, body: &[u8]) {
        let Ticket { index, sequence } = self.ticket;
        // A requester that is gone or does not read is found out and dealt with by the thread.
        let _ = self.shared.send(
            &self.to,
            Subject {
                kind,
                flags,
                index,
                sequence,
            },
            body,
        );
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        wipe(&mut self.body);
        self.respond(Flags::UNANSWERED, &[]);
    }
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let body = format_args!("{} bytes", self.body.len());
        f.debug_struct("Call")
            .field("peer", &self.peer)
            .field("body", &body)
            .finish_non_exhaustive()
    }
}

type Hook = Box<dyn FnOnce() + Send>;

/// Calls of one requester that wait for an answer; most have no hook.
#[derive(Default)]
pub(super) struct Calls(Mutex<HashMap<Ticket, Option<Hook>>>);

/// More than any requester of ours has contexts: one that asks more than this is not answered.
const CALLS_MAX: usize = 16_384;

/// Who closed a call.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Closed {
    /// This caller, just now.
    Now,
    /// It was answered or cancelled before.
    Before,
}

impl Calls {
    /// Makes a call of a request, unless it is one already or there are too many.
    pub(super) fn open(
        shared: &Arc<Shared>,
        peer: &Arc<Peer>,
        ticket: Ticket,
        body: Zeroizing<Vec<u8>>,
    ) -> Option<Call> {
        let mut calls = peer.calls.lock();
        if calls.len() >= CALLS_MAX || calls.contains_key(&ticket) {
            return None;
        }
        calls.insert(ticket, None);
        Some(Call {
            peer: Arc::clone(&peer.info),
            body,
            ticket,
            to: Arc::clone(peer),
            shared: Arc::clone(shared),
        })
    }

    /// Nobody waits for this one any more.
    pub(super) fn cancel(&self, ticket: Ticket) {
        let hook = self.lock().remove(&ticket).flatten();
        hook.into_iter()
            .for_each(|hook| foreign::run("a cancel hook", hook));
    }

    /// Nobody waits for any of them any more.
    pub(super) fn cancel_all(&self) {
        let calls = std::mem::take(&mut *self.lock());
        let hooks = calls.into_values().flatten();
        hooks.for_each(|hook| foreign::run("a cancel hook", hook));
    }

    fn is_open(&self, ticket: Ticket) -> bool {
        self.lock().contains_key(&ticket)
    }

    fn close(&self, ticket: Ticket) -> Closed {
        match self.lock().remove(&ticket) {
            Some(_) => Closed::Now,
            None => Closed::Before,
        }
    }

    /// Keeps the hook, or gives it back if the call is closed.
    fn hang_on(&self, ticket: Ticket, hook: Hook) -> Option<Hook> {
        match self.lock().get_mut(&ticket) {
            Some(place) => {
                *place = Some(hook);
                None
            }
            None => Some(hook),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Ticket, Option<Hook>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
