//! Requesters as they are found: whom to greet, when, and over which carrier.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::PeerInfo;
use super::super::attempt::{Answered, Attempt, Progress, carriers};
use super::super::call::Calls;
use super::super::peer::Peer;
use super::{Conn, IoThread, Phase};
use crate::carrier::CarrierKind;
use crate::ear::Ear;
use crate::frame::{Flags, Kind};
use crate::link::LinkId;
use crate::poll::Source;
use crate::rendezvous::Found;
use crate::session::Subject;
use crate::{Instance, foreign};

/// Waits between attempts to greet one requester: doubled from the first to the last.
const FIRST_RETRY: Duration = Duration::from_millis(50);
const LAST_RETRY: Duration = Duration::from_secs(5);

/// A requester that has, or had, an entry.
pub(super) struct Known {
    found: Found,
    standing: Standing,
    /// Greetings since it last asked anything: one that takes us and lets go again at once is greeted
    /// ever more seldom.
    pub(super) greetings: u32,
}

pub(super) enum Standing {
    /// To be greeted then.
    Away(Instant),
    /// Being greeted; then these carriers are left to try.
    Greeting(LinkId, Vec<CarrierKind>),
    Up(LinkId),
    /// Took another responder of this uid: it knows where to find us, and does not want us.
    Dismissed,
}

impl IoThread {
    pub(super) fn greet_at(&self) -> Option<Instant> {
        let times = self
            .known
            .values()
            .filter_map(|known| match known.standing {
                Standing::Away(at) => Some(at),
                Standing::Greeting(..) | Standing::Up(_) | Standing::Dismissed => None,
            });
        times.min()
    }

    /// Whether a greeting is on its way to anyone.
    pub(super) fn is_greeting(&self) -> bool {
        let mut known = self.known.values();
        known.any(|known| matches!(known.standing, Standing::Greeting(..)))
    }

    /// Reads the folders, forgets who left, greets whoever is due.
    pub(super) fn look_around(&mut self) {
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
                greetings: 0,
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
                    if let Err(error) = self.poll.watch(attempt.fd(), Source::Frames(id)) {
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
            .saturating_mul(1 << known.greetings.min(16))
            .min(LAST_RETRY);
        known.greetings = known.greetings.saturating_add(1);
        known.standing = Standing::Away(Instant::now() + wait);
    }

    pub(super) fn hear_answer(&mut self, id: LinkId) {
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
        let ear = Ear::new(id, known.found.owner, carrier, (sealer, opener));
        let link = Arc::clone(ear.link());
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
        // Listed first, so that an event sent once it is registered leaves it out no more.
        self.shared.add(&peer);
        if self.shared.send(&peer, confirmation, &[]).is_err() {
            self.shared.remove(&peer);
            return self.fall_back(id, instance);
        }
        known.standing = Standing::Up(id);
        let _process = match kind {
            CarrierKind::Unix => None,
            CarrierKind::Netlink => self.poll.watch_process(id, pid),
        };
        tracing::info!(%instance, carrier = %kind, "requester connected");
        foreign::run("a service", || self.service.connected(&peer.info));
        self.conns.insert(
            id,
            Conn {
                instance,
                phase: Phase::Up {
                    peer,
                    ear,
                    _process,
                },
            },
        );
    }

    /// Tries the next carrier, or waits to try again.
    pub(super) fn fall_back(&mut self, id: LinkId, instance: Instance) {
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

    pub(super) fn stand(&mut self, instance: Instance, standing: Standing) {
        if let Some(known) = self.known.get_mut(&instance) {
            known.standing = standing;
        }
    }
}
