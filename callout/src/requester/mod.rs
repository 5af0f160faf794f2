//! The requester: asks, and is found.

mod conns;
mod io_thread;
mod state;
mod turn;

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use std::{fs, io};

use zeroize::Zeroizing;

use crate::carrier::{CarrierKind, Transport, netlink, unix};
use crate::peer::Uids;
use crate::rendezvous::{Entry, Namespaces, Publication, prepare_folder};
use crate::{BODY_MAX, CallError, Instance, Outcome, Pending, Serves, StartError, Ticket};

use conns::Listeners;
use io_thread::IoThread;
use state::{Refused, Shared};

/// What a requester is to do.
#[derive(Clone, Debug)]
pub struct RequesterConfig {
    /// Rendezvous folder; made if missing.
    pub dir: PathBuf,
    /// Carriers offered.
    pub transport: Transport,
    /// What is asked: told to responders before anything else.
    pub service: String,
    /// More of the same, for people and policy. Every user may read it under [`Serves::AnyUid`].
    pub about: BTreeMap<String, String>,
    /// Whose responders are taken.
    pub serves: Serves,
    /// Bounds.
    pub limits: Limits,
}

impl RequesterConfig {
    /// A requester for `service` of this uid's responders, over any carrier, with default limits.
    pub fn new(dir: impl Into<PathBuf>, service: impl Into<String>) -> Self {
        Self {
            dir: dir.into(),
            transport: Transport::Auto,
            service: service.into(),
            about: BTreeMap::new(),
            serves: Serves::Owner,
            limits: Limits::default(),
        }
    }
}

/// Bounds of a requester.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Requests in flight, all uids together.
    pub contexts: u32,
    /// Requests in flight of one uid.
    pub contexts_per_uid: usize,
    /// Uids whose responders may be registered at once.
    pub responders: usize,
    /// How long the requests of a responder that vanished, and new ones, wait for a successor.
    pub successor_wait: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            contexts: 1024,
            contexts_per_uid: 256,
            responders: 256,
            successor_wait: Duration::from_secs(2),
        }
    }
}

/// Hears what nobody asked for. Called on the requester's thread: return quickly, and do not call
/// [`Requester::call`] there.
pub trait Observer: Send + Sync {
    /// The responder of `uid` sent an event.
    fn event(&self, _uid: u32, _body: &[u8]) {}
    /// A responder of `uid` registered; if there was one, it is replaced.
    fn registered(&self, _uid: u32, _kind: CarrierKind) {}
    /// Told before [`Self::registered`]: the process of the responder, as the kernel says. A hint for
    /// looking at it, never a reason to allow anything: netlink does not translate pids between pid
    /// namespaces, and 0 is one that cannot be seen from here.
    fn process(&self, _uid: u32, _pid: i32) {}
    /// The responder of `uid` left or vanished.
    fn gone(&self, _uid: u32) {}
    /// A request waits, and the responder tells why.
    fn pending(&self, _ticket: Ticket, _reason: Pending) {}
}

/// Hears nothing.
impl Observer for () {}

/// Asks the responders of its users.
///
/// Its one thread is started by [`Requester::start`]: fork first. Dropping it fails what is pending
/// with [`CallError::Stopped`] and tells all responders.
pub struct Requester {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    instance: Instance,
    /// Before the thread ends, so that nobody greets what is about to close.
    publication: Option<Publication>,
}

impl Requester {
    /// Opens the sockets, starts the thread and publishes the entry.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start(config: RequesterConfig, observer: Arc<dyn Observer>) -> Result<Self, StartError> {
        let uids = Uids::read()?;
        let folder = |source| StartError::Folder {
            folder: config.dir.clone(),
            source,
        };
        prepare_folder(&config.dir, config.serves, &uids).map_err(folder)?;
        // Before anyone can greet: a process's first random bytes cost 50 ms (measured: aws-lc gathers jitter),
        // and a responder waits 200 ms for an answer, for which some are needed, too.
        let instance = Instance::random()?;
        let listeners = open_listeners(&config, instance)?;
        let entry = Entry {
            instance,
            service: config.service.clone(),
            about: config.about.clone(),
            namespaces: Namespaces::own()?,
            netlink: listeners.netlink.as_ref().map(netlink::Port::id),
            socket: listeners.unix.as_ref().map(|_| socket_name(instance)),
        };
        let shared = Arc::new(Shared::new(config.limits, observer)?);
        let io_thread = IoThread::new(
            Arc::clone(&shared),
            listeners,
            instance,
            uids,
            config.serves,
        )?;
        let publication =
            Publication::publish(&config.dir, &entry, config.serves).map_err(folder)?;
        let thread = thread::Builder::new()
            .name("callout".to_owned())
            .spawn(move || io_thread.run())?;
        Ok(Self {
            shared,
            thread: Some(thread),
            instance,
            publication: Some(publication),
        })
    }

    /// This run's id.
    pub fn instance(&self) -> Instance {
        self.instance
    }

    /// Asks the responder of `uid`. Never blocks.
    ///
    /// `done` is called exactly once: on the requester's thread, perhaps before this returns; or, if
    /// the request is refused at once, by this call, which then gives no ticket. It must return
    /// quickly and not call [`Self::call`]; it may submit more.
    pub fn submit(
        &self,
        uid: u32,
        body: Zeroizing<Vec<u8>>,
        deadline: Instant,
        done: Box<dyn FnOnce(Outcome) + Send>,
    ) -> Option<Ticket> {
        if body.len() > BODY_MAX {
            done(Err(CallError::TooLarge(body.len())));
            return None;
        }
        match self.shared.submit(uid, body, deadline, done) {
            Ok(ticket) => Some(ticket),
            Err(Refused { completion, error }) => {
                completion(Err(error));
                None
            }
        }
    }

    /// Gives a request up: unless it is settled already, its outcome is [`CallError::Cancelled`], and
    /// its responder is told.
    pub fn cancel(&self, ticket: Ticket) {
        self.shared.cancel(ticket);
    }

    /// Asks and waits. Not to be called from a completion or an [`Observer`], which would wait for
    /// themselves.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn call(&self, uid: u32, body: Zeroizing<Vec<u8>>, deadline: Instant) -> Outcome {
        let (sender, receiver) = mpsc::sync_channel(1);
        // The receiver waits until the completion has run: it cannot be gone.
        let done = Box::new(move |outcome| drop(sender.send(outcome)));
        // Before it is sent, or the answer may be there before this listens.
        let turn = self.shared.turn(uid);
        let ticket = self.submit(uid, body, deadline, done);
        if let (Some(turn), Some(ticket)) = (turn, ticket)
            && let Some(outcome) = turn.wait(ticket, deadline)
        {
            return outcome;
        }
        receiver.recv().unwrap_or(Err(CallError::Stopped))
    }

    /// The carrier of `uid`'s responder, if one is registered.
    pub fn registered(&self, uid: u32) -> Option<CarrierKind> {
        self.shared.registered(uid)
    }

    /// Waits until a responder of `uid` is registered; says whether one is.
    pub fn wait_registered(&self, uid: u32, timeout: Duration) -> bool {
        self.shared.wait_registered(uid, timeout)
    }
}

impl Drop for Requester {
    fn drop(&mut self) {
        self.publication = None;
        self.shared.stop();
        if let Some(thread) = self.thread.take() {
            // A completion may hold the last reference, and then this is the thread itself.
            if thread.thread().id() != thread::current().id() && thread.join().is_err() {
                tracing::error!("the requester's thread panicked");
            }
        }
    }
}

fn socket_name(instance: Instance) -> String {
    format!("{instance}.sock")
}

fn open_listeners(config: &RequesterConfig, instance: Instance) -> Result<Listeners, StartError> {
    let netlink = open_if(config, CarrierKind::Netlink, netlink::Port::open)?;
    let unix = open_if(config, CarrierKind::Unix, || {
        let path = config.dir.join(socket_name(instance));
        let listener = unix::Listener::bind(&path)?;
        let mode = match config.serves {
            Serves::Owner => 0o600,
            Serves::AnyUid => 0o666,
        };
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
        Ok(listener)
    })?;
    Ok(Listeners { netlink, unix })
}

/// Opens what the configuration allows. Under [`Transport::Auto`] a kernel without netlink user
/// sockets is no error.
fn open_if<T>(
    config: &RequesterConfig,
    kind: CarrierKind,
    open: impl FnOnce() -> io::Result<T>,
) -> Result<Option<T>, StartError> {
    if !config.transport.allows(kind) {
        return Ok(None);
    }
    match (open(), config.transport, kind) {
        (Ok(socket), ..) => Ok(Some(socket)),
        (Err(error), Transport::Auto, CarrierKind::Netlink) => {
            tracing::info!(%error, "no netlink user sockets here, unix only");
            Ok(None)
        }
        (Err(source), ..) => Err(StartError::Socket { kind, source }),
    }
}
