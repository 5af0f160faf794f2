//! `NETLINK_USERSOCK` unicast.
//!
//! Port ids come from the kernel and prove nothing: anyone may bind a free one. A [`Port`] takes
//! messages from everybody, and 49 unread ones from any uid fill it (measured), so it is used to meet
//! only; then each end connects a socket to the other's port, and the kernel refuses every other
//! sender (`ECONNREFUSED`). A dead peer's port can be bound by another: its uid shows on each message.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, connect, sendto,
    setsockopt, socket, sockopt,
};

use super::{Carrier, CarrierKind, Inbox, Reception, send_error};

/// An open socket: anyone may write to it.
pub(crate) struct Port {
    fd: OwnedFd,
    id: u32,
}

impl Port {
    /// Opens a socket on a port id of the kernel's choice.
    pub(crate) fn open() -> io::Result<Self> {
        let fd = open_socket()?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        let id = own_port(&fd)?;
        Ok(Self { fd, id })
    }

    pub(crate) fn id(&self) -> u32 {
        self.id
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Sends one datagram to port `to`.
    pub(crate) fn send_to(&self, to: u32, datagram: &[u8]) -> io::Result<()> {
        sendto(
            self.fd.as_raw_fd(),
            datagram,
            &NetlinkAddr::new(to, 0),
            MsgFlags::MSG_DONTWAIT,
        )
        .map_err(send_error)?;
        Ok(())
    }

    /// Takes one datagram from whoever sent it.
    pub(crate) fn receive<'a>(&self, inbox: &'a mut Inbox) -> io::Result<Reception<'a>> {
        inbox.receive(self.fd())
    }

    /// Hears `peer` only, from now on.
    pub(crate) fn connect(self, peer: u32) -> io::Result<Netlink> {
        connect(self.fd.as_raw_fd(), &NetlinkAddr::new(peer, 0))?;
        Ok(Netlink {
            fd: self.fd,
            port: self.id,
            peer,
        })
    }
}

/// A socket that hears one peer port only.
pub(crate) struct Netlink {
    fd: OwnedFd,
    port: u32,
    peer: u32,
}

impl Netlink {
    /// Opens a socket that never heard anyone but `peer`: the kernel names its port as it connects.
    pub(crate) fn connect(peer: u32) -> io::Result<Self> {
        let fd = open_socket()?;
        connect(fd.as_raw_fd(), &NetlinkAddr::new(peer, 0))?;
        let port = own_port(&fd)?;
        Ok(Self { fd, port, peer })
    }
}

impl Carrier for Netlink {
    fn kind(&self) -> CarrierKind {
        CarrierKind::Netlink
    }

    fn port(&self) -> u32 {
        self.port
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    fn send(&self, datagram: &[u8]) -> io::Result<()> {
        let peer = NetlinkAddr::new(self.peer, 0);
        sendto(self.fd.as_raw_fd(), datagram, &peer, MsgFlags::MSG_DONTWAIT).map_err(send_error)?;
        Ok(())
    }

    fn receive<'a>(&self, inbox: &'a mut Inbox) -> io::Result<Reception<'a>> {
        match inbox.receive(self.fd())? {
            // Came in before the socket was connected.
            Reception::Datagram(sender, _) if sender.port != self.peer => {
                Ok(Reception::Foreign("from another port"))
            }
            // Netlink has no end of file; an empty message says nothing.
            Reception::Closed => Ok(Reception::Foreign("empty")),
            reception => Ok(reception),
        }
    }
}

fn open_socket() -> io::Result<OwnedFd> {
    let fd = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        SockProtocol::NetlinkUserSock,
    )?;
    // Before the socket has an address, so that no message comes without its sender's uid.
    setsockopt(&fd, sockopt::PassCred, &true)?;
    Ok(fd)
}

fn own_port(fd: &OwnedFd) -> io::Result<u32> {
    Ok(nix::sys::socket::getsockname::<NetlinkAddr>(fd.as_raw_fd())?.pid())
}
