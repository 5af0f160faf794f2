//! Requesters that took this responder, as all its threads see them.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::PeerInfo;
use super::call::Calls;
use crate::Instance;
use crate::frame::{Flags, Kind};
use crate::link::{Link, LinkId, SendError, Sent};
use crate::poll::Bell;
use crate::session::Subject;

/// One requester.
pub(super) struct Peer {
    pub(super) info: Arc<PeerInfo>,
    pub(super) link: Arc<Link>,
    pub(super) calls: Calls,
}

/// What the responder's thread and everybody else share.
pub(super) struct Shared {
    state: Mutex<State>,
    /// Rung when [`State::greeted`] grows.
    greeting: Condvar,
    pub(super) bell: Bell,
}

struct State {
    peers: HashMap<Instance, Arc<Peer>>,
    lost: Vec<LinkId>,
    congested: Vec<Arc<Link>>,
    run: Run,
    /// How often somebody has wanted all who are there to be greeted.
    wanted: u64,
    /// How many of these are done: those have been greeted, or could not be.
    greeted: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Run {
    Going,
    Stopping,
}

/// What other threads left to the responder's thread.
pub(super) struct Chores {
    pub(super) lost: Vec<LinkId>,
    pub(super) congested: Vec<Arc<Link>>,
    /// How often all who are there were to be greeted, by now.
    pub(super) wanted: u64,
    pub(super) run: Run,
}

impl Shared {
    pub(super) fn new() -> io::Result<Self> {
        let state = State {
            peers: HashMap::new(),
            lost: Vec::new(),
            congested: Vec::new(),
            run: Run::Going,
            wanted: 0,
            greeted: 0,
        };
        Ok(Self {
            state: Mutex::new(state),
            greeting: Condvar::new(),
            bell: Bell::new()?,
        })
    }

    pub(super) fn peers(&self) -> Vec<Arc<Peer>> {
        self.state().peers.values().cloned().collect()
    }

    pub(super) fn peer(&self, instance: Instance) -> Option<Arc<Peer>> {
        self.state().peers.get(&instance).cloned()
    }

    pub(super) fn add(&self, peer: &Arc<Peer>) {
        self.state()
            .peers
            .insert(peer.info.instance, Arc::clone(peer));
    }

    pub(super) fn remove(&self, peer: &Peer) {
        self.state().peers.remove(&peer.info.instance);
    }

    pub(super) fn send_event(&self, peer: &Peer, body: &[u8]) -> Result<(), SendError> {
        let subject = Subject {
            kind: Kind::Event,
            flags: Flags::NONE,
            index: 0,
            sequence: 0,
        };
        self.send(peer, subject, body)
    }

    /// Sends, and leaves what is not done with it to the responder's thread.
    pub(super) fn send(&self, peer: &Peer, subject: Subject, body: &[u8]) -> Result<(), SendError> {
        match peer.link.send(subject, body) {
            Ok(Sent::Out) => Ok(()),
            Ok(Sent::Queued) => {
                self.state().congested.push(Arc::clone(&peer.link));
                self.bell.ring();
                Ok(())
            }
            // A requester that leaves this much unread would miss replies: better it starts anew.
            Err(error @ SendError::Full) if subject.kind == Kind::Response => {
                self.report_lost(peer.link.id());
                Err(error)
            }
            Err(SendError::Lost) => {
                self.report_lost(peer.link.id());
                Err(SendError::Lost)
            }
            Err(error) => Err(error),
        }
    }

    pub(super) fn chores(&self) -> Chores {
        let mut state = self.state();
        let lost = std::mem::take(&mut state.lost);
        let congested = std::mem::take(&mut state.congested);
        Chores {
            lost,
            congested,
            wanted: state.wanted,
            run: state.run,
        }
    }

    /// All who were there when it was `wanted` have been greeted, or could not be.
    pub(super) fn set_greeted(&self, wanted: u64) {
        self.state().greeted = wanted;
        self.greeting.notify_all();
    }

    /// Has all who are there greeted, and waits for that, up to `patience`.
    pub(super) fn wait_greeted(&self, patience: Duration) {
        let mut state = self.state();
        state.wanted += 1;
        let wanted = state.wanted;
        self.bell.ring();
        // Whether in time or not, the caller goes on.
        drop(
            self.greeting
                .wait_timeout_while(state, patience, |state| state.greeted < wanted),
        );
    }

    pub(super) fn stop(&self) {
        self.state().run = Run::Stopping;
        self.bell.ring();
    }

    fn report_lost(&self, link: LinkId) {
        self.state().lost.push(link);
        self.bell.ring();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
