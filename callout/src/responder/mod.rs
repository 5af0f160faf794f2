//! The responder: finds requesters, and answers.

mod attempt;
mod call;
mod io_thread;
mod peer;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::carrier::{CarrierKind, Transport};
use crate::link::SendError;
use crate::peer::Uids;
use crate::rendezvous::Watch;
use crate::{BODY_MAX, Instance, StartError};

pub use call::Call;
use io_thread::IoThread;
use peer::Shared;

/// Where a responder looks for requesters, and how it talks to them.
#[derive(Clone, Debug)]
pub struct ResponderConfig {
    /// Rendezvous folders. They need not exist yet.
    pub dirs: Vec<PathBuf>,
    /// Carriers taken.
    pub transport: Transport,
}

impl ResponderConfig {
    /// Any carrier, these folders.
    pub fn new(dirs: impl IntoIterator<Item = impl Into<PathBuf>>) -> Self {
        let dirs = dirs.into_iter().map(Into::into).collect();
        Self {
            dirs,
            transport: Transport::Auto,
        }
    }
}

/// A requester, as its responder knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerInfo {
    /// Which run of it.
    pub instance: Instance,
    /// What it asks for.
    pub service: String,
    /// What else it tells.
    pub about: BTreeMap<String, String>,
    /// What carries its requests.
    pub carrier: CarrierKind,
    /// Its uid: this process's own, or root.
    pub uid: u32,
    /// Its pid as far as the kernel says. For log lines only: not translated across pid namespaces
    /// on netlink.
    pub pid: i32,
}

/// What answers. Called on the responder's thread: return quickly, and let other threads work.
pub trait Service: Send + Sync {
    /// Takes one request. Whoever holds the [`Call`] answers it, on any thread.
    fn call(&self, call: Call);
    /// A requester took this responder.
    fn connected(&self, _peer: &PeerInfo) {}
    /// A requester left, vanished, or took another responder.
    fn gone(&self, _peer: &PeerInfo) {}
}

/// Answers requesters of its own uid and of root.
///
/// Its one thread is started by [`Responder::start`]: fork first.
pub struct Responder {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Responder {
    /// Watches the folders and greets whoever is there, now and later.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start(config: ResponderConfig, service: Arc<dyn Service>) -> Result<Self, StartError> {
        let uids = Uids::read()?;
        let watch = Watch::new(config.dirs, uids)?;
        let shared = Arc::new(Shared::new()?);
        let io_thread = IoThread::new(Arc::clone(&shared), watch, uids, config.transport, service)?;
        let thread = thread::Builder::new()
            .name("callout".to_owned())
            .spawn(move || io_thread.run())?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Waits, up to `patience`, until every requester that is there now has taken this responder or
    /// has been tried in vain. An event sent before that leaves out those that have just come.
    pub fn wait_greeted(&self, patience: Duration) {
        self.shared.wait_greeted(patience);
    }

    /// Tells every requester something.
    ///
    /// One that does not read is left out, and said so in the log.
    pub fn broadcast(&self, body: &[u8]) {
        for peer in self.shared.peers() {
            if let Err(error) = self.shared.send_event(&peer, body) {
                tracing::warn!(instance = %peer.info.instance, ?error, "event not sent");
            }
        }
    }

    /// Tells one requester something.
    ///
    /// # Errors
    /// [`EventError`].
    pub fn send_event(&self, peer: Instance, body: &[u8]) -> Result<(), EventError> {
        let peer = self.shared.peer(peer).ok_or(EventError::NotConnected)?;
        self.shared
            .send_event(&peer, body)
            .map_err(|error| match error {
                SendError::TooLarge(len) => EventError::TooLarge(len),
                SendError::Full => EventError::NotRead,
                SendError::Lost => EventError::NotConnected,
            })
    }

    /// All requesters that took this responder.
    pub fn peers(&self) -> Vec<PeerInfo> {
        self.shared
            .peers()
            .iter()
            .map(|peer| PeerInfo::clone(&peer.info))
            .collect()
    }

    /// Tells all requesters that it leaves, and stops. What they wait for is sent to a successor.
    pub fn quit(self) {
        drop(self);
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        self.shared.stop();
        if let Some(thread) = self.thread.take() {
            // A service may hold the last reference, and then this is the thread itself.
            if thread.thread().id() != thread::current().id() && thread.join().is_err() {
                tracing::error!("the responder's thread panicked");
            }
        }
    }
}

/// Why an event was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EventError {
    /// That requester is not connected.
    #[error("requester is not connected")]
    NotConnected,
    /// Body above [`BODY_MAX`].
    #[error("event of {0} bytes is larger than {BODY_MAX}")]
    TooLarge(usize),
    /// Too much waits for it already.
    #[error("requester does not read")]
    NotRead,
}
