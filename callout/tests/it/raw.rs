//! A peer that does not keep to the rules: plain sockets, and the crate's two lower layers.

use std::fs;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use claviger_callout::frame::{Flags, Frame, Header, Kind};
use claviger_callout::session::{self, Ends, Greeting, Opener, Sealer, Subject};
use claviger_callout::{CarrierKind, Instance};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessageOwned, MsgFlags, NetlinkAddr, SockFlag, SockProtocol,
    SockType, SockaddrStorage, UnixAddr, UnixCredentials, bind, connect, getsockname, recvmsg,
    sendmsg, setsockopt, socket, sockopt,
};
use zeroize::Zeroizing;

use crate::harness::PATIENCE;

/// A requester, as its entry describes it.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) instance: Instance,
    pub(crate) netlink: Option<u32>,
    pub(crate) socket: Option<PathBuf>,
}

impl Target {
    pub(crate) fn parse(folder: &Path, text: &str) -> Self {
        let table: toml::Table = text.parse().unwrap();
        let text = |key: &str| {
            table
                .get(key)
                .map(|value| value.as_str().unwrap().to_owned())
        };
        Self {
            instance: text("instance").unwrap().parse().unwrap(),
            netlink: table
                .get("netlink")
                .map(|port| port.as_integer().unwrap() as u32),
            socket: text("socket").map(|name| folder.join(name)),
        }
    }
}

/// A socket of one carrier's kind.
pub(crate) struct Socket {
    fd: OwnedFd,
    pub(crate) kind: CarrierKind,
    /// Where to send: a netlink port.
    to: u32,
}

/// What came in, from whom.
pub(crate) struct Message {
    pub(crate) bytes: Vec<u8>,
    pub(crate) uid: u32,
    pub(crate) port: u32,
}

impl Socket {
    /// A netlink socket on `port` (0: any), sending to `to`.
    pub(crate) fn netlink(port: u32, to: u32) -> io::Result<Self> {
        let fd = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            SockProtocol::NetlinkUserSock,
        )?;
        setsockopt(&fd, sockopt::PassCred, &true)?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(port, 0))?;
        Ok(Self {
            fd,
            kind: CarrierKind::Netlink,
            to,
        })
    }

    pub(crate) fn unix(path: &Path) -> io::Result<Self> {
        let fd = socket(
            AddressFamily::Unix,
            SockType::SeqPacket,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            None,
        )?;
        setsockopt(&fd, sockopt::PassCred, &true)?;
        connect(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
        Ok(Self {
            fd,
            kind: CarrierKind::Unix,
            to: 0,
        })
    }

    /// To where a requester takes HELOs.
    pub(crate) fn to(target: &Target, kind: CarrierKind) -> io::Result<Self> {
        match kind {
            CarrierKind::Netlink => Self::netlink(0, target.netlink.unwrap()),
            CarrierKind::Unix => Self::unix(target.socket.as_ref().unwrap()),
        }
    }

    pub(crate) fn port(&self) -> u32 {
        match self.kind {
            CarrierKind::Netlink => getsockname::<NetlinkAddr>(self.fd.as_raw_fd())
                .unwrap()
                .pid(),
            CarrierKind::Unix => 0,
        }
    }

    pub(crate) fn send_to(&mut self, to: u32, bytes: &[u8]) -> io::Result<()> {
        self.to = to;
        self.send(bytes)
    }

    pub(crate) fn send(&self, bytes: &[u8]) -> io::Result<()> {
        let parts = [IoSlice::new(bytes)];
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        let to = NetlinkAddr::new(self.to, 0);
        let to = (self.kind == CarrierKind::Netlink).then_some(&to);
        sendmsg(self.fd.as_raw_fd(), &parts, &[], flags, to)?;
        Ok(())
    }

    /// Waits for a message; `None` at the end of the connection or of the patience.
    pub(crate) fn receive_within(&self, patience: Duration) -> Option<Message> {
        let mut waits = [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)];
        if poll(&mut waits, PollTimeout::try_from(patience).unwrap()).unwrap() == 0 {
            return None;
        }
        let mut bytes = vec![0; 1 << 18];
        let mut control = nix::cmsg_space!(UnixCredentials);
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let received = recvmsg::<SockaddrStorage>(
            self.fd.as_raw_fd(),
            &mut parts,
            Some(&mut control),
            MsgFlags::MSG_DONTWAIT,
        );
        let message = received.ok().filter(|message| message.bytes > 0)?;
        let (len, address) = (message.bytes, message.address);
        let uid = message.cmsgs().unwrap().find_map(|control| match control {
            ControlMessageOwned::ScmCredentials(credentials) => Some(credentials.uid()),
            _ => None,
        });
        let port = address
            .as_ref()
            .filter(|_| self.kind == CarrierKind::Netlink)
            .and_then(SockaddrStorage::as_netlink_addr)
            .map_or(0, |address| address.pid());
        Some(Message {
            bytes: bytes[..len].to_vec(),
            uid: uid.unwrap(),
            port,
        })
    }

    pub(crate) fn receive(&self) -> Message {
        self.receive_within(PATIENCE).expect("a message")
    }
}

/// A frame in the clear.
pub(crate) fn clear(kind: Kind, flags: Flags, sequence: u32, port: u32, body: &[u8]) -> Vec<u8> {
    Header {
        kind,
        flags,
        sequence,
        port,
    }
    .datagram(body)
}

/// A responder made by hand: it completes the handshake and then sends what it is told to.
pub(crate) struct RawResponder {
    pub(crate) socket: Socket,
    pub(crate) sealer: Sealer,
    opener: Opener,
}

impl RawResponder {
    /// Greets `target` in the name of `uid`, which this process must have, and registers.
    pub(crate) fn greet(target: &Target, kind: CarrierKind, uid: u32) -> Self {
        let mut socket = Socket::to(target, kind).unwrap();
        let ends = Ends {
            responder: uid,
            requester: 0,
            instance: target.instance,
        };
        let (mut greeting, helo) = Greeting::start(&ends).unwrap();
        socket
            .send(&clear(Kind::Helo, Flags::NONE, 0, socket.port(), &helo))
            .unwrap();
        let answer = socket.receive();
        assert_eq!(answer.uid, 0);
        let frame = Frame::parse(&answer.bytes).unwrap();
        assert_eq!(
            (frame.header.kind, frame.header.flags),
            (Kind::Helo, Flags::ANSWER)
        );
        if kind == CarrierKind::Netlink {
            socket.to = answer.port;
            connect(socket.fd.as_raw_fd(), &NetlinkAddr::new(answer.port, 0)).unwrap();
        }
        greeting.hear(frame.body).unwrap();
        let (sealer, opener) = greeting.finish().unwrap();
        let mut raw = Self {
            socket,
            sealer,
            opener,
        };
        raw.send(Kind::Helo, 0, 0, &[]);
        raw
    }

    /// The requester's port for this connection.
    pub(crate) fn peer_port(&self) -> u32 {
        self.socket.to
    }

    /// Seals a frame without sending it.
    pub(crate) fn seal(&mut self, kind: Kind, index: u32, sequence: u32, body: &[u8]) -> Vec<u8> {
        let subject = Subject {
            kind,
            flags: Flags::NONE,
            index,
            sequence,
        };
        self.sealer.seal(subject, self.socket.port(), body).unwrap()
    }

    pub(crate) fn send(&mut self, kind: Kind, index: u32, sequence: u32, body: &[u8]) {
        let frame = self.seal(kind, index, sequence, body);
        self.socket.send(&frame).unwrap();
    }

    pub(crate) fn receive(&mut self) -> (Subject, Zeroizing<Vec<u8>>) {
        let message = self.socket.receive();
        self.opener
            .open(&Frame::parse(&message.bytes).unwrap())
            .unwrap()
    }

    /// Waits for a request and gives its index and sequence number.
    pub(crate) fn request(&mut self) -> (u32, u32) {
        let (subject, _) = self.receive();
        assert_eq!(subject.kind, Kind::Request);
        (subject.index, subject.sequence)
    }
}

/// Where a requester made by hand takes HELOs.
enum Door {
    Netlink(Socket),
    Unix(UnixListener),
}

impl Door {
    /// Waits for a HELO; gives it and the connection to whoever sent it.
    fn admit(&self) -> (Socket, Message) {
        match self {
            Self::Netlink(port) => {
                let helo = port.receive();
                let socket = Socket::netlink(0, helo.port).unwrap();
                connect(socket.fd.as_raw_fd(), &NetlinkAddr::new(helo.port, 0)).unwrap();
                (socket, helo)
            }
            Self::Unix(listener) => {
                let fd = OwnedFd::from(listener.accept().unwrap().0);
                setsockopt(&fd, sockopt::PassCred, &true).unwrap();
                let (kind, to) = (CarrierKind::Unix, 0);
                let socket = Socket { fd, kind, to };
                let helo = socket.receive();
                (socket, helo)
            }
        }
    }

    fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Netlink(port) => port.fd.as_fd(),
            Self::Unix(listener) => listener.as_fd(),
        }
    }
}

/// A requester made by hand: publishes an entry, lets one responder in, and then asks.
pub(crate) struct RawRequester {
    pub(crate) socket: Socket,
    sealer: Sealer,
    opener: Opener,
}

impl RawRequester {
    /// Publishes in `folder` and waits for the responder of `uid`.
    pub(crate) fn meet(folder: &Path, kind: CarrierKind, uid: u32) -> Self {
        let instance = Instance::from_bytes([0xcd; 16]);
        let port = Socket::netlink(0, 0).unwrap();
        let listener = listen(&folder.join(format!("{instance}.sock")));
        let way = match kind {
            CarrierKind::Netlink => format!("netlink = {}", port.port()),
            CarrierKind::Unix => format!("socket = \"{instance}.sock\""),
        };
        publish(folder, &instance.to_string(), &way);
        let door = match kind {
            CarrierKind::Netlink => Door::Netlink(port),
            CarrierKind::Unix => {
                listener.set_nonblocking(false).unwrap();
                Door::Unix(listener)
            }
        };
        let ends = Ends {
            responder: uid,
            requester: 0,
            instance,
        };
        // A responder gives up a HELO that is not answered in time, and greets again.
        loop {
            if let Some(met) = Self::answer(&door, &ends) {
                return met;
            }
        }
    }

    /// Answers one HELO; `None` if its sender has given it up.
    fn answer(door: &Door, ends: &Ends) -> Option<Self> {
        let (mut socket, helo) = door.admit();
        assert_eq!(helo.uid, ends.responder);
        let frame = Frame::parse(&helo.bytes).unwrap();
        let (answer, sealer, opener) = session::answer(ends, frame.body).unwrap();
        let answer = clear(Kind::Helo, Flags::ANSWER, 0, socket.port(), &answer);
        socket.send_to(helo.port, &answer).ok()?;
        let mut raw = Self {
            socket,
            sealer,
            opener,
        };
        // Confirmed, or greeted anew.
        let mut waits = [
            PollFd::new(raw.socket.fd.as_fd(), PollFlags::POLLIN),
            PollFd::new(door.fd(), PollFlags::POLLIN),
        ];
        let patience = PollTimeout::try_from(PATIENCE).unwrap();
        assert_ne!(poll(&mut waits, patience).unwrap(), 0, "nobody greets");
        let (kind, body) = raw.reply_within(Duration::ZERO)?;
        assert_eq!((kind, body.as_slice()), (Kind::Helo, &[][..]));
        Some(raw)
    }

    pub(crate) fn ask(&mut self, sequence: u32, text: &str) {
        let kind = Kind::Request;
        let subject = Subject {
            kind,
            flags: Flags::NONE,
            index: 0,
            sequence,
        };
        let frame = self
            .sealer
            .seal(subject, self.socket.port(), text.as_bytes())
            .unwrap();
        self.socket.send(&frame).unwrap();
    }

    pub(crate) fn reply_within(&mut self, patience: Duration) -> Option<(Kind, Vec<u8>)> {
        let message = self.socket.receive_within(patience)?;
        let (subject, body) = self
            .opener
            .open(&Frame::parse(&message.bytes).unwrap())
            .unwrap();
        Some((subject.kind, body.to_vec()))
    }
}

/// Puts an entry in place as a requester would; `way` says how it is reached.
pub(crate) fn publish(folder: &Path, instance: &str, way: &str) {
    let namespace = |name: &str| {
        let metadata = fs::metadata(format!("/proc/self/ns/{name}")).unwrap();
        format!("{name} = [{}, {}]", metadata.dev(), metadata.ino())
    };
    let text = format!(
        "version = 1\ninstance = \"{instance}\"\nservice = \"test/1\"\n{way}\n[namespaces]\n{}\n{}\n",
        namespace("net"),
        namespace("pid"),
    );
    let draft = folder.join("draft");
    fs::write(&draft, text).unwrap();
    fs::rename(draft, folder.join(format!("{instance}.toml"))).unwrap();
}

/// Listens on `path`, which everyone may connect to.
pub(crate) fn listen(path: &Path) -> UnixListener {
    let fd = socket(
        AddressFamily::Unix,
        SockType::SeqPacket,
        SockFlag::SOCK_NONBLOCK,
        None,
    )
    .unwrap();
    setsockopt(&fd, sockopt::PassCred, &true).unwrap();
    bind(fd.as_raw_fd(), &UnixAddr::new(path).unwrap()).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o666)).unwrap();
    nix::sys::socket::listen(&fd, Backlog::new(8).unwrap()).unwrap();
    fd.into()
}

/// Port ids of all netlink user sockets in this network namespace, as anyone may read them.
pub(crate) fn ports_in_use() -> Vec<u32> {
    const USERSOCK: &str = "2";
    let table = std::fs::read_to_string("/proc/net/netlink").unwrap();
    let rows = table
        .lines()
        .skip(1)
        .map(|row| row.split_whitespace().collect::<Vec<_>>());
    rows.filter(|row| row[1] == USERSOCK)
        .map(|row| row[2].parse().unwrap())
        .collect()
}
