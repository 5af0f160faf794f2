//! Keys by callout: the daemon of whoever asks has them.
//!
//! Requests go to the daemon that has registered for the caller's uid; every one has a deadline, and
//! its outcome is a key or a [`Failure`]. When keys come and go unasked is [`crate::keeper`]'s.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use claviger_callout::{CallError, Requester};
use claviger_protocol::keys::{self, KeyReply, KeyRequest};
use claviger_protocol::{Failure, Secret};
use claviger_vault::ids::{Epoch, VolumeId};
use claviger_vault::names::NamesKeys;
use claviger_vault::native::Feks;
use claviger_vault::secret::{Fek, NamesKey};
use zeroize::Zeroizing;

use crate::keys::{FreshFile, KeySource, Ticket, Unwrap, UnwrapDone};
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
    /// Absolute, as bytes of a path.
    lower_root: Vec<u8>,
    /// `None` before the mount is published, and after.
    requester: RwLock<Option<Arc<Requester>>>,
    names: RwLock<Option<Arc<NamesKeys>>>,
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
    /// Keys of `volume`, whose lower root is `lower_root`; locked, and without a daemon.
    pub fn new(volume: VolumeId, lower_root: &Path) -> Self {
        Self(Arc::new(Shared {
            volume,
            lower_root: lower_root.as_os_str().as_encoded_bytes().to_vec(),
            requester: RwLock::default(),
            names: RwLock::default(),
            daemons: RwLock::default(),
            pool: Pool::default(),
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

    /// Gives names to everyone, or takes them away; returns what was there.
    pub(crate) fn set_names(&self, names: Option<Arc<NamesKeys>>) -> Option<Arc<NamesKeys>> {
        std::mem::replace(&mut *write(&self.0.names), names)
    }

    /// Orders fresh files for the creates of `uid` to come.
    pub(crate) fn prefill(&self, uid: u32) {
        self.0.pool.prefill(uid, |order| self.place(order));
    }

    /// Asks the daemon of `uid` for the names keys.
    pub(crate) fn ask_names(
        &self,
        uid: u32,
        done: impl FnOnce(Result<NamesKeys, Failure>) + Send + 'static,
    ) {
        let request = KeyRequest::Names {
            volume: self.0.volume,
            lower_root: self.0.lower_root.clone(),
        };
        self.ask(uid, &request, SHORT_LIMIT, move |reply| {
            done(reply.and_then(names_keys))
        });
    }

    /// Tells the daemon of `uid` that its keys are gone from here.
    pub(crate) fn tell_locked(&self, uid: u32, lost: Vec<Vec<u8>>) {
        let request = KeyRequest::LockDone {
            volume: self.0.volume,
            lost,
        };
        self.ask(uid, &request, SHORT_LIMIT, move |reply| {
            if let Err(failure) = reply {
                tracing::warn!(uid, %failure, "the daemon did not take note of the lock");
            }
        });
    }

    fn place(&self, order: Order) {
        let request = KeyRequest::Fresh {
            volume: self.0.volume,
            count: order.count,
        };
        let shared = Arc::downgrade(&self.0);
        self.ask(order.uid, &request, SHORT_LIMIT, move |reply| {
            if let Some(shared) = shared.upgrade() {
                shared.pool.deliver(order, reply.and_then(fresh_files));
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
        let body = match postcard::to_stdvec(request) {
            Ok(body) => Zeroizing::new(body),
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

impl KeySource for CalloutKeys {
    fn names(&self) -> Option<Arc<NamesKeys>> {
        read(&self.0.names).clone()
    }

    fn fresh(&self, uid: u32) -> Result<FreshFile, Failure> {
        if read(&self.0.names).is_none() {
            return Err(Failure::Locked);
        }
        self.0.pool.take(uid, |order| self.place(order))
    }

    fn unwrap(&self, request: Unwrap, done: UnwrapDone) -> Ticket {
        let ticket = Ticket(self.0.next_ticket.fetch_add(1, Ordering::Relaxed));
        let Unwrap { uid, pid, .. } = request;
        if let Err(failure) = self.check_opener(uid, pid) {
            done(Err(failure));
            return ticket;
        }
        let request = KeyRequest::UnwrapFek {
            volume: self.0.volume,
            header: request.head,
            lower_path: request.lower_path,
            pid,
        };
        self.tickets().insert(ticket, UnderWay::Starting);
        let keys = self.clone();
        let sent = self.ask(uid, &request, self.0.park_limit, move |reply| {
            keys.tickets().remove(&ticket);
            done(reply.and_then(feks));
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

fn key_reply(
    uid: u32,
    outcome: Result<Zeroizing<Vec<u8>>, CallError>,
) -> Result<KeyReply, Failure> {
    let body = outcome.map_err(|error| failure(uid, error))?;
    match postcard::from_bytes(&body) {
        Ok(KeyReply::Failed(failure)) => Err(failure),
        Ok(reply) => Ok(reply),
        Err(_) => Err(unexpected()),
    }
}

/// No `_` arm: a new kind of failed call must choose what the caller is told.
fn failure(uid: u32, error: CallError) -> Failure {
    match error {
        CallError::NoResponder | CallError::Lost | CallError::Stopped => Failure::NoDaemon { uid },
        CallError::TableFull => Failure::Busy("too many requests wait for clavigerd".into()),
        CallError::Deadline => Failure::TimedOut {
            what: "clavigerd".into(),
        },
        CallError::Cancelled => Failure::Cancelled,
        CallError::TooLarge(_) | CallError::Unanswered => Failure::Internal(error.to_string()),
    }
}

fn unexpected() -> Failure {
    Failure::Internal("the daemon's reply is not one to the request".into())
}

fn names_keys(reply: KeyReply) -> Result<NamesKeys, Failure> {
    let KeyReply::Names {
        current,
        minimum,
        keys,
        scope: _,
    } = reply
    else {
        return Err(unexpected());
    };
    let keys: Vec<(Epoch, NamesKey)> = keys
        .into_iter()
        .map(|(epoch, key)| Ok((epoch, NamesKey::new(&mut *key_32(&key)?))))
        .collect::<Result<_, Failure>>()?;
    NamesKeys::new(current, minimum, keys).map_err(|_| unexpected())
}

fn feks(reply: KeyReply) -> Result<(Feks, Epoch), Failure> {
    let KeyReply::Feks {
        feks,
        newest,
        epoch,
    } = reply
    else {
        return Err(unexpected());
    };
    Ok((feks_of(&feks, newest)?, epoch))
}

fn fresh_files(reply: KeyReply) -> Result<Vec<FreshFile>, Failure> {
    let KeyReply::Fresh(files) = reply else {
        return Err(unexpected());
    };
    let fresh = |file: keys::FreshFile| {
        Ok(FreshFile {
            epoch: file.epoch,
            head: file.header,
            feks: feks_of(std::slice::from_ref(&file.fek), 0)?,
        })
    };
    files.into_iter().map(fresh).collect()
}

fn feks_of(secrets: &[Secret], newest: u8) -> Result<Feks, Failure> {
    let feks = secrets
        .iter()
        .map(|secret| Ok(Fek::new(&mut *key_32(secret)?)))
        .collect::<Result<Vec<_>, Failure>>()?;
    Feks::new(feks, newest).map_err(|_| unexpected())
}

fn key_32(secret: &Secret) -> Result<Zeroizing<[u8; 32]>, Failure> {
    secret.to_array().map(Zeroizing::new).ok_or_else(unexpected)
}

fn read<T>(lock: &RwLock<T>) -> std::sync::RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> std::sync::RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}
