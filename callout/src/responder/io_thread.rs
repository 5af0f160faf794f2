//! The responder's one thread: finds requesters, greets them, hands their requests to the service.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use super::attempt::{Answered, Attempt, Progress, carriers};
use super::call::Calls;
use super::peer::{Peer, Run, Shared};
use super::{PeerInfo, Service};
use crate::carrier::{CarrierKind, Inbox, Reception, Transport};
use crate::congestion::Congestion;
use crate::frame::{Flags, Frame, Kind};
use crate::link::{Link, LinkId};
use crate::peer::Uids;
use crate::poll::Poll;
use crate::rendezvous::{Found, Namespaces, Watch};
use crate::session::{Opener, Subject};
use crate::sys::pidfd_open;
use crate::{Instance, Ticket};

/// Waits between attempts to greet one requester: doubled from the first to the last.
const FIRST_RETRY: Duration = Duration::from_millis(50);
const LAST_RETRY: Duration = Duration::from_secs(5);

/// Frames taken from one connection before the others have their turn.
const BURST: usize = 32;

const BELL: u64 = 0;
const WATCH: u64 = 1;
/// Then two numbers a link: its frames, its process.
const LINKS: u64 = 16;

pub(super) struct IoThread {
    shared: Arc<Shared>,
    service: Arc<dyn Service>,
    poll: Poll,
    inbox: Inbox,
    watch: Watch,
    uids: Uids,
    namespaces: Namespaces,
    transport: Transport,
    known: HashMap<Instance, Known>,
    conns: HashMap<LinkId, Conn>,
    last_link: u64,
    congestion: Congestion,
}

/// A requester that has, or had, an entry.
struct Known {
    found: Found,
    standing: Standing,
    /// Attempts that failed since the last that did not.
    failures: u32,
}

enum Standing {
    /// To be greeted then.
    Away(Instant),
    /// Being greeted; then these carriers are left to try.
    Greeting(LinkId, Vec<CarrierKind>),
    Up(LinkId),
    /// Took another responder of this uid: it knows where to find us, and does not want us.
    Dismissed,
}

struct Conn {
    instance: Instance,
    phase: Phase,
}

enum Phase {
    Greeting(Attempt),
    Up {
        peer: Arc<Peer>,
        opener: Opener,
        /// Netlink only: readable once the requester's process has ended.
        _process: Option<OwnedFd>,
    },
}

impl IoThread {
    pub(super) fn new(
        shared: Arc<Shared>,
        watch: Watch,
        uids: Uids,
        transport: Transport,
        service: Arc<dyn Service>,
    ) -> io::Result<Self> {
        let poll = Poll::new()?;
        poll.watch_bell(&shared.bell, BELL)?;
        poll.watch(watch.fd(), WATCH)?;
        Ok(Self {
            shared,
            service,
            poll,
            inbox: Inbox::new(),
            watch,
            uids,
            namespaces: Namespaces::own()?,
            transport,
            known: HashMap::new(),
            conns: HashMap::new(),
            last_link: 0,
            congestion: Congestion::default(),
        })
    }

    pub(super) fn run(mut self) {
        self.look_around();
        while self.upkeep() == Run::Going {
            let tokens = match self.poll.wait(self.wake_at()) {
                Ok(tokens) => tokens,
                Err(error) => {
                    tracing::error!(%error, "responder cannot wait for its sockets");
                    break;
                }
            };
            for token in tokens {
                match token {
                    BELL => self.shared.bell.silence(),
                    WATCH => self.look_around(),
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

    fn upkeep(&mut self) -> Run {
        let now = Instant::now();
        let chores = self.shared.chores();
        chores.lost.into_iter().for_each(|id| self.end(id));
        self.congestion.add(chores.congested, now);
        self.congestion
            .retry(now)
            .into_iter()
            .for_each(|id| self.end(id));
        let late = self
            .conns
            .iter()
            .filter_map(|(id, conn)| match &conn.phase {
                Phase::Greeting(attempt) if attempt.until <= now => Some(*id),
                Phase::Greeting(_) | Phase::Up { .. } => None,
            });
        let late: Vec<_> = late.collect();
        late.into_iter().for_each(|id| self.end(id));
        if self.greet_at().is_some_and(|at| at <= now) {
            self.look_around();
        }
        chores.run
    }

    fn wake_at(&self) -> Option<Instant> {
        let attempts = self.conns.values().filter_map(|conn| match &conn.phase {
            Phase::Greeting(attempt) => Some(attempt.until),
            Phase::Up { .. } => None,
        });
        attempts
            .chain(self.greet_at())
            .chain(self.congestion.retry_at())
            .min()
    }

    fn greet_at(&self) -> Option<Instant> {
        let times = self
            .known
            .values()
            .filter_map(|known| match known.standing {
                Standing::Away(at) => Some(at),
                Standing::Greeting(..) | Standing::Up(_) | Standing::Dismissed => None,
            });
        times.min()
    }

    /// Reads the folders, forgets who left, greets whoever is due.
    fn look_around(&mut self) {
        let now = Instant::now();
        let found: HashMap<_, _> = self
            .watch
            .scan()
            .into_iter()
            .map(|found| (found.entry.instance, found))
            .collect();
        self.known.retain(|instance, known| {
            found.contains_key(instance) || matches!(known.standing, Standing::Up(_))
        });
        for (instance, found) in found {
            self.known.entry(instance).or_insert(Known {
                found,
                standing: Standing::Away(now),
                failures: 0,
            });
        }
        let due = self
            .known
            .iter()
            .filter_map(|(instance, known)| match known.standing {
                Standing::Away(at) if at <= now => Some(*instance),
                Standing::Away(_)
                | Standing::Greeting(..)
                | Standing::Up(_)
                | Standing::Dismissed => None,
            });
        for instance in due.collect::<Vec<_>>() {
            if let Some(known) = self.known.get(&instance) {
                let carriers = carriers(&known.found, &self.namespaces, self.transport);
                self.greet(instance, carriers);
            }
        }
    }

    /// Tries the first of `carriers` that lets itself be tried.
    fn greet(&mut self, instance: Instance, mut carriers: Vec<CarrierKind>) {
        while !carriers.is_empty() {
            let kind = carriers.remove(0);
            let Some(known) = self.known.get(&instance) else {
                return;
            };
            match Attempt::start(&known.found, kind, &self.uids) {
                Ok(attempt) => {
                    self.last_link += 1;
                    let id = LinkId::new(self.last_link);
                    if let Err(error) = self.poll.watch(attempt.fd(), LINKS + 2 * id.number()) {
                        tracing::warn!(%error, "cannot watch a connection");
                        continue;
                    }
                    self.conns.insert(
                        id,
                        Conn {
                            instance,
                            phase: Phase::Greeting(attempt),
                        },
                    );
                    self.stand(instance, Standing::Greeting(id, carriers));
                    return;
                }
                Err(error) => tracing::debug!(%instance, %kind, %error, "cannot greet a requester"),
            }
        }
        let Some(known) = self.known.get_mut(&instance) else {
            return;
        };
        let wait = FIRST_RETRY
            .saturating_mul(1 << known.failures.min(16))
            .min(LAST_RETRY);
        known.failures = known.failures.saturating_add(1);
        known.standing = Standing::Away(Instant::now() + wait);
    }

    fn stand(&mut self, instance: Instance, standing: Standing) {
        if let Some(known) = self.known.get_mut(&instance) {
            known.standing = standing;
        }
    }

    fn hear(&mut self, id: LinkId) {
        for _ in 0..BURST {
            let Some(conn) = self.conns.get_mut(&id) else {
                return;
            };
            match &mut conn.phase {
                Phase::Greeting(_) => return self.hear_answer(id),
                Phase::Up { peer, opener, .. } => {
                    let peer = Arc::clone(peer);
                    match hear_frame(&peer, opener, &mut self.inbox) {
                        Heard::Nothing => return,
                        Heard::Dropped => {}
                        Heard::Sealed(subject, body) => self.take(id, &peer, subject, body),
                        Heard::Closed => return self.end(id),
                    }
                }
            }
        }
    }

    fn hear_answer(&mut self, id: LinkId) {
        let Some(Conn {
            instance,
            phase: Phase::Greeting(attempt),
        }) = self.conns.remove(&id)
        else {
            return;
        };
        match attempt.hear(&mut self.inbox) {
            Progress::Waiting(attempt) => {
                self.conns.insert(
                    id,
                    Conn {
                        instance,
                        phase: Phase::Greeting(attempt),
                    },
                );
            }
            Progress::Failed => self.fall_back(id, instance),
            Progress::Answered(answered) => self.confirm(id, instance, answered),
        }
    }

    /// Shows the requester that this end has the session's keys: it registers.
    fn confirm(&mut self, id: LinkId, instance: Instance, answered: Answered) {
        let Some(known) = self.known.get_mut(&instance) else {
            return;
        };
        let Answered {
            carrier,
            sealer,
            opener,
            pid,
        } = answered;
        let kind = carrier.kind();
        let link = Arc::new(Link::new(id, carrier, sealer));
        let entry = &known.found.entry;
        let info = Arc::new(PeerInfo {
            instance,
            service: entry.service.clone(),
            about: entry.about.clone(),
            carrier: kind,
            uid: known.found.owner,
            pid,
        });
        let peer = Arc::new(Peer {
            info,
            link,
            calls: Calls::default(),
        });
        let confirmation = Subject {
            kind: Kind::Helo,
            flags: Flags::NONE,
            index: 0,
            sequence: 0,
        };
        // Connected first: a request may follow the confirmation at once.
        self.shared.add(&peer);
        if self.shared.send(&peer, confirmation, &[]).is_err() {
            self.shared.remove(&peer);
            return self.fall_back(id, instance);
        }
        known.standing = Standing::Up(id);
        known.failures = 0;
        let _process = match kind {
            CarrierKind::Unix => None,
            CarrierKind::Netlink => self.watch_process(id, pid),
        };
        tracing::info!(%instance, carrier = %kind, "requester connected");
        self.service.connected(&peer.info);
        self.conns.insert(
            id,
            Conn {
                instance,
                phase: Phase::Up {
                    peer,
                    opener,
                    _process,
                },
            },
        );
    }

    /// Netlink tells nobody that a peer is gone; its process does.
    fn watch_process(&self, id: LinkId, pid: i32) -> Option<OwnedFd> {
        let process = pidfd_open(pid).ok()?;
        self.poll
            .watch(&process, LINKS + 2 * id.number() + 1)
            .ok()?;
        Some(process)
    }

    fn take(&mut self, id: LinkId, peer: &Arc<Peer>, subject: Subject, body: Zeroizing<Vec<u8>>) {
        let ticket = Ticket {
            index: subject.index,
            sequence: subject.sequence,
        };
        match subject.kind {
            Kind::Request => {
                let Some(call) = Calls::open(&self.shared, peer, ticket, body) else {
                    tracing::warn!(instance = %peer.info.instance, "request refused");
                    return;
                };
                // The call was dropped with the panic, which told the requester.
                if catch_unwind(AssertUnwindSafe(|| self.service.call(call))).is_err() {
                    tracing::error!("the service panicked");
                }
            }
            Kind::Cancel => peer.calls.cancel(ticket),
            Kind::Quit if subject.flags.contains(Flags::REPLACED) => {
                self.end(id);
                self.stand(peer.info.instance, Standing::Dismissed);
            }
            Kind::Quit => self.end(id),
            Kind::Helo | Kind::Response | Kind::Pending | Kind::Event => {}
        }
    }

    /// A connection, or an attempt at one, is over.
    fn end(&mut self, id: LinkId) {
        let Some(Conn { instance, phase }) = self.conns.remove(&id) else {
            return;
        };
        if let Phase::Up { peer, .. } = phase {
            tracing::info!(%instance, "requester gone");
            self.shared.remove(&peer);
            peer.calls.cancel_all();
            self.service.gone(&peer.info);
        }
        self.fall_back(id, instance);
    }

    /// Tries the next carrier, or waits to try again.
    fn fall_back(&mut self, id: LinkId, instance: Instance) {
        let Some(known) = self.known.get_mut(&instance) else {
            return;
        };
        let left = match &mut known.standing {
            Standing::Greeting(link, left) if *link == id => std::mem::take(left),
            Standing::Up(link) if *link == id => Vec::new(),
            // This requester is on another connection by now.
            Standing::Away(_) | Standing::Greeting(..) | Standing::Up(_) | Standing::Dismissed => {
                return;
            }
        };
        self.greet(instance, left);
    }

    fn leave(self) {
        for conn in self.conns.into_values() {
            if let Phase::Up { peer, .. } = conn.phase {
                let nothing = Ticket {
                    index: 0,
                    sequence: 0,
                };
                // Unread, it is as good as sent: the socket closes.
                let _ = peer.link.signal(Kind::Quit, Flags::NONE, nothing);
                self.shared.remove(&peer);
                peer.calls.cancel_all();
            }
        }
    }
}

/// What a requester had to say.
enum Heard {
    Nothing,
    Dropped,
    Sealed(Subject, Zeroizing<Vec<u8>>),
    Closed,
}

/// Takes one frame. The sender's uid is checked before a byte of it is looked at.
fn hear_frame(peer: &Peer, opener: &mut Opener, inbox: &mut Inbox) -> Heard {
    let (sender, datagram) = match peer.link.carrier().receive(inbox) {
        Ok(Reception::Datagram(sender, datagram)) => (sender, datagram),
        Ok(Reception::Foreign(why)) => {
            tracing::debug!(instance = %peer.info.instance, why, "message dropped");
            return Heard::Dropped;
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Heard::Nothing,
        Ok(Reception::Closed) | Err(_) => return Heard::Closed,
    };
    if sender.uid != peer.info.uid {
        tracing::warn!(
            uid = peer.info.uid,
            sender = sender.uid,
            "message of another uid dropped"
        );
        return Heard::Dropped;
    }
    match Frame::parse(datagram) {
        Ok(frame) if frame.header.port == sender.port => match opener.open(&frame) {
            Ok((subject, body)) => Heard::Sealed(subject, body),
            Err(error) => {
                tracing::debug!(instance = %peer.info.instance, %error, "frame dropped");
                Heard::Dropped
            }
        },
        Ok(_) | Err(_) => Heard::Dropped,
    }
}
