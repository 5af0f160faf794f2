//! The requester's one thread: takes HELOs, replies and events; watches clocks; runs completions.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

mod door;

use super::conns::{Conn, Listeners, Phase, Said};
use super::state::{Run, Shared, Unseated};
use crate::carrier::Inbox;
use crate::congestion::Congestion;
use crate::ear::Heard;
use crate::frame::{Flags, Kind};
use crate::link::LinkId;
use crate::peer::Uids;
use crate::poll::{Poll, Source};
use crate::session::Subject;
use crate::{CallError, Instance, Pending, Serves, Ticket, foreign};

/// Time from the first HELO, or from connecting, to the registration.
const HANDSHAKE_TIME: Duration = Duration::from_secs(2);

/// Frames taken from one connection before the others have their turn.
const BURST: usize = 32;

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
        poll.watch(&shared.bell, Source::Bell)?;
        if let Some(port) = &listeners.netlink {
            poll.watch(port.fd(), Source::NetlinkPort)?;
        }
        if let Some(listener) = &listeners.unix {
            poll.watch(listener.fd(), Source::UnixListener)?;
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
            let sources = match self.poll.wait(self.wake_at()) {
                Ok(sources) => sources,
                Err(error) => {
                    tracing::error!(%error, "requester cannot wait for its sockets");
                    break;
                }
            };
            for source in sources {
                match source {
                    Source::Bell => self.shared.bell.silence(),
                    Source::NetlinkPort => self.take_netlink_helos(),
                    Source::UnixListener => self.accept(),
                    Source::Frames(id) => self.hear(id),
                    Source::Process(id) => {
                        // What it sent before it ended is taken first.
                        self.hear(id);
                        self.end(id);
                    }
                    Source::Folders | Source::Device => {}
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

    fn hear(&mut self, id: LinkId) {
        for _ in 0..BURST {
            let Some(conn) = self.conns.get_mut(&id) else {
                return;
            };
            let heard = match conn.hear(&mut self.inbox) {
                Said::Helo(helo) => {
                    self.greeted(id, &helo);
                    continue;
                }
                Said::Heard(heard) => heard,
            };
            match heard {
                Heard::Nothing => return,
                Heard::Dropped => {}
                Heard::Closed => return self.end(id),
                Heard::Sealed(subject, body, pid) => match &conn.phase {
                    Phase::Registered(_) => {
                        let uid = conn.uid;
                        self.take(id, uid, subject, body);
                    }
                    Phase::Answered(_) if subject.kind == Kind::Helo => self.register(id, pid),
                    Phase::Answered(_) | Phase::Accepted(_) => {}
                },
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
                let ours = self.shared.state().table.is_with(id, ticket);
                if let (Some(reason), true) = (Pending::parse(&body), ours) {
                    let observer = &self.shared.observer;
                    foreign::run("an observer", || observer.pending(ticket, reason));
                }
            }
            Kind::Event => {
                let observer = &self.shared.observer;
                foreign::run("an observer", || observer.event(uid, &body));
            }
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
            foreign::run("an observer", || shared.observer.gone(conn.uid));
        }
    }

    fn leave(self) {
        for conn in self.conns.values() {
            if let Phase::Registered(ear) = &conn.phase {
                ear.link().quit(Flags::NONE);
            }
        }
        self.shared.settle(|state| state.table.stop());
    }
}
