//! Who comes in: HELOs, and what becomes of them until the responder is registered.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use super::super::conns::{Newcomer, Phase, Registered, is_first_helo};
use super::super::state::{Seated, Seating};
use super::{BURST, IoThread};
use crate::carrier::{Carrier, CarrierKind, Reception, netlink};
use crate::ear::Ear;
use crate::frame::{Flags, Frame, Header, Kind};
use crate::link::LinkId;
use crate::peer::Uids;
use crate::poll::Source;
use crate::session::{self, Ends};
use crate::{Serves, foreign};

/// Handshakes of one uid in progress; one more is not begun. Each costs this thread two X25519
/// operations and a descriptor.
const HANDSHAKES_PER_UID: usize = 4;

impl IoThread {
    pub(super) fn accept(&mut self) {
        for _ in 0..BURST {
            let Some(listener) = &self.listeners.unix else {
                return;
            };
            match listener.accept() {
                Ok((_, uid)) if !serves(self.serves, &self.uids, uid) => {
                    tracing::debug!(uid, "connection of another uid refused");
                }
                Ok((unix, uid)) if self.has_room(uid) => {
                    let id = self.next_link();
                    self.admit(id, uid, Phase::Accepted(unix));
                }
                Ok((_, uid)) => tracing::debug!(uid, "too many handshakes at once"),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    return;
                }
            }
        }
    }

    /// Takes HELOs off the open netlink port: the uid first, and nothing of what others write there.
    pub(super) fn take_netlink_helos(&mut self) {
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
            if !self.has_room(sender.uid) {
                tracing::debug!(uid = sender.uid, "too many handshakes at once");
                continue;
            }
            match netlink::Netlink::connect(sender.port) {
                Ok(carrier) => {
                    let id = self.next_link();
                    self.answer(id, sender.uid, Box::new(carrier), &helo);
                }
                Err(error) => tracing::warn!(%error, "cannot connect to a netlink port"),
            }
        }
    }

    /// A HELO on a unix connection.
    pub(super) fn greeted(&mut self, id: LinkId, helo: &[u8]) {
        if let Some(Newcomer {
            uid,
            phase: Phase::Accepted(unix),
            ..
        }) = self.newcomers.remove(&id)
        {
            // It is admitted anew, which watches it anew.
            self.poll.forget(unix.fd());
            self.answer(id, uid, Box::new(unix), helo);
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
            let ear = Ear::new(id, uid, carrier, (sealer, opener));
            self.admit(id, uid, Phase::Answered(ear));
        }
    }

    /// The responder has shown that it holds the session's keys.
    pub(super) fn register(&mut self, id: LinkId, pid: i32) {
        let Some(Newcomer {
            uid,
            phase: Phase::Answered(ear),
            ..
        }) = self.newcomers.remove(&id)
        else {
            return;
        };
        let shared = Arc::clone(&self.shared);
        let link = Arc::clone(ear.link());
        let seated = match Seated::new(&link) {
            Ok(seated) => seated,
            Err(error) => {
                tracing::warn!(uid, %error, "cannot seat a responder");
                return;
            }
        };
        let (replaced, adopted) =
            match shared.settle(|state| state.seat(uid, seated, &shared.limits)) {
                Seating::Taken { replaced, adopted } => (replaced, adopted),
                Seating::Full(refused) => {
                    tracing::warn!(uid, "too many responders");
                    refused.link().quit(Flags::NONE);
                    return;
                }
            };
        let kind = link.kind();
        let _process = match kind {
            CarrierKind::Unix => None,
            CarrierKind::Netlink => self.poll.watch_process(id, pid),
        };
        adopted
            .iter()
            .for_each(|(ticket, body)| shared.send_request(&link, *ticket, body));
        self.registered.insert(id, Registered { uid, _process });
        if let Some(replaced) = replaced {
            replaced.link().quit(Flags::REPLACED);
            self.registered.remove(&replaced.link().id());
        }
        tracing::info!(uid, carrier = %kind, "responder registered");
        shared.announce_registered();
        foreign::run("an observer", || {
            shared.observer.process(uid, pid);
            shared.observer.registered(uid, kind);
        });
        // Last, so that no caller has an answer before the observer knows who gave it.
        shared.keep_ear(uid, ear);
    }

    /// Whether one more handshake of `uid` may begin. Asked before anything is computed for it.
    fn has_room(&self, uid: u32) -> bool {
        let (mut own, mut all) = (0, 0);
        for newcomer in self.newcomers.values() {
            own += usize::from(newcomer.uid == uid);
            all += 1;
        }
        own < HANDSHAKES_PER_UID && all < self.shared.limits.responders
    }

    /// Keeps a connection that is not registered yet.
    fn admit(&mut self, id: LinkId, uid: u32, phase: Phase) {
        let newcomer = Newcomer {
            uid,
            since: Instant::now(),
            phase,
        };
        match self.poll.watch(&newcomer, Source::Frames(id)) {
            Ok(()) => drop(self.newcomers.insert(id, newcomer)),
            Err(error) => tracing::warn!(%error, "cannot watch a connection"),
        }
    }

    fn next_link(&mut self) -> LinkId {
        self.last_link += 1;
        LinkId::new(self.last_link)
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
