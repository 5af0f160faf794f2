//! Keys by callout: the daemon of whoever asks has them.
//!
//! Requests go to the daemon that has registered for the caller's uid; every one has a deadline, and
//! its outcome is a key or a [`Failure`]. When keys come and go unasked is [`crate::keeper`]'s.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use claviger_callout::Requester;
use claviger_protocol::keys::{KeyEvent, KeyReply, KeyRequest};
use claviger_protocol::{Failure, encode};
use claviger_vault::format::{NewFile, Tree};
use claviger_vault::ids::VolumeId;

use crate::bodies::{Bodies, key_reply};
use crate::keys::{KeySource, Ticket, Unwrap, UnwrapDone};
use crate::kin::{Kin, Kinship};
use crate::pool::{Order, Pool};

/// Longest wait for the FEKs of one file: a person may have to find a card and type a PIN.
const PARK_LIMIT: Duration = Duration::from_secs(30);

/// Longest wait for what the daemon has at hand.
const SHORT_LIMIT: Duration = Duration::from_secs(10);

/// The keys of one volume, as its daemons give them.
#[derive(Clone)]
pub struct CalloutKeys(Arc<Shared>);

struct Shared {
    volume: VolumeId,
    bodies: Box<dyn Bodies>,
    /// `None` before the mount is published, and after.
    requester: RwLock<Option<Arc<Requester>>>,
    tree: RwLock<Option<Arc<dyn Tree>>>,
    /// Processes, by uid: as the kernel told, and only for what [`Kin`] does with them.
    daemons: RwLock<HashMap<u32, u32>>,
    pool: Pool,
    kin: Kin,
    park_limit: Duration,
    next_ticket: AtomicU64,
    tickets: Mutex<HashMap<Ticket, UnderWay>>,
}

/// An unwrap whose outcome has not come.
#[derive(Clone, Copy, Debug)]
enum UnderWay {
    /// It is being sent.
    Starting,
    Sent(claviger_callout::Ticket),
}

impl CalloutKeys {
    /// Keys of `volume`, asked for by `bodies`; locked, and without a daemon.
    pub fn new(volume: VolumeId, bodies: Box<dyn Bodies>) -> Self {
        Self(Arc::new(Shared {
            volume,
            pool: Pool::new(bodies.new_files_at_most()),
            bodies,
            requester: RwLock::default(),
            tree: RwLock::default(),
            daemons: RwLock::default(),
            kin: Kin::default(),
            park_limit: park_limit(Path::new("/proc/sys/fs/fuse")),
            next_ticket: AtomicU64::new(1),
            tickets: Mutex::default(),
        }))
    }

    /// The volume's id.
    pub fn volume(&self) -> VolumeId {
        self.0.volume
    }

    /// Takes up `requester`, with which daemons register from now on; `None` lets go of it.
    pub fn use_requester(&self, requester: Option<Arc<Requester>>) {
        let old = std::mem::replace(&mut *write(&self.0.requester), requester);
        // Not under the lock: it waits for its thread, which may be about to ask us for it.
        drop(old);
    }

    /// Notes which process answers for `uid`: it must not wait for itself.
    pub(crate) fn set_daemon(&self, uid: u32, pid: u32) {
        write(&self.0.daemons).insert(uid, pid);
    }

    /// Fresh files at hand.
    pub(crate) fn pool(&self) -> &Pool {
        &self.0.pool
    }

    /// Gives the tree to everyone, or takes it away; returns what was there.
    pub(crate) fn set_tree(&self, tree: Option<Arc<dyn Tree>>) -> Option<Arc<dyn Tree>> {
        std::mem::replace(&mut *write(&self.0.tree), tree)
    }

    /// Orders fresh files for the creates of `uid` to come.
    pub(crate) fn prefill(&self, uid: u32) {
        self.0.pool.prefill(uid, |order| self.place(order));
    }

    /// Asks the daemon of `uid` for what opens the tree.
    pub(crate) fn ask_tree(
        &self,
        uid: u32,
        done: impl FnOnce(Result<Arc<dyn Tree>, Failure>) + Send + 'static,
    ) {
        let request = self.0.bodies.ask_tree();
        let shared = Arc::clone(&self.0);
        self.ask(uid, &request, SHORT_LIMIT, move |reply| {
            done(reply.and_then(|reply| shared.bodies.tree(reply)));
        });
    }

    /// Tells the daemon of `uid` that what `event` asks for is done here.
    pub(crate) fn acknowledge(&self, uid: u32, event: KeyEvent, lost: Vec<Vec<u8>>) {
        let request = KeyRequest::Acknowledge { event, lost };
        self.ask(uid, &request, SHORT_LIMIT, move |reply| {
            if let Err(failure) = reply {
                tracing::warn!(uid, %failure, ?event, "the daemon took no note");
            }
        });
    }

    fn place(&self, order: Order) {
        let request = self.0.bodies.ask_new_files(order.count);
        let shared = Arc::downgrade(&self.0);
        self.ask(order.uid, &request, SHORT_LIMIT, move |reply| {
            if let Some(shared) = shared.upgrade() {
                let files = reply.and_then(|reply| shared.bodies.new_files(reply));
                let files = files.and_then(|files| shared.check_epoch(files));
                shared.pool.deliver(order, files);
            }
        });
    }

    /// Sends one request. `done` is called exactly once, from any thread, perhaps before this
    /// returns.
    fn ask(
        &self,
        uid: u32,
        request: &KeyRequest,
        limit: Duration,
        done: impl FnOnce(Result<KeyReply, Failure>) + Send + 'static,
    ) -> Option<claviger_callout::Ticket> {
        let requester = read(&self.0.requester).clone();
        let Some(requester) = requester else {
            done(Err(Failure::NoDaemon { uid }));
            return None;
        };
        let body = match encode(request) {
            Ok(body) => body,
            Err(error) => {
                done(Err(Failure::Internal(format!(
                    "encoding a key request: {error}"
                ))));
                return None;
            }
        };
        let deadline = Instant::now() + limit;
        let done = Box::new(move |outcome| done(key_reply(uid, outcome)));
        requester.submit(uid, body, deadline, done)
    }

    fn tickets(&self) -> MutexGuard<'_, HashMap<Ticket, UnderWay>> {
        let tickets = self.0.tickets.lock();
        tickets.unwrap_or_else(PoisonError::into_inner)
    }

    /// Refuses openers who must not wait for the daemon.
    fn check_opener(&self, uid: u32, pid: u32) -> Result<(), Failure> {
        let daemon = read(&self.0.daemons).get(&uid).copied();
        match daemon.map(|daemon| self.0.kin.of(pid, daemon)) {
            None | Some(Kinship::Stranger) => Ok(()),
            // ENOKEY, like any opener without a key.
            Some(Kinship::Descendant) => Err(Failure::NotARecipient(
                "clavigerd and what it starts open no files of a volume".into(),
            )),
        }
    }
}

impl Shared {
    /// Refuses fresh files of an epoch that is over: where several users share a mount, another one's
    /// daemon may have begun a new epoch that this one has not heard of.
    fn check_epoch(&self, files: Vec<Box<dyn NewFile>>) -> Result<Vec<Box<dyn NewFile>>, Failure> {
        let tree = read(&self.tree).clone().ok_or(Failure::Locked)?;
        let current = tree.names_keys().map(|names| names.current());
        if files.iter().any(|file| file.epoch() < current) {
            let text = "clavigerd has not taken note of the new epoch yet";
            return Err(Failure::Busy(text.into()));
        }
        Ok(files)
    }
}

impl KeySource for CalloutKeys {
    fn tree(&self) -> Option<Arc<dyn Tree>> {
        read(&self.0.tree).clone()
    }

    fn fresh(&self, uid: u32) -> Result<Box<dyn NewFile>, Failure> {
        let take = || match self.tree() {
            Some(_) => self.0.pool.take(uid, |order| self.place(order)),
            None => Err(Failure::Locked),
        };
        match take() {
            // The shelf that it waited at was thrown away: by a lock, or by a new epoch, and then
            // there is another.
            Err(Failure::Locked) => take(),
            outcome => outcome,
        }
    }

    fn unwrap(&self, request: Unwrap, done: UnwrapDone) -> Ticket {
        let ticket = Ticket(self.0.next_ticket.fetch_add(1, Ordering::Relaxed));
        let Unwrap { uid, pid, .. } = request;
        if let Err(failure) = self.check_opener(uid, pid) {
            done(Err(failure));
            return ticket;
        }
        let body = self.0.bodies.ask_file(&request);
        self.tickets().insert(ticket, UnderWay::Starting);
        let keys = self.clone();
        let sent = self.ask(uid, &body, self.0.park_limit, move |reply| {
            keys.tickets().remove(&ticket);
            done(reply.and_then(|reply| keys.0.bodies.file(request.head, reply)));
        });
        // Unless its outcome was there first.
        if let (Some(sent), Some(under_way)) = (sent, self.tickets().get_mut(&ticket)) {
            *under_way = UnderWay::Sent(sent);
        }
        ticket
    }

    fn cancel(&self, ticket: Ticket) {
        let under_way = self.tickets().get(&ticket).copied();
        let requester = read(&self.0.requester).clone();
        if let (Some(UnderWay::Sent(sent)), Some(requester)) = (under_way, requester) {
            requester.cancel(sent);
        }
    }
}

/// The longest that a reply may be held back: [`PARK_LIMIT`], or well within the limit that the
/// machine's admin has set, past which the kernel aborts the whole mount.
fn park_limit(settings: &Path) -> Duration {
    let seconds = |name: &str| -> Option<u64> {
        let text = fs::read_to_string(settings.join(name)).ok()?;
        text.trim().parse().ok().filter(|seconds| *seconds > 0)
    };
    // The maximum stands in for a default that is not set (Documentation/admin-guide/sysctl/fs.rst).
    let limits = [
        seconds("default_request_timeout"),
        seconds("max_request_timeout"),
    ];
    let kernel = limits.into_iter().flatten().min().map(Duration::from_secs);
    kernel.map_or(PARK_LIMIT, |limit| PARK_LIMIT.min(limit / 2))
}

fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_is_never_held_back_longer_than_the_kernel_suffers() {
        let settings = tempfile::tempdir().unwrap();
        let limit = |default: &str, most: &str| {
            fs::write(settings.path().join("default_request_timeout"), default).unwrap();
            fs::write(settings.path().join("max_request_timeout"), most).unwrap();
            park_limit(settings.path()).as_secs()
        };
        assert_eq!(limit("0\n", "0\n"), 30);
        assert_eq!(limit("0\n", "40\n"), 20);
        assert_eq!(limit("40\n", "0\n"), 20);
        assert_eq!(limit("600\n", "600\n"), 30);
        assert_eq!(park_limit(Path::new("/nowhere")).as_secs(), 30);
    }
}
