//! Keeps the keys of a mount in step with its daemons: names come, epochs begin, locks happen.
//!
//! One thread does it all, one thing after the other, so that a lock and the unlock after it cannot
//! overtake each other. What must not wait for its turn, throwing away fresh files, is done where
//! the event arrives.
//!
//! On a mount with several users each has a daemon of his own. The names are for all once one of
//! them has unlocked; his lock takes away what he was granted, and the last one's, of those whose
//! daemons are there, the names.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use claviger_callout::{CarrierKind, Observer};
use claviger_protocol::Failure;
use claviger_protocol::keys::KeyEvent;
use claviger_vault::format::Tree;
use claviger_vault::ids::Epoch;
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

use crate::callout_keys::CalloutKeys;
use crate::lock::Lockable;

/// How often names are asked for if no answer comes.
const ATTEMPTS: u32 = 3;

/// What the keeper is told.
enum Note {
    Registered(u32),
    Gone(u32),
    Event(u32, KeyEvent),
    Tree(Question, Result<Arc<dyn Tree>, Failure>),
    Stop,
}

/// One request for what opens the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Question {
    uid: u32,
    /// What made us ask, to be acknowledged; none if the daemon has just come.
    because: Option<KeyEvent>,
    attempt: u32,
    /// How many locks came before it: what was asked before a lock must not unlock after it.
    locks: u64,
}

/// Listens to the daemons of a mount, and notes what happens until a [`Keeper`] takes it up.
pub struct Listener {
    keys: CalloutKeys,
    notes: Sender<Note>,
}

/// The thread that keeps the keys of one mount.
pub struct Keeper {
    notes: Sender<Note>,
    thread: Option<JoinHandle<()>>,
    /// Closed by the other end once a daemon has said whether the volume is unlocked.
    answered: Receiver<Never>,
}

/// What is never sent.
enum Never {}

/// What [`listen`] leaves for [`Keeper::start`].
pub struct Notes {
    sender: Sender<Note>,
    receiver: Receiver<Note>,
}

/// Begins to note what the daemons of a mount say.
pub fn listen(keys: CalloutKeys) -> (Arc<Listener>, Notes) {
    let (sender, receiver) = unbounded();
    let listener = Listener {
        keys,
        notes: sender.clone(),
    };
    (Arc::new(listener), Notes { sender, receiver })
}

impl Keeper {
    /// Starts to act on `notes`.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub fn start(mount: Lockable, notes: Notes) -> io::Result<Self> {
        let Notes { sender, receiver } = notes;
        let (unanswered, answered) = bounded(0);
        let state = State {
            mount,
            notes: sender.clone(),
            present: BTreeSet::new(),
            unlocked: BTreeSet::new(),
            locks: 0,
            unanswered: Some(unanswered),
        };
        let thread = thread::Builder::new()
            .name("keeper".into())
            .spawn(move || state.run(&receiver))?;
        Ok(Self {
            notes: sender,
            thread: Some(thread),
            answered,
        })
    }

    /// Waits until a daemon has said whether the volume is unlocked, at most `patience`: what mounts an
    /// unlocked volume may then use it at once.
    pub fn wait_for_daemon(&self, patience: Duration) {
        // Whether it has answered or time is up, the mount goes on.
        let _ = self.answered.recv_timeout(patience);
    }
}

impl Drop for Keeper {
    /// Ends the thread, once it has done what it is at.
    fn drop(&mut self) {
        if self.notes.send(Note::Stop).is_ok()
            && let Some(thread) = self.thread.take()
        {
            // A panic there has been reported by the thread itself.
            let _ = thread.join();
        }
    }
}

impl Listener {
    fn note(&self, note: Note) {
        // No keeper any more: the mount is ending.
        let _ = self.notes.send(note);
    }
}

impl Observer for Listener {
    fn process(&self, uid: u32, pid: i32) {
        self.keys.set_daemon(uid, pid.try_into().unwrap_or(0));
    }

    fn registered(&self, uid: u32, carrier: CarrierKind) {
        tracing::info!(uid, ?carrier, "a daemon registered");
        self.note(Note::Registered(uid));
    }

    fn gone(&self, uid: u32) {
        tracing::info!(uid, "a daemon went");
        // An epoch may begin before it is back. What is open stays open: a daemon that crashed has
        // not been asked to lock.
        self.keys.pool().discard(uid);
        self.note(Note::Gone(uid));
    }

    fn event(&self, uid: u32, body: &[u8]) {
        let Ok(event) = postcard::from_bytes::<KeyEvent>(body) else {
            tracing::warn!(uid, "an event that is not one of ours");
            return;
        };
        let (KeyEvent::Lock { volume }
        | KeyEvent::Unlocked { volume }
        | KeyEvent::NewEpoch { volume, .. }) = event;
        if volume == self.keys.volume() {
            self.keys.pool().discard(uid);
            self.note(Note::Event(uid, event));
        }
    }

    fn pending(&self, ticket: claviger_callout::Ticket, reason: claviger_callout::Pending) {
        tracing::debug!(?ticket, ?reason, "the daemon is at it");
    }
}

struct State {
    mount: Lockable,
    notes: Sender<Note>,
    /// Who has a daemon now.
    present: BTreeSet<u32>,
    /// Whose daemons have given names keys since their last lock.
    unlocked: BTreeSet<u32>,
    locks: u64,
    /// Dropped at the first answer of a daemon.
    unanswered: Option<Sender<Never>>,
}

impl State {
    fn run(mut self, notes: &Receiver<Note>) {
        for note in notes {
            match note {
                Note::Registered(uid) => {
                    self.present.insert(uid);
                    self.ask_tree(uid, None, 1);
                }
                Note::Gone(uid) => drop(self.present.remove(&uid)),
                Note::Event(
                    uid,
                    event @ (KeyEvent::Unlocked { .. } | KeyEvent::NewEpoch { .. }),
                ) => self.ask_tree(uid, Some(event), 1),
                Note::Event(uid, event @ KeyEvent::Lock { .. }) => self.lock(uid, event),
                Note::Tree(question, outcome) => self.tree_came(question, outcome),
                Note::Stop => return,
            }
        }
    }

    fn ask_tree(&self, uid: u32, because: Option<KeyEvent>, attempt: u32) {
        let question = Question {
            uid,
            because,
            attempt,
            locks: self.locks,
        };
        let notes = self.notes.clone();
        self.mount.keys.ask_tree(uid, move |outcome| {
            let _ = notes.send(Note::Tree(question, outcome));
        });
    }

    fn tree_came(&mut self, question: Question, outcome: Result<Arc<dyn Tree>, Failure>) {
        let Question {
            uid,
            because,
            attempt,
            locks,
        } = question;
        match outcome {
            Ok(_) if locks != self.locks => return self.ask_tree(uid, because, 1),
            Ok(tree) => {
                self.adopt(uid, tree);
                if let Some(event) = because {
                    self.mount.keys.acknowledge(uid, event, Vec::new());
                }
            }
            // It will say when it is unlocked.
            Err(Failure::Locked | Failure::NoDaemon { .. }) => (),
            Err(Failure::TimedOut { .. } | Failure::Busy(_)) if attempt < ATTEMPTS => {
                return self.ask_tree(uid, because, attempt + 1);
            }
            Err(failure) => tracing::warn!(uid, %failure, "no names keys"),
        }
        self.unanswered = None;
    }

    fn adopt(&mut self, uid: u32, tree: Arc<dyn Tree>) {
        if let Err(reason) = self.mount.check_tree(&*tree) {
            tracing::error!(uid, reason, "names keys refused");
            return;
        }
        let epoch = epoch_of(&*tree);
        tracing::info!(uid, ?epoch, "unlocked");
        let old = self.mount.keys.set_tree(Some(tree));
        if old.is_some_and(|old| epoch_of(&*old) < epoch) {
            // Those of other users too, whose daemons may not know yet.
            self.mount.keys.pool().clear();
        }
        self.unlocked.insert(uid);
        self.mount.volume.accept_opens();
        self.mount.keys.prefill(uid);
    }

    fn lock(&mut self, uid: u32, event: KeyEvent) {
        self.locks += 1;
        self.unlocked.remove(&uid);
        // Who has unlocked and gone could not lock any more: he does not keep it open for himself.
        let lost = if self.unlocked.is_disjoint(&self.present) {
            tracing::info!(uid, "locking");
            self.unlocked.clear();
            self.mount.lock()
        } else {
            tracing::info!(uid, "locking for one user; others stay");
            self.mount.drop_grants(uid);
            Vec::new()
        };
        self.mount.keys.acknowledge(uid, event, lost);
    }
}

/// The epoch that new files are made in; `None` where the format has none.
fn epoch_of(tree: &dyn Tree) -> Option<Epoch> {
    Some(tree.names_keys()?.current())
}
