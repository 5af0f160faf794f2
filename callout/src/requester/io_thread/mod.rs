//! The requester's one thread: takes HELOs, replies and events; watches clocks; runs completions.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

mod door;

use super::conns::{Listeners, Newcomer, Phase, Registered, Said};
use super::state::{Run, Shared, outcome};
use super::turn::EarIs;
use crate::carrier::Inbox;
use crate::congestion::Congestion;
use crate::ear::{Heard, Left, drain};
use crate::frame::{Flags, Kind};
use crate::link::LinkId;
use crate::peer::Uids;
use crate::poll::{Poll, Source};
use crate::session::Subject;
use crate::{Instance, Pending, Serves, Ticket, foreign};

/// Time from the first HELO, or from connecting, to the registration.
const HANDSHAKE_TIME: Duration = Duration::from_secs(2);

/// Newcomers taken from one door before the others have their turn.
const BURST: usize = 32;

pub(super) struct IoThread {
    shared: Arc<Shared>,
    poll: Poll,
    inbox: Inbox,
    listeners: Listeners,
    instance: Instance,
    uids: Uids,
    serves: Serves,
    newcomers: HashMap<LinkId, Newcomer>,
    registered: HashMap<LinkId, Registered>,
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
        let poll = shared.poll.clone();
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
            newcomers: HashMap::new(),
            registered: HashMap::new(),
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
                    Source::Frames(id) => {
                        self.hear(id);
                    }
                    Source::Process(id) => self.process_ended(id),
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
        let (run, lost, congested, unheard, expired) = shared.settle(|state| {
            let expired = state.table.expire(now);
            (
                state.run(),
                state.take_lost(),
                state.take_congested(),
                state.take_unheard(),
                expired,
            )
        });
        expired
            .iter()
            .for_each(|abandoned| shared.tell_abandoned(abandoned));
        unheard.into_iter().for_each(|id| {
            self.hear(id);
        });
        lost.into_iter().for_each(|id| self.end(id));
        self.congestion.add(congested, now);
        self.congestion
            .retry(now)
            .into_iter()
            .for_each(|id| self.end(id));
        self.newcomers
            .retain(|_, newcomer| now < newcomer.since + HANDSHAKE_TIME);
        run
    }

    fn wake_at(&self) -> Option<Instant> {
        let newcomers = self.newcomers.values();
        let handshakes = newcomers.map(|newcomer| newcomer.since + HANDSHAKE_TIME);
        let state = self.shared.state();
        // Settled while this thread was about to sleep: deliver first.
        let done = state.table.has_done().then(Instant::now);
        handshakes
            .chain(state.table.alarm())
            .chain(self.congestion.retry_at())
            .chain(done)
            .min()
    }

    /// What a process sent before it ended is taken first: if a caller listens, once it has let go of
    /// the ear, for which this is called again.
    fn process_ended(&mut self, id: LinkId) {
        let uid = self.registered.get(&id).map(|registered| registered.uid);
        match uid.map(|uid| self.shared.recall(uid, id)) {
            Some(EarIs::Lent) => {}
            Some(EarIs::Here) | None => {
                drain(|| self.hear(id));
                self.end(id);
            }
        }
    }

    /// Takes one frame. What else there is epoll reports again, when the others have had their turn.
    fn hear(&mut self, id: LinkId) -> Left {
        match self.registered.get(&id).map(|registered| registered.uid) {
            Some(uid) => self.hear_registered(id, uid),
            None => self.hear_newcomer(id),
        }
    }

    fn hear_newcomer(&mut self, id: LinkId) -> Left {
        let Some(newcomer) = self.newcomers.get_mut(&id) else {
            return Left::Nothing;
        };
        match newcomer.hear(&mut self.inbox) {
            Said::Heard(Heard::Nothing) => return Left::Nothing,
            Said::Heard(Heard::Dropped) => {}
            Said::Heard(Heard::Closed) => self.end(id),
            Said::Helo(helo) => self.greeted(id, &helo),
            Said::Heard(Heard::Sealed(subject, _, pid)) => match &newcomer.phase {
                Phase::Answered(_) if subject.kind == Kind::Helo => self.register(id, pid),
                Phase::Answered(_) | Phase::Accepted(_) => {}
            },
        }
        Left::Perhaps
    }

    fn hear_registered(&mut self, id: LinkId, uid: u32) -> Left {
        // None: a caller listens.
        let Some(mut ear) = self.shared.take_ear(uid, id) else {
            return Left::Nothing;
        };
        match ear.hear(&mut self.inbox) {
            Heard::Nothing => {
                self.shared.keep_ear(uid, ear);
                return Left::Nothing;
            }
            Heard::Dropped => self.shared.keep_ear(uid, ear),
            Heard::Closed => self.end(id),
            // The ear first: who is woken by this may call again before this thread goes on.
            Heard::Sealed(subject, body, _) if subject.kind == Kind::Response => {
                self.shared.keep_ear(uid, ear);
                self.take(id, uid, subject, body);
            }
            // The ear last: no caller has an answer before the observer has what came before it.
            Heard::Sealed(subject, body, _) => {
                self.take(id, uid, subject, body);
                self.shared.keep_ear(uid, ear);
            }
        }
        Left::Perhaps
    }

    /// A frame of a registered responder.
    fn take(&mut self, id: LinkId, uid: u32, subject: Subject, body: Zeroizing<Vec<u8>>) {
        let ticket = Ticket {
            index: subject.index,
            sequence: subject.sequence,
        };
        match subject.kind {
            Kind::Response => {
                let outcome = outcome(subject, body);
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
        self.newcomers.remove(&id);
        let Some(Registered { uid, .. }) = self.registered.remove(&id) else {
            return;
        };
        let shared = Arc::clone(&self.shared);
        let unseated = shared.settle(|state| state.unseat(uid, id, &shared.limits));
        if unseated.is_some() {
            tracing::info!(uid, "responder gone");
            foreign::run("an observer", || shared.observer.gone(uid));
        }
    }

    fn leave(self) {
        let seated = self.shared.state().take_seated();
        seated
            .iter()
            .for_each(|seated| seated.link().quit(Flags::NONE));
        drop(seated);
        self.shared.settle(|state| state.table.stop());
    }
}
