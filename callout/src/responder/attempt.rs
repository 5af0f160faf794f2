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

/// A HELO that waits for its answer.
pub(super) struct Attempt {
    way: Way,
    greeting: Greeting,
    /// The uid that must answer.
    owner: u32,
    pub(super) until: Instant,
}

enum Way {
    Netlink(Port),
    Unix(Unix),
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
        let (way, time) = match kind {
            CarrierKind::Netlink => {
                let to = found.entry.netlink.ok_or(io::ErrorKind::NotFound)?;
                let port = Port::open()?;
                port.send_to(to, &header(port.id()).datagram(&helo))?;
                (Way::Netlink(port), NETLINK_TIME)
            }
            CarrierKind::Unix => {
                let socket = found.entry.socket.as_ref().ok_or(io::ErrorKind::NotFound)?;
                let unix = Unix::connect(&found.folder.join(socket))?;
                unix.send(&header(0).datagram(&helo))?;
                (Way::Unix(unix), UNIX_TIME)
            }
        };
        Ok(Self {
            way,
            greeting,
            owner: found.owner,
            until: Instant::now() + time,
        })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        match &self.way {
            Way::Netlink(port) => port.fd(),
            Way::Unix(unix) => unix.fd(),
        }
    }

    /// Takes one message. The sender's uid is checked before a byte of it is looked at.
    pub(super) fn hear(self, inbox: &mut Inbox) -> Progress {
        let received = match &self.way {
            Way::Netlink(port) => port.receive(inbox),
            Way::Unix(unix) => unix.receive(inbox),
        };
        let (sender, datagram) = match received {
            Ok(Reception::Datagram(sender, datagram)) => (sender, datagram),
            Ok(Reception::Foreign(_)) => return Progress::Waiting(self),
            // Netlink's empty messages are anyone's; a unix socket's are its end.
            Ok(Reception::Closed) => {
                return match self.way {
                    Way::Netlink(_) => Progress::Waiting(self),
                    Way::Unix(_) => Progress::Failed,
                };
            }
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
        let finished = self.greeting.finish(answer);
        let (sealer, opener) = match finished {
            Ok(halves) => halves,
            Err(error) => {
                tracing::info!(owner = self.owner, %error, "answer to HELO refused");
                return Progress::Failed;
            }
        };
        let carrier: Box<dyn Carrier> = match self.way {
            Way::Netlink(port) => match port.connect(sender.port) {
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
}
