//! The kernel as requester: eCryptfs' own daemon protocol on `/dev/ecryptfs`.
//!
//! It is the ancestor of this crate's protocol, and can less: whoever opens the device is registered for
//! his effective uid, there is no handshake, nothing is encrypted, and nobody can tell the kernel that an
//! answer will take longer. It waits [`PATIENCE`] and then fails the file operation, so what cannot be
//! answered in time is better refused at once: a [`KernelCall`] that is dropped does that. What the bodies
//! mean is for the [`KernelService`]; `docs/protocol-ecryptfs.md` describes all of it.

pub mod packet;

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use crate::foreign;
use crate::poll::{Bell, Poll, Source};
use crate::sys;
use crate::wipe::{Kept, wipe};
use packet::{Place, RESPONSE_MAX};

/// Where the kernel has the device.
pub const DEVICE: &str = "/dev/ecryptfs";

/// How long the kernel waits for an answer, unless the module was loaded with another
/// `ecryptfs_message_wait_timeout`.
pub const PATIENCE: Duration = Duration::from_secs(3);

/// More than the largest request: 547 bytes, around a FEK wrapped to an RSA-4096 key.
const PACKET_MAX: usize = 4096;

/// What answers the kernel. Called on the responder's thread: return quickly, and let others work.
pub trait KernelService: Send + Sync {
    /// Takes one request.
    fn call(&self, call: KernelCall);
}

/// Answers the kernel for one user, until dropped.
pub struct KernelResponder {
    bell: Bell,
    thread: Option<JoinHandle<()>>,
}

/// Why the device cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// It is not there.
    #[error(
        "there is no {DEVICE}: the module ecryptfs is not loaded, or was built without messaging"
    )]
    Absent,
    /// It is there for others: root only, unless a udev rule says otherwise.
    #[error("this user may not open {DEVICE}")]
    Denied,
    /// Another daemon of this user has it open.
    #[error("another program of this user serves {DEVICE}")]
    Taken,
    /// The kernel refused in another way.
    #[error("{DEVICE} cannot be used")]
    Io(#[from] io::Error),
}

/// Why an answer did not reach the kernel.
#[derive(Debug, thiserror::Error)]
pub enum ReplyError {
    /// A body above [`RESPONSE_MAX`]; the request was refused instead.
    #[error("an answer of {0} bytes is too large for the kernel")]
    TooLarge(usize),
    /// It does not wait any more.
    #[error("the kernel no longer waits for this answer")]
    Late,
    /// The device failed.
    #[error("{DEVICE} cannot be written")]
    Io(#[from] io::Error),
}

/// Opens the device, which registers this process for its effective uid.
///
/// # Errors
/// [`DeviceError`].
pub fn open(path: &Path) -> Result<OwnedFd, DeviceError> {
    let opened = OpenOptions::new().read(true).write(true).open(path);
    opened.map(OwnedFd::from).map_err(|error| {
        match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => DeviceError::Absent,
            Some(libc::EACCES | libc::EPERM) => DeviceError::Denied,
            // miscdev.c, ecryptfs_miscdev_open: the uid has a daemon already.
            Some(libc::EINVAL | libc::EBUSY) => DeviceError::Taken,
            _ => DeviceError::Io(error),
        }
    })
}

/// Opens the device for another uid than this process's: for root only.
///
/// # Errors
/// [`DeviceError`].
pub fn open_for(path: &Path, uid: u32) -> Result<OwnedFd, DeviceError> {
    let open_as_uid = || {
        sys::open_files_as(uid)?;
        open(path)
    };
    // A thread of its own, since it does not get its identity back.
    thread::scope(|scope| scope.spawn(open_as_uid).join())
        .unwrap_or_else(|_| Err(io::Error::other("a thread panicked").into()))
}

impl KernelResponder {
    /// Serves what [`open`] gave, or a descriptor that somebody else opened.
    ///
    /// # Errors
    /// If there is no thread for it.
    pub fn start(device: OwnedFd, service: Arc<dyn KernelService>) -> io::Result<Self> {
        let device = Arc::new(File::from(device));
        let bell = Bell::new()?;
        let poll = Poll::new()?;
        poll.watch(&bell, Source::Bell)?;
        poll.watch(&*device, Source::Device)?;
        let serve = move || serve(&device, poll, &*service);
        let thread = thread::Builder::new()
            .name("callout-kernel".to_owned())
            .spawn(serve)?;
        Ok(Self {
            bell,
            thread: Some(thread),
        })
    }

    /// Whether it still serves: the device may have failed.
    pub fn serves(&self) -> bool {
        self.thread
            .as_ref()
            .is_some_and(|thread| !thread.is_finished())
    }
}

impl Drop for KernelResponder {
    fn drop(&mut self) {
        self.bell.ring();
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != thread::current().id()
            && thread.join().is_err()
        {
            tracing::error!("the thread that answers the kernel panicked");
        }
    }
}

fn serve(device: &Arc<File>, poll: Poll, service: &dyn KernelService) {
    let mut buffer = Zeroizing::new(vec![0; PACKET_MAX]);
    loop {
        let ready = match poll.wait(None) {
            Ok(ready) => ready,
            Err(error) => return tracing::error!(%error, "waiting for the kernel"),
        };
        if ready.contains(&Source::Bell) {
            return;
        }
        if !ready.contains(&Source::Device) {
            continue;
        }
        // One thread reads: what made the device readable is still there, and this does not block.
        let len = match device.as_ref().read(&mut buffer) {
            // Nothing, to the kernel, means that the packet does not fit; it would stay for ever.
            Ok(0) => {
                return tracing::error!("{DEVICE} has a packet that is too large, or was closed");
            }
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return tracing::error!(%error, "reading from {DEVICE}"),
        };
        let (packet, _) = buffer.split_at_mut(len);
        match packet::parse_request(packet) {
            Ok((place, body)) => {
                let call = KernelCall {
                    body: Zeroizing::new(body.to_vec()),
                    received: Instant::now(),
                    place,
                    answer: Answer::Due,
                    device: Arc::clone(device),
                };
                foreign::run("a service of the kernel", || service.call(call));
            }
            Err(error) => tracing::warn!(%error, "nothing to answer"),
        }
        zeroize::Zeroize::zeroize(packet);
    }
}

/// One request of the kernel's. Dropped without an answer, it is refused at once.
pub struct KernelCall {
    /// What it asks.
    pub body: Zeroizing<Vec<u8>>,
    /// When it was read. The kernel's patience began earlier, by as long as it was in the queue.
    pub received: Instant,
    place: Place,
    answer: Answer,
    device: Arc<File>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Answer {
    Due,
    Given,
}

impl KernelCall {
    /// Answers.
    ///
    /// # Errors
    /// [`ReplyError`]; the kernel then fails the file operation, if it has not done so yet.
    pub fn reply(mut self, body: Zeroizing<Vec<u8>>) -> Result<(), ReplyError> {
        let body = Kept::new(body);
        if body.len() > RESPONSE_MAX {
            return Err(ReplyError::TooLarge(body.len()));
        }
        self.respond(&body)
    }

    fn respond(&mut self, body: &[u8]) -> Result<(), ReplyError> {
        self.answer = Answer::Given;
        let Some(packet) = packet::response(self.place, body) else {
            return Err(ReplyError::TooLarge(body.len()));
        };
        let packet = Kept::new(Zeroizing::new(packet));
        match self.device.as_ref().write(&packet) {
            Ok(_) => Ok(()),
            // No such context, not pending, or another counter by now.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Err(ReplyError::Late),
            Err(error) => Err(error.into()),
        }
    }
}

impl Drop for KernelCall {
    fn drop(&mut self) {
        wipe(&mut self.body);
        if self.answer == Answer::Due {
            // An empty body is no answer to any question: the kernel takes it and fails the operation.
            if let Err(error) = self.respond(&[]) {
                tracing::warn!(%error, "a request of the kernel could not be refused");
            }
        }
    }
}

impl fmt::Debug for KernelCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let body = format_args!("{} bytes", self.body.len());
        f.debug_struct("KernelCall")
            .field("place", &self.place)
            .field("body", &body)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
