//! One attempt to greet a requester, over one carrier.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use crate::carrier::netlink::Port;
use crate::carrier::unix::Unix;
use crate::carrier::{Carrier, CarrierKind, Inbox, Reception, Transport};
use crate::frame::{Flags, Frame, Header, Kind};
use crate::peer::Uids;
use crate::rendezvous::{Found, Namespaces};
use crate::session::{Ends, Greeting, Opener, Sealer};

/// How long a requester's answer may take on netlink, where anyone may have filled its port.
const NETLINK_TIME: Duration = Duration::from_millis(200);

/// How long it may take on a unix socket, where a busy requester is all there is to wait for.
const UNIX_TIME: Duration = Duration::from_secs(2);

/// The carriers to try with one requester, in order.
pub(super) fn carriers(found: &Found, own: &Namespaces, transport: Transport) -> Vec<CarrierKind> {
    let netlink = found.entry.netlink.is_some() && found.entry.namespaces == *own;
    let offered = [
        (CarrierKind::Netlink, netlink),
        (CarrierKind::Unix, found.entry.socket.is_some()),
    ];
    let usable = offered
        .into_iter()
        .filter(|(kind, offered)| *offered && transport.allows(*kind));
    usable.map(|(kind, _)| kind).collect()
}

/// How often a HELO is tried again that found a requester's port full: a flooder wins some races for
/// the room there, not all.
const RESEND_TIME: Duration = Duration::from_millis(1);

/// A HELO that waits for its answer.
pub(super) struct Attempt {
    way: Way,
    helo: Helo,
    greeting: Greeting,
    /// The uid that must answer.
    owner: u32,
    until: Instant,
}

enum Way {
    /// And the requester's port.
    Netlink(Port, u32),
    Unix(Unix),
}

/// Whether the HELO is out.
enum Helo {
    Sent,
    /// To be tried again then.
    Unsent(Vec<u8>, Instant),
}

/// The requester's answer, and what it opened.
pub(super) struct Answered {
    pub(super) carrier: Box<dyn Carrier>,
    pub(super) sealer: Sealer,
    pub(super) opener: Opener,
    pub(super) pid: i32,
}

/// What an attempt has come to.
pub(super) enum Progress {
    /// Still waiting, with its time.
    Waiting(Attempt),
    Answered(Answered),
    Failed,
}

impl Attempt {
    /// Sends HELO.
    pub(super) fn start(found: &Found, kind: CarrierKind, uids: &Uids) -> io::Result<Self> {
        let ends = Ends {
            responder: uids.own,
            requester: found.owner,
            instance: found.entry.instance,
        };
        let (greeting, helo) = Greeting::start(&ends).map_err(io::Error::other)?;
        let header = |port| Header {
            kind: Kind::Helo,
            flags: Flags::NONE,
            sequence: 0,
            port,
        };
        let (way, time, helo) = match kind {
            CarrierKind::Netlink => {
                let to = found.entry.netlink.ok_or(io::ErrorKind::NotFound)?;
                let port = Port::open()?;
                let helo = header(port.id()).datagram(&helo);
                (Way::Netlink(port, to), NETLINK_TIME, helo)
            }
            CarrierKind::Unix => {
                let socket = found.entry.socket.as_ref().ok_or(io::ErrorKind::NotFound)?;
                let unix = Unix::connect(&found.folder.join(socket))?;
                (Way::Unix(unix), UNIX_TIME, header(0).datagram(&helo))
            }
        };
        let now = Instant::now();
        let helo = Helo::Unsent(helo, now);
        let mut attempt = Self {
            way,
            helo,
            greeting,
            owner: found.owner,
            until: now + time,
        };
        attempt.resend(now)?;
        Ok(attempt)
    }

    /// Sends HELO if it is due and there is room for it.
    pub(super) fn resend(&mut self, now: Instant) -> io::Result<()> {
        let Helo::Unsent(helo, at) = &mut self.helo else {
            return Ok(());
        };
        if now < *at {
            return Ok(());
        }
        let sent = match &self.way {
            Way::Netlink(port, to) => port.send_to(*to, helo),
            Way::Unix(unix) => unix.send(helo),
        };
        match sent {
            Ok(()) => self.helo = Helo::Sent,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => *at = now + RESEND_TIME,
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Whether no answer will be waited for any longer.
    pub(super) fn is_late(&self, now: Instant) -> bool {
        self.until <= now
    }

    /// When to look at it again.
    pub(super) fn due(&self) -> Instant {
        match &self.helo {
            Helo::Sent => self.until,
            Helo::Unsent(_, at) => self.until.min(*at),
        }
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        match &self.way {
            Way::Netlink(port, _) => port.fd(),
            Way::Unix(unix) => unix.fd(),
        }
    }

    /// Takes one message. The sender's uid is checked before a byte of it is looked at.
    pub(super) fn hear(mut self, inbox: &mut Inbox) -> Progress {
        let received = match &self.way {
            Way::Netlink(port, _) => port.receive(inbox),
            Way::Unix(unix) => unix.receive(inbox),
        };
        let (sender, datagram) = match received {
            Ok(Reception::Datagram(sender, datagram)) => (sender, datagram),
            Ok(Reception::Foreign(_)) => return Progress::Waiting(self),
            // Netlink's empty messages are anyone's; a unix socket's are its end.
            Ok(Reception::Closed) => return self.end_unless_netlink(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Progress::Waiting(self);
            }
            Err(_) => return Progress::Failed,
        };
        if sender.uid != self.owner {
            tracing::debug!(
                owner = self.owner,
                sender = sender.uid,
                "message of another uid dropped"
            );
            return Progress::Waiting(self);
        }
        let answer = match Frame::parse(datagram) {
            Ok(Frame { header, body })
                if header.kind == Kind::Helo
                    && header.flags == Flags::ANSWER
                    && header.port == sender.port =>
            {
                body
            }
            Ok(_) | Err(_) => return Progress::Waiting(self),
        };
        if let Err(error) = self.greeting.hear(answer) {
            tracing::info!(owner = self.owner, %error, "answer to HELO refused");
            // On netlink it may be the late answer to a HELO that was given up: the kernel's first choice
            // of a port id is always the same, so that this attempt has the port of the one before.
            return self.end_unless_netlink();
        }
        let Ok((sealer, opener)) = self.greeting.finish() else {
            return Progress::Failed;
        };
        let carrier: Box<dyn Carrier> = match self.way {
            Way::Netlink(port, _) => match port.connect(sender.port) {
                Ok(netlink) => Box::new(netlink),
                Err(_) => return Progress::Failed,
            },
            Way::Unix(unix) => Box::new(unix),
        };
        Progress::Answered(Answered {
            carrier,
            sealer,
            opener,
            pid: sender.pid,
        })
    }

    /// What a message that cannot be the answer means: on a unix connection nothing better follows; a
    /// netlink port has others' messages too.
    fn end_unless_netlink(self) -> Progress {
        match self.way {
            Way::Netlink(..) => Progress::Waiting(self),
            Way::Unix(_) => Progress::Failed,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use CarrierKind::{Netlink, Unix};

    use super::*;
    use crate::Instance;
    use crate::rendezvous::Entry;
    use crate::session;

    fn entry(netlink: u32) -> Entry {
        Entry {
            instance: Instance::from_bytes([1; 16]),
            service: String::new(),
            about: BTreeMap::new(),
            namespaces: Namespaces::own().unwrap(),
            netlink: Some(netlink),
            socket: Some("x.sock".to_owned()),
        }
    }

    /// Takes a HELO off `port` as a requester does. Gives where it came from and what answers it.
    fn answer(port: &Port, ends: &Ends, inbox: &mut Inbox) -> (u32, Vec<u8>) {
        let Ok(Reception::Datagram(sender, datagram)) = port.receive(inbox) else {
            panic!("no HELO")
        };
        let helo = Frame::parse(datagram).unwrap();
        let (body, ..) = session::answer(ends, helo.body).unwrap();
        let header = Header {
            kind: Kind::Helo,
            flags: Flags::ANSWER,
            sequence: 0,
            port: port.id(),
        };
        (sender.port, header.datagram(&body))
    }

    #[test]
    fn a_late_answer_to_a_helo_that_was_given_up_does_not_end_the_next_attempt() {
        let requester = Port::open().unwrap();
        let uids = Uids::read().unwrap();
        let found = Found {
            entry: entry(requester.id()),
            owner: uids.own,
            folder: "/".into(),
        };
        let ends = Ends {
            responder: uids.own,
            requester: uids.own,
            instance: found.entry.instance,
        };
        let mut inbox = Inbox::new();
        let given_up = Attempt::start(&found, Netlink, &uids).unwrap();
        let (_, late) = answer(&requester, &ends, &mut inbox);
        drop(given_up);

        let attempt = Attempt::start(&found, Netlink, &uids).unwrap();
        let (port, in_time) = answer(&requester, &ends, &mut inbox);
        requester.send_to(port, &late).unwrap();
        requester.send_to(port, &in_time).unwrap();
        let Progress::Waiting(attempt) = attempt.hear(&mut inbox) else {
            panic!("the late answer is passed over")
        };
        assert!(matches!(
            attempt.hear(&mut inbox),
            Progress::Answered(Answered { .. })
        ));
    }

    #[test]
    fn netlink_comes_first_where_it_reaches_and_not_at_all_where_it_does_not() {
        let own = Namespaces::own().unwrap();
        let entry = entry(1);
        let found = |entry| Found {
            entry,
            owner: 0,
            folder: "/".into(),
        };
        let here = found(entry.clone());
        assert_eq!(carriers(&here, &own, Transport::Auto), [Netlink, Unix]);
        assert_eq!(carriers(&here, &own, Transport::Netlink), [Netlink]);
        assert_eq!(carriers(&here, &own, Transport::Unix), [Unix]);
        let elsewhere = found(Entry {
            namespaces: Namespaces::from_inodes(1, 2),
            ..entry.clone()
        });
        assert_eq!(carriers(&elsewhere, &own, Transport::Auto), [Unix]);
        let no_socket = found(Entry {
            socket: None,
            ..entry
        });
        assert_eq!(carriers(&no_socket, &own, Transport::Auto), [Netlink]);
    }
}
