//! What the filesystem tells the kernel unasked: forget pages, forget names.
//!
//! Never from a thread that serves requests: the kernel makes such a notification wait for requests
//! that are still to be answered, and for the write-back that it starts itself.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use fuser::{Filesystem, INodeNo, Notifier, Session};

/// The kernel's side of one mount.
#[derive(Debug)]
pub struct Kernel {
    notifier: Notifier,
    device: OwnedFd,
}

/// A name that the kernel may have cached: the directory's inode number, and the plaintext name.
pub type KnownName = (u64, OsString);

impl Kernel {
    /// The kernel's side of `session`.
    ///
    /// # Errors
    /// If no descriptor is left.
    pub fn of<F: Filesystem>(session: &Session<F>) -> io::Result<Self> {
        Ok(Self {
            notifier: session.notifier(),
            device: session.as_fd().try_clone_to_owned()?,
        })
    }

    /// Has the kernel write out and forget the pages and attributes of an inode.
    ///
    /// Blocks until requests on that inode are answered. Mapped pages are taken from their processes:
    /// the next touch reads anew, or faults with SIGBUS where the read is refused.
    ///
    /// # Errors
    /// If the mount is gone. An inode that the kernel no longer knows is none.
    pub fn forget_pages(&self, ino: u64) -> io::Result<()> {
        self.notifier.inval_inode(INodeNo(ino), 0, 0)
    }

    /// Has the kernel look up every name anew; where it cannot do so at one stroke, each of `known`.
    ///
    /// # Errors
    /// If the mount is gone.
    pub fn forget_names(&self, known: impl FnOnce() -> Vec<KnownName>) -> io::Result<()> {
        match self.increment_epoch() {
            // Before Linux 6.16.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => (),
            outcome => return outcome,
        }
        for (directory, name) in known() {
            self.notifier.inval_entry(INodeNo(directory), &name)?;
        }
        Ok(())
    }

    /// `FUSE_NOTIFY_INC_EPOCH`, which fuser 0.18 does not know: `struct fuse_out_header` alone, with
    /// the code in `error` (linux/fuse.h).
    fn increment_epoch(&self) -> io::Result<()> {
        const CODE: i32 = 8;
        const LEN: u32 = 16;
        let mut message = [0; LEN as usize];
        let (len, rest) = message.split_at_mut(4);
        let (error, _unique) = rest.split_at_mut(4);
        len.copy_from_slice(&LEN.to_ne_bytes());
        error.copy_from_slice(&CODE.to_ne_bytes());
        nix::unistd::write(self.device.as_fd(), &message)?;
        Ok(())
    }
}
