//! The sending side of one encrypted connection, shared by every thread that has something to say.

use std::collections::VecDeque;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::Ticket;
use crate::carrier::{Carrier, CarrierKind};
use crate::frame::{Flags, Kind};
use crate::session::{Sealer, SessionError, Subject};

/// Names a connection within one process, never again once it is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct LinkId(u64);

impl LinkId {
    pub(crate) const fn new(number: u64) -> Self {
        Self(number)
    }

    pub(crate) fn number(self) -> u64 {
        self.0
    }
}

/// Ciphertext that may wait for a peer that does not read; beyond it the peer is told nothing more.
const QUEUE_MAX: usize = 16 << 20;

/// A connection one can send on.
pub(crate) struct Link {
    id: LinkId,
    carrier: Box<dyn Carrier>,
    outbox: Mutex<Outbox>,
}

struct Outbox {
    sealer: Sealer,
    waiting: VecDeque<Waiting>,
    waiting_len: usize,
}

struct Waiting {
    subject: Subject,
    datagram: Vec<u8>,
}

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// The kernel has it.
    Out,
    /// It waits here; [`Link::flush`] must be called until it is out.
    Queued,
}

/// How much of what waited is out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flushed {
    All,
    Part,
    Nothing,
}

/// Why a frame was not sent.
#[derive(Debug)]
pub(crate) enum SendError {
    /// Too much waits already.
    Full,
    /// Larger than any frame.
    TooLarge(usize),
    /// The peer is gone.
    Lost,
}

impl Link {
    pub(crate) fn new(id: LinkId, carrier: Box<dyn Carrier>, sealer: Sealer) -> Self {
        let outbox = Outbox {
            sealer,
            waiting: VecDeque::new(),
            waiting_len: 0,
        };
        Self {
            id,
            carrier,
            outbox: Mutex::new(outbox),
        }
    }

    pub(crate) fn id(&self) -> LinkId {
        self.id
    }

    pub(crate) fn kind(&self) -> CarrierKind {
        self.carrier.kind()
    }

    pub(crate) fn carrier(&self) -> &dyn Carrier {
        &*self.carrier
    }

    /// Seals and sends one frame. Never blocks.
    ///
    /// The lock is held from nonce to socket, so that frames leave in the order of their nonces and
    /// no thread that was put to sleep in between falls out of the peer's window.
    pub(crate) fn send(&self, subject: Subject, body: &[u8]) -> Result<Sent, SendError> {
        let mut outbox = self.outbox();
        if outbox.waiting_len > QUEUE_MAX {
            return Err(SendError::Full);
        }
        let datagram = match outbox.sealer.seal(subject, self.carrier.port(), body) {
            Ok(datagram) => datagram,
            Err(SessionError::TooLarge(len)) => return Err(SendError::TooLarge(len)),
            Err(_) => return Err(SendError::Lost),
        };
        if outbox.waiting.is_empty() {
            match self.carrier.send(&datagram) {
                Ok(()) => return Ok(Sent::Out),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // Where the administrator made socket buffers smaller than our largest frame.
                Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => {
                    return Err(SendError::TooLarge(body.len()));
                }
                Err(_) => return Err(SendError::Lost),
            }
        }
        outbox.waiting_len += datagram.len();
        outbox.waiting.push_back(Waiting { subject, datagram });
        Ok(Sent::Queued)
    }

    /// Sends what can be sent about one request, with no body.
    pub(crate) fn signal(
        &self,
        kind: Kind,
        flags: Flags,
        ticket: Ticket,
    ) -> Result<Sent, SendError> {
        let Ticket { index, sequence } = ticket;
        self.send(
            Subject {
                kind,
                flags,
                index,
                sequence,
            },
            &[],
        )
    }

    /// Sends what waits, as far as the peer has room.
    pub(crate) fn flush(&self) -> Result<Flushed, SendError> {
        let mut outbox = self.outbox();
        let mut flushed = Flushed::Nothing;
        while let Some(next) = outbox.waiting.front() {
            match self.carrier.send(&next.datagram) {
                Ok(()) => {
                    outbox.waiting_len -= next.datagram.len();
                    outbox.waiting.pop_front();
                    flushed = Flushed::Part;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(flushed),
                Err(_) => return Err(SendError::Lost),
            }
        }
        Ok(Flushed::All)
    }

    /// Takes back a REQUEST that still waits; says whether there was one.
    pub(crate) fn recall(&self, ticket: Ticket) -> Recalled {
        let mut outbox = self.outbox();
        let place = outbox.waiting.iter().position(|waiting| {
            let Subject {
                kind,
                index,
                sequence,
                ..
            } = waiting.subject;
            kind == Kind::Request && Ticket { index, sequence } == ticket
        });
        match place.and_then(|place| outbox.waiting.remove(place)) {
            Some(waiting) => {
                outbox.waiting_len -= waiting.datagram.len();
                Recalled::Unsent
            }
            None => Recalled::Sent,
        }
    }

    fn outbox(&self) -> MutexGuard<'_, Outbox> {
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a request was still here when it was taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Recalled {
    /// The peer never saw it.
    Unsent,
    /// The peer has it.
    Sent,
}
