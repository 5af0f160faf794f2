//! What the filesystem tells the kernel unasked: forget pages, forget names.
//!
//! Never from a thread that serves requests: the kernel makes such a notification wait for requests
//! that are still to be answered, and for the write-back that it starts itself.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use fuser::{Filesystem, INodeNo, Notifier, Session};

/// The kernel's side of one mount.
#[derive(Debug)]
pub struct Kernel {
    notifier: Notifier,
    device: OwnedFd,
    expiry: Expiry,
}

/// How the kernel can be made to forget names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// All of them, by one notification: Linux 6.16 and later.
    AtOnce,
    /// One by one, each by its name.
    NameByName,
}

/// A name that the kernel may have cached: the directory's inode number, and the plaintext name.
pub type KnownName = (u64, OsString);

impl Kernel {
    /// The kernel's side of `session`.
    ///
    /// # Errors
    /// If no descriptor is left.
    pub fn of<F: Filesystem>(session: &Session<F>) -> io::Result<Self> {
        // Nothing has been looked up yet: trying it out costs nothing.
        let expiry = match increment_epoch(session.as_fd()) {
            Ok(()) => Expiry::AtOnce,
            Err(_) => Expiry::NameByName,
        };
        Self::that_expires(expiry, session)
    }

    /// The same, without trying out whether the kernel can do what `expiry` says.
    ///
    /// # Errors
    /// If no descriptor is left.
    pub fn that_expires<F: Filesystem>(expiry: Expiry, session: &Session<F>) -> io::Result<Self> {
        Ok(Self {
            notifier: session.notifier(),
            device: session.as_fd().try_clone_to_owned()?,
            expiry,
        })
    }

    /// What [`Kernel::forget_names`] needs to be told.
    pub fn expiry(&self) -> Expiry {
        self.expiry
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

    /// Has the kernel look up every name anew; with [`Expiry::NameByName`], those in `known`.
    ///
    /// # Errors
    /// If the mount is gone, or one of `known` stays.
    pub fn forget_names(&self, known: &[KnownName]) -> io::Result<()> {
        match self.expiry {
            Expiry::AtOnce => increment_epoch(self.device.as_fd()),
            Expiry::NameByName => {
                let mut outcome = Ok(());
                for (dir, name) in known {
                    // One that cannot be dropped, a mountpoint say, must not keep the others.
                    if let Err(error) = self.notifier.inval_entry(INodeNo(*dir), name) {
                        outcome = Err(error);
                    }
                }
                outcome
            }
        }
    }
}

/// `FUSE_NOTIFY_INC_EPOCH`, which fuser 0.18 does not know: `struct fuse_out_header` alone, with the
/// code in `error` (linux/fuse.h). `EINVAL` from kernels that do not know it either.
fn increment_epoch(device: BorrowedFd<'_>) -> io::Result<()> {
    const CODE: i32 = 8;
    const LEN: u32 = 16;
    let mut message = [0; LEN as usize];
    let (len, rest) = message.split_at_mut(4);
    let (error, _unique) = rest.split_at_mut(4);
    len.copy_from_slice(&LEN.to_ne_bytes());
    error.copy_from_slice(&CODE.to_ne_bytes());
    nix::unistd::write(device, &message)?;
    Ok(())
}
