//! The requester's one thread: takes HELOs, replies and events; watches clocks; runs completions.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use super::conns::{Conn, Heard, Listeners, Phase, is_first_helo};
use super::state::{Run, Seating, Shared, Unseated};
use crate::carrier::{Carrier, CarrierKind, Inbox, Reception, netlink};
use crate::congestion::Congestion;
use crate::frame::{Flags, Frame, Header, Kind};
use crate::link::{Link, LinkId};
use crate::peer::Uids;
use crate::poll::Poll;
use crate::session::{self, Ends, Subject};
use crate::sys::pidfd_open;
use crate::{CallError, Instance, Pending, Serves, Ticket};

/// Time from the first HELO, or from connecting, to the registration.
const HANDSHAKE_TIME: Duration = Duration::from_secs(2);

/// Handshakes of one uid in progress; one more ends the oldest.
const HANDSHAKES_PER_UID: usize = 4;

/// Frames taken from one connection before the others have their turn.
const BURST: usize = 32;

const BELL: u64 = 0;
const NETLINK: u64 = 1;
const UNIX: u64 = 2;
/// Then two numbers a link: its frames, its process.
const LINKS: u64 = 16;

pub(super) struct IoThread {
    shared: Arc<Shared>,
    poll: Poll,
    inbox: Inbox,
    listeners: Listeners,
    instance: Instance,
    uids: Uids,
    serves: Serves,
    conns: HashMap<LinkId, Conn>,
    last_link: u64,
    congestion: Congestion,
}

impl IoThread {
    pub(super) fn new(
        shared: Arc<Shared>,
        listeners: Listeners,
        instance: Instance,
        uids: Uids,
        serves: Serves,
    ) -> io::Result<Self> {
        let poll = Poll::new()?;
        poll.watch_bell(&shared.bell, BELL)?;
        if let Some(port) = &listeners.netlink {
            poll.watch(port.fd(), NETLINK)?;
        }
        if let Some(listener) = &listeners.unix {
            poll.watch(listener.fd(), UNIX)?;
        }
        Ok(Self {
            shared,
            poll,
            inbox: Inbox::new(),
            listeners,
            instance,
            uids,
            serves,
            conns: HashMap::new(),
            last_link: 0,
            congestion: Congestion::default(),
        })
    }

    pub(super) fn run(mut self) {
        while self.upkeep() == Run::Going {
            let tokens = match self.poll.wait(self.wake_at()) {
                Ok(tokens) => tokens,
                Err(error) => {
                    tracing::error!(%error, "requester cannot wait for its sockets");
                    break;
                }
            };
            for token in tokens {
                match token {
                    BELL => self.shared.bell.silence(),
                    NETLINK => self.take_netlink_helos(),
                    UNIX => self.accept(),
                    token => {
                        let id = LinkId::new((token - LINKS) / 2);
                        self.hear(id);
                        // What a process sent before it ended was taken first.
                        if token % 2 == 1 {
                            self.end(id);
                        }
                    }
                }
            }
        }
        self.leave();
    }

    /// All that is due by the clock or was left to this thread by others.
    fn upkeep(&mut self) -> Run {
        let now = Instant::now();
        let shared = Arc::clone(&self.shared);
        let (run, lost, congested, expired) = shared.settle(|state| {
            let expired = state.table.expire(now);
            (
                state.run(),
                state.take_lost(),
                state.take_congested(),
                expired,
            )
        });
        expired
            .iter()
            .for_each(|abandoned| shared.tell_abandoned(abandoned));
        lost.into_iter().for_each(|id| self.end(id));
        self.congestion.add(congested, now);
        self.congestion
            .retry(now)
            .into_iter()
            .for_each(|id| self.end(id));
        let late = |conn: &Conn| !conn.is_registered() && now >= conn.since + HANDSHAKE_TIME;
        let late: Vec<_> = self
            .conns
            .iter()
            .filter(|(_, conn)| late(conn))
            .map(|(id, _)| *id)
            .collect();
        late.into_iter().for_each(|id| self.end(id));
        run
    }

    fn wake_at(&self) -> Option<Instant> {
        let handshakes = self.conns.values().filter(|conn| !conn.is_registered());
        let handshakes = handshakes.map(|conn| conn.since + HANDSHAKE_TIME);
        let state = self.shared.state();
        // Settled while this thread was about to sleep: deliver first.
        let done = state.table.has_done().then(Instant::now);
        handshakes
            .chain(state.table.alarm())
            .chain(self.congestion.retry_at())
            .chain(done)
            .min()
    }

    fn next_link(&mut self) -> LinkId {
        self.last_link += 1;
        LinkId::new(self.last_link)
    }

    fn accept(&mut self) {
        for _ in 0..BURST {
            let Some(listener) = &self.listeners.unix else {
                return;
            };
            match listener.accept() {
                Ok((unix, uid)) if serves(self.serves, &self.uids, uid) => {
                    let id = self.next_link();
                    self.admit(id, uid, Phase::Accepted(unix));
                }
                Ok((_, uid)) => tracing::warn!(uid, "connection of another uid refused"),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    return;
                }
            }
        }
    }

    /// Takes HELOs off the open netlink port: the uid first, and nothing of what others write there.
    fn take_netlink_helos(&mut self) {
        for _ in 0..BURST {
            let Some(port) = &self.listeners.netlink else {
                return;
            };
            let (sender, helo) = match port.receive(&mut self.inbox) {
                Ok(Reception::Datagram(sender, datagram)) => {
                    // Port 0 is the kernel's.
                    if !serves(self.serves, &self.uids, sender.uid) || sender.port == 0 {
                        tracing::debug!(uid = sender.uid, "message of another uid dropped");
                        continue;
                    }
                    match Frame::parse(datagram) {
                        Ok(frame) if is_first_helo(&frame) && frame.header.port == sender.port => {
                            (sender, frame.body.to_vec())
                        }
                        Ok(_) | Err(_) => continue,
                    }
                }
                Ok(Reception::Foreign(_) | Reception::Closed) => continue,
                Err(_) => return,
            };
            match netlink::Netlink::connect(sender.port) {
                Ok(carrier) => {
                    let id = self.next_link();
                    self.answer(id, sender.uid, Box::new(carrier), &helo);
                }
                Err(error) => tracing::warn!(%error, "cannot connect to a netlink port"),
            }
        }
    }

    /// Answers a HELO on the connection it is to have.
    fn answer(&mut self, id: LinkId, uid: u32, carrier: Box<dyn Carrier>, helo: &[u8]) {
        let ends = Ends {
            responder: uid,
            requester: self.uids.own,
            instance: self.instance,
        };
        let (body, sealer, opener) = match session::answer(&ends, helo) {
            Ok(answered) => answered,
            Err(error) => {
                tracing::info!(uid, %error, "HELO refused");
                return;
            }
        };
        let header = Header {
            kind: Kind::Helo,
            flags: Flags::ANSWER,
            sequence: 0,
            port: carrier.port(),
        };
        // Not queued: if there is no room for a first frame, the responder tries again.
        if carrier.send(&header.datagram(&body)).is_ok() {
            let link = Arc::new(Link::new(id, carrier, sealer));
            self.admit(id, uid, Phase::Answered(link, opener));
        }
    }

    /// Keeps a connection that is not registered yet, within bounds.
    fn admit(&mut self, id: LinkId, uid: u32, phase: Phase) {
        let mut own: Vec<_> = self
            .unregistered()
            .filter(|(_, conn)| conn.uid == uid)
            .collect();
        own.sort_by_key(|(id, _)| id.number());
        let oldest = own
            .first()
            .map(|(id, _)| *id)
            .filter(|_| own.len() >= HANDSHAKES_PER_UID);
        match oldest {
            Some(oldest) => self.end(oldest),
            None if self.unregistered().count() >= self.shared.limits.responders => {
                tracing::warn!(uid, "too many handshakes at once");
                return;
            }
            None => {}
        }
        let conn = Conn {
            uid,
            since: Instant::now(),
            phase,
            _process: None,
        };
        match self.poll.watch(&conn, LINKS + 2 * id.number()) {
            Ok(()) => drop(self.conns.insert(id, conn)),
            Err(error) => tracing::warn!(%error, "cannot watch a connection"),
        }
    }

    fn unregistered(&self) -> impl Iterator<Item = (LinkId, &Conn)> {
        self.conns
            .iter()
            .map(|(id, conn)| (*id, conn))
            .filter(|(_, conn)| !conn.is_registered())
    }

    fn hear(&mut self, id: LinkId) {
        for _ in 0..BURST {
            let Some(conn) = self.conns.get_mut(&id) else {
                return;
            };
            match conn.hear(&mut self.inbox) {
                Heard::Nothing => return,
                Heard::Dropped => {}
                Heard::Closed => return self.end(id),
                Heard::Helo(helo) => self.greeted(id, &helo),
                Heard::Sealed(subject, body, pid) => match &conn.phase {
                    Phase::Registered(..) => {
                        let uid = conn.uid;
                        self.take(id, uid, subject, body);
                    }
                    Phase::Answered(..) if subject.kind == Kind::Helo => self.register(id, pid),
                    Phase::Answered(..) | Phase::Accepted(_) => {}
                },
            }
        }
    }

    /// A HELO on a unix connection.
    fn greeted(&mut self, id: LinkId, helo: &[u8]) {
        if let Some(Conn {
            uid,
            phase: Phase::Accepted(unix),
            ..
        }) = self.conns.remove(&id)
        {
            // It is admitted anew, which watches it anew.
            self.poll.forget(unix.fd());
            self.answer(id, uid, Box::new(unix), helo);
        }
    }

    /// The responder has shown that it holds the session's keys.
    fn register(&mut self, id: LinkId, pid: i32) {
        let Some(conn) = self.conns.remove(&id) else {
            return;
        };
        let Conn {
            uid,
            since,
            phase: Phase::Answered(link, opener),
            ..
        } = conn
        else {
            return;
        };
        let shared = Arc::clone(&self.shared);
        let (replaced, adopted) =
            match shared.settle(|state| state.seat(uid, &link, &shared.limits)) {
                Seating::Taken { replaced, adopted } => (replaced, adopted),
                Seating::Full => {
                    tracing::warn!(uid, "too many responders");
                    return;
                }
            };
        let _process = self.watch_process(id, &link, pid);
        let kind = link.kind();
        adopted
            .iter()
            .for_each(|(ticket, body)| shared.send_request(&link, *ticket, body));
        self.conns.insert(
            id,
            Conn {
                uid,
                since,
                phase: Phase::Registered(link, opener),
                _process,
            },
        );
        if let Some(replaced) = replaced {
            dismiss(&replaced, Flags::REPLACED);
            self.conns.remove(&replaced.id());
        }
        tracing::info!(uid, carrier = %kind, "responder registered");
        shared.announce_registered();
        shared.observer.process(uid, pid);
        shared.observer.registered(uid, kind);
    }

    /// Netlink tells nobody that a peer is gone; its process does. The pid is only a hint: one that
    /// is not known here leaves `ECONNREFUSED` and deadlines to tell.
    fn watch_process(&self, id: LinkId, link: &Link, pid: i32) -> Option<std::os::fd::OwnedFd> {
        match link.kind() {
            CarrierKind::Unix => None,
            CarrierKind::Netlink => {
                let process = pidfd_open(pid).ok()?;
                self.poll
                    .watch(&process, LINKS + 2 * id.number() + 1)
                    .ok()?;
                Some(process)
            }
        }
    }

    /// A frame of a registered responder.
    fn take(&mut self, id: LinkId, uid: u32, subject: Subject, body: Zeroizing<Vec<u8>>) {
        let ticket = Ticket {
            index: subject.index,
            sequence: subject.sequence,
        };
        match subject.kind {
            Kind::Response => {
                let outcome = match subject.flags.contains(Flags::UNANSWERED) {
                    true => Err(CallError::Unanswered),
                    false => Ok(body),
                };
                if self
                    .shared
                    .settle(|state| state.table.reply(id, ticket, outcome))
                    .is_err()
                {
                    tracing::debug!(uid, ?ticket, "reply to no pending request dropped");
                }
            }
            Kind::Pending => {
                if let Some(reason) = Pending::parse(&body)
                    && self.shared.state().table.is_with(id, ticket)
                {
                    self.shared.observer.pending(ticket, reason);
                }
            }
            Kind::Event => self.shared.observer.event(uid, &body),
            Kind::Quit => self.end(id),
            Kind::Helo | Kind::Request | Kind::Cancel => {}
        }
    }

    fn end(&mut self, id: LinkId) {
        let Some(conn) = self.conns.remove(&id) else {
            return;
        };
        let shared = Arc::clone(&self.shared);
        let unseated = shared.settle(|state| state.unseat(conn.uid, id, &shared.limits));
        if unseated == Unseated::Vacant {
            tracing::info!(uid = conn.uid, "responder gone");
            shared.observer.gone(conn.uid);
        }
    }

    fn leave(self) {
        for conn in self.conns.values() {
            if let Phase::Registered(link, _) = &conn.phase {
                dismiss(link, Flags::NONE);
            }
        }
        self.shared.settle(|state| state.table.stop());
    }
}

/// Whether responders of `uid` are taken at all.
fn serves(serves: Serves, uids: &Uids, uid: u32) -> bool {
    let served = match serves {
        Serves::Owner => uid == uids.own,
        Serves::AnyUid => true,
    };
    served && uids.is_somebody(uid)
}

/// Sends QUIT, if there is room: the peer notices the end without it too.
fn dismiss(link: &Link, flags: Flags) {
    let nothing = Ticket {
        index: 0,
        sequence: 0,
    };
    let _ = link.signal(Kind::Quit, flags, nothing);
}
