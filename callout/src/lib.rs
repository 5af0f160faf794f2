//! Request and reply between a program and the daemons of its users, encrypted, over netlink or unix
//! sockets.
//!
//! A **requester** is the fixed point: it publishes an entry in a rendezvous folder and accepts one
//! **responder** for each user. A responder watches such folders, greets every requester it trusts
//! (its own user's or root's) and answers what they ask. Both identify the other by the uid the
//! kernel vouches for on every single message. All that follows the handshake is encrypted; requests
//! have deadlines, quotas, cancellation, and survive the restart of a responder.
//!
//! Requests may reach two responders, one after the other, if the first dies: make them idempotent.
//!
//! ```no_run
//! use std::sync::Arc;
//! use std::time::{Duration, Instant};
//! use claviger_callout::{Call, Requester, RequesterConfig, Responder, ResponderConfig, Service};
//! use zeroize::Zeroizing;
//!
//! struct Shout;
//! impl Service for Shout {
//!     fn call(&self, call: Call) {
//!         let answer = Zeroizing::new(call.body.to_ascii_uppercase());
//!         call.reply(answer);
//!     }
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let folder = "/run/user/1000/shout";
//! let requester = Requester::start(RequesterConfig::new(folder, "org.example.shout/1"), Arc::new(()))?;
//! let responder = Responder::start(ResponderConfig::new([folder]), Arc::new(Shout))?;
//! requester.wait_registered(1000, Duration::from_secs(1));
//! let deadline = Instant::now() + Duration::from_secs(1);
//! let answer = requester.call(1000, Zeroizing::new(b"hello".to_vec()), deadline)?;
//! assert_eq!(answer.as_slice(), b"HELLO");
//! # Ok(()) }
//! ```
//!
//! [`frame`] and [`session`] are the layers below, public so that the protocol can be tested and
//! tried from outside; `docs/protocol-callout.md` describes it for other languages.

mod carrier;
mod congestion;
mod ear;
mod foreign;
pub mod frame;
pub mod fuzzing;
mod handshake;
mod instance;
mod link;
pub mod miscdev;
mod noise;
mod peer;
mod poll;
mod rendezvous;
mod requester;
mod responder;
pub mod session;
mod sys;
mod table;
mod window;
mod wipe;
#[cfg(test)]
mod worked_example;

use std::io;
use std::path::PathBuf;

use zeroize::Zeroizing;

pub use carrier::{CarrierKind, Transport};
pub use instance::{BadInstance, Instance};
pub use rendezvous::{Published, published};
pub use requester::{Limits, Observer, Requester, RequesterConfig};
pub use responder::{Call, EventError, PeerInfo, Responder, ResponderConfig, Service};
pub use session::BODY_MAX;

/// What became of a request.
pub type Outcome = Result<Zeroizing<Vec<u8>>, CallError>;

/// Names a request that was submitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ticket {
    pub(crate) index: u32,
    pub(crate) sequence: u32,
}

/// Whose responders a requester takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Serves {
    /// Only of the uid the requester runs as.
    Owner,
    /// Of every uid. What a requester of root's is for: responders trust their own uid and root only.
    AnyUid,
}

/// What a request waits for, as its responder tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pending {
    /// Others go first.
    Queue,
    /// A person must type a PIN.
    Pin,
    /// A person must touch a token.
    Touch,
}

impl Pending {
    fn wire(self) -> u8 {
        match self {
            Self::Queue => 0,
            Self::Pin => 1,
            Self::Touch => 2,
        }
    }

    fn parse(body: &[u8]) -> Option<Self> {
        match body {
            [0] => Some(Self::Queue),
            [1] => Some(Self::Pin),
            [2] => Some(Self::Touch),
            _ => None,
        }
    }
}

/// Why a request has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// No responder of that uid is registered.
    #[error("no responder is registered for this user")]
    NoResponder,
    /// The table, this uid's share of it, or what may wait for its responder is full.
    #[error("too many requests of this user are waiting")]
    TableFull,
    /// Body above [`BODY_MAX`].
    #[error("request of {0} bytes is too large")]
    TooLarge(usize),
    /// Nothing came in time.
    #[error("responder did not answer in time")]
    Deadline,
    /// [`Requester::cancel`] was called.
    #[error("request was cancelled")]
    Cancelled,
    /// The responder vanished, and no successor answered.
    #[error("responder vanished before it answered")]
    Lost,
    /// The responder took the request and dropped it.
    #[error("responder gave no answer")]
    Unanswered,
    /// The requester is being dropped.
    #[error("requester is stopping")]
    Stopped,
}

/// Why a requester or responder did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The rendezvous folder cannot be made or is not safe.
    #[error("rendezvous folder {} cannot be used", folder.display())]
    Folder {
        /// Which.
        folder: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A socket could not be opened.
    #[error("{kind} socket cannot be opened")]
    Socket {
        /// Of which carrier.
        kind: CarrierKind,
        /// Why.
        source: io::Error,
    },
    /// The kernel refused something else.
    #[error("cannot start")]
    System(#[from] io::Error),
}
