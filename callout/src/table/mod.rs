//! The requester's table of message contexts.
//!
//! ```text
//!          allocate              settle (reply, error)           collect
//! FREE ───────────────► PENDING ───────────────────────► DONE ───────────► FREE
//!                       │     ▲
//!              lose ▼   │     │ adopt (once)
//!                       waiting for a successor
//! ```
//!
//! Bounded, with a quota for each uid: a uid that asks too much is refused, and nobody else is. A
//! reply is accepted only if index, sequence number and connection all match. Whoever settles a
//! context only marks it; one place collects the outcomes and runs the completions, outside the
//! lock, so that each runs exactly once and may call back in.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use crate::link::LinkId;
use crate::wipe::Kept;
use crate::{CallError, Outcome, Ticket};

/// Called with the outcome of one request.
pub(crate) type Completion = Box<dyn FnOnce(Outcome) + Send>;

/// A request's body, kept until it is answered: a successor may need it.
pub(crate) type Body = Arc<Kept>;

/// The table.
pub(crate) struct Table {
    slots: Vec<Slot>,
    /// FREE slots. First in, first out, so that an index is reused as late as can be.
    free: VecDeque<u32>,
    /// Slots that are not free, a uid.
    allocated: HashMap<u32, usize>,
    /// DONE slots, in the order of their outcomes.
    done: VecDeque<u32>,
    quota: usize,
    last_sequence: u32,
    /// No context's time runs out before this; `None` if none has one. May be too early.
    alarm: Option<Instant>,
}

enum Slot {
    Free,
    Pending(Context),
    Done {
        uid: u32,
        completion: Completion,
        outcome: Outcome,
    },
}

struct Context {
    sequence: u32,
    uid: u32,
    place: Place,
    deadline: Instant,
    body: Body,
    completion: Completion,
    sends: u8,
}

/// Where a pending request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// With the responder at the end of this link.
    Sent(LinkId),
    /// Here, until a successor registers or this moment passes.
    Waiting(Instant),
}

/// How often a request is sent at most: once, and once more to a successor.
const SENDS_MAX: u8 = 2;

/// A request that expired or was cancelled at a responder that should be told.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Abandoned {
    pub(crate) ticket: Ticket,
    pub(crate) uid: u32,
    pub(crate) link: LinkId,
}

impl Table {
    /// A table of `size` contexts, of which one uid may hold `quota`.
    pub(crate) fn new(size: u32, quota: usize) -> Self {
        Self {
            slots: (0..size).map(|_| Slot::Free).collect(),
            free: (0..size).collect(),
            allocated: HashMap::new(),
            done: VecDeque::new(),
            quota,
            last_sequence: 0,
            alarm: None,
        }
    }

    /// Takes a context for a request.
    ///
    /// # Errors
    /// Gives the completion back if the table is full, or this uid's share of it.
    pub(crate) fn allocate(
        &mut self,
        uid: u32,
        place: Place,
        deadline: Instant,
        body: Body,
        completion: Completion,
    ) -> Result<Ticket, Completion> {
        let held = self.held(uid);
        if held >= self.quota {
            return Err(completion);
        }
        let Some(index) = self.free.pop_front() else {
            return Err(completion);
        };
        self.allocated.insert(uid, held + 1);
        // 0 means "no request" in a frame.
        self.last_sequence = self.last_sequence.checked_add(1).unwrap_or(1);
        let sequence = self.last_sequence;
        let sends = match place {
            Place::Sent(_) => 1,
            Place::Waiting(_) => 0,
        };
        let context = Context {
            sequence,
            uid,
            place,
            deadline,
            body,
            completion,
            sends,
        };
        self.wind(context.times_out());
        self.set(index, Slot::Pending(context));
        Ok(Ticket { index, sequence })
    }

    /// A reply from `link`.
    ///
    /// # Errors
    /// [`Mismatch`] unless that request is pending with that link; nothing changes.
    pub(crate) fn reply(
        &mut self,
        link: LinkId,
        ticket: Ticket,
        outcome: Outcome,
    ) -> Result<(), Mismatch> {
        match self.pending(ticket) {
            Some(context) if context.place == Place::Sent(link) => {
                self.settle(ticket.index, outcome);
                Ok(())
            }
            Some(_) | None => Err(Mismatch),
        }
    }

    /// Frees the context of `ticket`, whose answer the caller has from `link` and needs no completion.
    ///
    /// # Errors
    /// [`Mismatch`] unless that request is pending with that link; nothing changes.
    pub(crate) fn answer(&mut self, link: LinkId, ticket: Ticket) -> Result<(), Mismatch> {
        match self.pending(ticket) {
            Some(context) if context.place == Place::Sent(link) => {
                let uid = context.uid;
                self.set(ticket.index, Slot::Free);
                self.release(ticket.index, uid);
                Ok(())
            }
            Some(_) | None => Err(Mismatch),
        }
    }

    /// How many contexts `uid` has.
    pub(crate) fn held(&self, uid: u32) -> usize {
        self.allocated.get(&uid).copied().unwrap_or(0)
    }

    /// Whether `ticket` is pending with `link`.
    pub(crate) fn is_with(&self, link: LinkId, ticket: Ticket) -> bool {
        matches!(self.pending(ticket), Some(context) if context.place == Place::Sent(link))
    }

    /// Settles a request here, if it is still pending; tells whom to send a CANCEL.
    pub(crate) fn abandon(&mut self, ticket: Ticket, error: CallError) -> Option<Abandoned> {
        let context = self.pending(ticket)?;
        let (uid, place) = (context.uid, context.place);
        self.settle(ticket.index, Err(error));
        match place {
            Place::Sent(link) => Some(Abandoned { ticket, uid, link }),
            Place::Waiting(_) => None,
        }
    }

    /// Settles every request whose time has run out.
    pub(crate) fn expire(&mut self, now: Instant) -> Vec<Abandoned> {
        if self.alarm.is_none_or(|alarm| now < alarm) {
            return Vec::new();
        }
        self.alarm = None;
        let mut abandoned = Vec::new();
        for (ticket, over) in self.tickets(|context| context.overdue(now)) {
            match over {
                None => {
                    let next = self.pending(ticket).map(Context::times_out);
                    next.into_iter().for_each(|next| self.wind(next));
                }
                Some(error) => abandoned.extend(self.abandon(ticket, error)),
            }
        }
        abandoned
    }

    /// The responder of `link` is gone: its requests wait for a successor until `until`, those sent
    /// twice already fail.
    pub(crate) fn lose(&mut self, link: LinkId, until: Instant) {
        for (ticket, sends) in
            self.tickets(|context| (context.place == Place::Sent(link)).then_some(context.sends))
        {
            match sends {
                None => {}
                Some(sends) if sends >= SENDS_MAX => {
                    self.settle(ticket.index, Err(CallError::Lost))
                }
                Some(_) => {
                    if let Some(Slot::Pending(context)) = self.slots.get_mut(ticket.index as usize)
                    {
                        context.place = Place::Waiting(until);
                    }
                    self.wind(until);
                }
            }
        }
    }

    /// Hands what waits for `uid`'s responder to `link`, oldest first.
    pub(crate) fn adopt(&mut self, uid: u32, link: LinkId) -> Vec<(Ticket, Body)> {
        let mut adopted = Vec::new();
        for slot in self.slots.iter_mut().zip(0u32..) {
            if let (Slot::Pending(context), index) = slot
                && context.uid == uid
                && matches!(context.place, Place::Waiting(_))
            {
                context.place = Place::Sent(link);
                context.sends += 1;
                let ticket = Ticket {
                    index,
                    sequence: context.sequence,
                };
                adopted.push((ticket, Arc::clone(&context.body)));
            }
        }
        adopted.sort_by_key(|(ticket, _)| ticket.sequence);
        adopted
    }

    /// Settles all that is pending.
    pub(crate) fn stop(&mut self) {
        for (ticket, ()) in self.tickets(|_| ()) {
            self.settle(ticket.index, Err(CallError::Stopped));
        }
    }

    /// Frees one DONE context and gives its completion, to be run once the lock is released.
    pub(crate) fn collect(&mut self) -> Option<(Completion, Outcome)> {
        let index = self.done.pop_front()?;
        let slot = self.slots.get_mut(index as usize)?;
        let Slot::Done {
            uid,
            completion,
            outcome,
        } = std::mem::replace(slot, Slot::Free)
        else {
            unreachable!("only DONE contexts are in the done list");
        };
        self.release(index, uid);
        Some((completion, outcome))
    }

    /// Whether an outcome waits to be collected.
    pub(crate) fn has_done(&self) -> bool {
        !self.done.is_empty()
    }

    /// When [`Self::expire`] is to be called next.
    pub(crate) fn alarm(&self) -> Option<Instant> {
        self.alarm
    }

    fn pending(&self, ticket: Ticket) -> Option<&Context> {
        match self.slots.get(ticket.index as usize)? {
            Slot::Pending(context) if context.sequence == ticket.sequence => Some(context),
            Slot::Free | Slot::Pending(_) | Slot::Done { .. } => None,
        }
    }

    /// What `ask` says of every pending request.
    fn tickets<T>(&self, ask: impl Fn(&Context) -> T) -> Vec<(Ticket, T)> {
        let slots = self.slots.iter().zip(0u32..);
        slots
            .filter_map(|(slot, index)| match slot {
                Slot::Pending(context) => Some((
                    Ticket {
                        index,
                        sequence: context.sequence,
                    },
                    ask(context),
                )),
                Slot::Free | Slot::Done { .. } => None,
            })
            .collect()
    }

    /// Counts a slot that has become FREE.
    fn release(&mut self, index: u32, uid: u32) {
        self.free.push_back(index);
        if let Some(held) = self.allocated.get_mut(&uid) {
            *held -= 1;
            if *held == 0 {
                self.allocated.remove(&uid);
            }
        }
    }

    fn settle(&mut self, index: u32, outcome: Outcome) {
        let Some(slot) = self.slots.get_mut(index as usize) else {
            return;
        };
        match std::mem::replace(slot, Slot::Free) {
            Slot::Pending(Context {
                uid, completion, ..
            }) => {
                *slot = Slot::Done {
                    uid,
                    completion,
                    outcome,
                };
                self.done.push_back(index);
            }
            settled @ (Slot::Free | Slot::Done { .. }) => *slot = settled,
        }
    }

    fn set(&mut self, index: u32, new: Slot) {
        if let Some(slot) = self.slots.get_mut(index as usize) {
            *slot = new;
        }
    }

    fn wind(&mut self, at: Instant) {
        self.alarm = Some(self.alarm.map_or(at, |alarm| alarm.min(at)));
    }
}

impl Context {
    fn times_out(&self) -> Instant {
        match self.place {
            Place::Sent(_) => self.deadline,
            Place::Waiting(until) => until.min(self.deadline),
        }
    }

    /// The error this request ends in, if its time has run out.
    fn overdue(&self, now: Instant) -> Option<CallError> {
        match self.place {
            _ if now >= self.deadline => Some(CallError::Deadline),
            Place::Waiting(until) if now >= until => Some(match self.sends {
                0 => CallError::NoResponder,
                _ => CallError::Lost,
            }),
            Place::Sent(_) | Place::Waiting(_) => None,
        }
    }
}

/// A reply that answers no pending request of its link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mismatch;

#[cfg(test)]
mod tests;
