//! The responder's one thread: finds requesters, greets them, hands their requests to the service.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use zeroize::Zeroizing;

mod greeting;

use super::Service;
use super::attempt::Attempt;
use super::call::Calls;
use super::peer::{Peer, Run, Shared};
use crate::carrier::{Inbox, Transport};
use crate::congestion::Congestion;
use crate::ear::{Ear, Heard, Left, drain};
use crate::frame::{Flags, Kind};
use crate::link::LinkId;
use crate::peer::Uids;
use crate::poll::{Poll, Source};
use crate::rendezvous::{Namespaces, Watch};
use crate::session::Subject;
use crate::{Instance, Ticket, foreign};
use greeting::{Known, Standing};

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
    /// How often others had wanted all to be greeted when it last looked for that.
    looked_for: u64,
}

struct Conn {
    instance: Instance,
    phase: Phase,
}

enum Phase {
    Greeting(Attempt),
    Up {
        peer: Arc<Peer>,
        ear: Ear,
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
        poll.watch(&shared.bell, Source::Bell)?;
        poll.watch(watch.fd(), Source::Folders)?;
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
            looked_for: 0,
        })
    }

    pub(super) fn run(mut self) {
        self.look_around();
        let mut greeted = 0;
        while self.upkeep() == Run::Going {
            if greeted < self.looked_for && !self.is_greeting() {
                greeted = self.looked_for;
                self.shared.set_greeted(greeted);
            }
            let sources = match self.poll.wait(self.wake_at()) {
                Ok(sources) => sources,
                Err(error) => {
                    tracing::error!(%error, "responder cannot wait for its sockets");
                    break;
                }
            };
            for source in sources {
                match source {
                    Source::Bell => self.shared.bell.silence(),
                    Source::Folders => self.look_around(),
                    Source::Frames(id) => {
                        self.hear(id);
                    }
                    Source::Process(id) => {
                        // What it sent before it ended is taken first.
                        drain(|| self.hear(id));
                        self.end(id);
                    }
                    Source::NetlinkPort | Source::UnixListener | Source::Device => {}
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
        let over = |attempt: &mut Attempt| attempt.is_late(now) || attempt.resend(now).is_err();
        let late = self
            .conns
            .iter_mut()
            .filter_map(|(id, conn)| match &mut conn.phase {
                Phase::Greeting(attempt) => over(attempt).then_some(*id),
                Phase::Up { .. } => None,
            });
        let late: Vec<_> = late.collect();
        late.into_iter().for_each(|id| self.end(id));
        if self.looked_for < chores.wanted || self.greet_at().is_some_and(|at| at <= now) {
            self.looked_for = chores.wanted;
            self.look_around();
        }
        chores.run
    }

    fn wake_at(&self) -> Option<Instant> {
        let attempts = self.conns.values().filter_map(|conn| match &conn.phase {
            Phase::Greeting(attempt) => Some(attempt.due()),
            Phase::Up { .. } => None,
        });
        attempts
            .chain(self.greet_at())
            .chain(self.congestion.retry_at())
            .min()
    }

    /// Takes one frame. What else there is epoll reports again, when the others have had their turn.
    fn hear(&mut self, id: LinkId) -> Left {
        let Some(conn) = self.conns.get_mut(&id) else {
            return Left::Nothing;
        };
        let (peer, ear) = match &mut conn.phase {
            Phase::Greeting(_) => {
                self.hear_answer(id);
                return Left::Nothing;
            }
            Phase::Up { peer, ear, .. } => (Arc::clone(peer), ear),
        };
        match ear.hear(&mut self.inbox) {
            Heard::Nothing => return Left::Nothing,
            Heard::Dropped => {}
            Heard::Sealed(subject, body, _) => self.take(id, &peer, subject, body),
            Heard::Closed => self.end(id),
        }
        Left::Perhaps
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
                if let Some(known) = self.known.get_mut(&peer.info.instance) {
                    known.greetings = 0;
                }
                // A panic drops the call, which tells the requester.
                foreign::run("a service", || self.service.call(call));
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
            foreign::run("a service", || self.service.gone(&peer.info));
        }
        self.fall_back(id, instance);
    }

    fn leave(self) {
        for conn in self.conns.into_values() {
            if let Phase::Up { peer, .. } = conn.phase {
                peer.link.quit(Flags::NONE);
                self.shared.remove(&peer);
                peer.calls.cancel_all();
            }
        }
    }
}
