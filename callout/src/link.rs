//! The sending side of one encrypted connection, shared by every thread that has something to say.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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
    kind: CarrierKind,
    port: u32,
    outbox: Mutex<Outbox>,
}

struct Outbox {
    /// `None` once the connection is closed.
    carrier: Option<Arc<dyn Carrier>>,
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
    pub(crate) fn new(id: LinkId, carrier: Arc<dyn Carrier>, sealer: Sealer) -> Self {
        let (kind, port) = (carrier.kind(), carrier.port());
        let outbox = Outbox {
            carrier: Some(carrier),
            sealer,
            waiting: VecDeque::new(),
            waiting_len: 0,
        };
        Self {
            id,
            kind,
            port,
            outbox: Mutex::new(outbox),
        }
    }

    pub(crate) fn id(&self) -> LinkId {
        self.id
    }

    pub(crate) fn kind(&self) -> CarrierKind {
        self.kind
    }

    /// Seals and sends one frame. Never blocks.
    ///
    /// The lock is held from nonce to socket, so that frames leave in the order of their nonces and
    /// no thread that was put to sleep in between falls out of the peer's window.
    pub(crate) fn send(&self, subject: Subject, body: &[u8]) -> Result<Sent, SendError> {
        let mut outbox = self.outbox();
        let carrier = outbox.carrier.clone().ok_or(SendError::Lost)?;
        if outbox.waiting_len > QUEUE_MAX {
            return Err(SendError::Full);
        }
        let datagram = match outbox.sealer.seal(subject, self.port, body) {
            Ok(datagram) => datagram,
            Err(SessionError::TooLarge(len)) => return Err(SendError::TooLarge(len)),
            Err(_) => return Err(SendError::Lost),
        };
        if outbox.waiting.is_empty() {
            match carrier.send(&datagram) {
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

    /// Says that this end leaves, if there is room: the peer notices without it too.
    pub(crate) fn quit(&self, flags: Flags) {
        let nothing = Ticket {
            index: 0,
            sequence: 0,
        };
        let _ = self.signal(Kind::Quit, flags, nothing);
    }

    /// Sends what waits, as far as the peer has room.
    pub(crate) fn flush(&self) -> Result<Flushed, SendError> {
        let mut outbox = self.outbox();
        let carrier = outbox.carrier.clone().ok_or(SendError::Lost)?;
        let mut flushed = Flushed::Nothing;
        while let Some(next) = outbox.waiting.front() {
            match carrier.send(&next.datagram) {
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

    /// Lets go of the socket and of all that waits: nothing is sent from now on.
    pub(crate) fn close(&self) {
        let mut outbox = self.outbox();
        outbox.carrier = None;
        outbox.waiting.clear();
        outbox.waiting_len = 0;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Instance;
    use crate::carrier::unix::{Listener, Unix};
    use crate::carrier::{Inbox, Reception};
    use crate::session::{Ends, Greeting, answer};

    /// A link, and the far end of it, which reads only when it is told to.
    fn pair() -> (Link, Unix) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = Listener::bind(&path).unwrap();
        let near = Unix::connect(&path).unwrap();
        let (far, _) = listener.accept().unwrap();
        let ends = Ends {
            responder: 0,
            requester: 0,
            instance: Instance::from_bytes([0; 16]),
        };
        let (_, helo) = Greeting::start(&ends).unwrap();
        let (_, sealer, _) = answer(&ends, &helo).unwrap();
        (Link::new(LinkId::new(1), Arc::new(near), sealer), far)
    }

    fn request(sequence: u32) -> Subject {
        Subject {
            kind: Kind::Request,
            flags: Flags::NONE,
            index: 0,
            sequence,
        }
    }

    /// Reads one datagram's sequence number and the nonce of its seal.
    fn read(far: &Unix, inbox: &mut Inbox) -> Option<(u32, u64)> {
        match far.receive(inbox) {
            Ok(Reception::Datagram(_, datagram)) => {
                let frame = crate::frame::Frame::parse(datagram).unwrap();
                let nonce = frame.body.first_chunk().unwrap();
                Some((frame.header.sequence, u64::from_le_bytes(*nonce)))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_the_peer_has_no_room_for_waits_in_order_and_can_be_taken_back() {
        let (link, far) = pair();
        let body = [0; 4096];
        let full =
            (1..).find(|sequence| link.send(request(*sequence), &body).unwrap() == Sent::Queued);
        let first = full.unwrap();
        for sequence in first + 1..first + 4 {
            assert_eq!(link.send(request(sequence), &body).unwrap(), Sent::Queued);
        }
        let ticket = |sequence| Ticket { index: 0, sequence };
        assert_eq!(link.recall(ticket(first + 1)), Recalled::Unsent);
        assert_eq!(link.recall(ticket(first + 1)), Recalled::Sent);
        assert_eq!(link.recall(ticket(1)), Recalled::Sent);
        assert_eq!(link.flush().unwrap(), Flushed::Nothing);

        let mut inbox = Inbox::new();
        let mut seen = Vec::new();
        loop {
            let flushed = link.flush().unwrap();
            match read(&far, &mut inbox) {
                Some(frame) => seen.push(frame),
                None if flushed == Flushed::All => break,
                None => {}
            }
        }
        let sequences: Vec<_> = seen.iter().map(|(sequence, _)| *sequence).collect();
        let expected: Vec<_> = (1..first + 4)
            .filter(|sequence| *sequence != first + 1)
            .collect();
        assert_eq!(sequences, expected);
        assert!(seen.is_sorted_by_key(|(_, nonce)| *nonce));
        drop(far);
        assert!(matches!(link.send(request(9), &body), Err(SendError::Lost)));
    }

    #[test]
    fn a_peer_that_never_reads_fills_the_queue_and_no_more() {
        let (link, _far) = pair();
        let body = [0; 65_000];
        let full = (1..10_000).find_map(|sequence| link.send(request(sequence), &body).err());
        assert!(matches!(full, Some(SendError::Full)));
        assert!(link.outbox().waiting_len < QUEUE_MAX + 2 * body.len());
    }
}
