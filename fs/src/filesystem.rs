//! One mounted volume: what its operations share, and what locking it needs.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use claviger_protocol::Failure;
use claviger_vault::format::{Format, Tree};
use fuser::FileAttr;
use nix::errno::Errno;
use nix::sys::stat::fstat;
use nix::sys::statvfs::{Statvfs, fstatvfs};

use crate::bound::Moved;
use crate::caller::Ownership;
use crate::dircache::DirCache;
use crate::failure::{OpError, io_errno};
use crate::handles::Handles;
use crate::inode::{Inode, Inodes, Place};
use crate::keys::KeySource;
use crate::linger::Linger;
use crate::open::Handle;
use crate::options::Caching;
use crate::park::Park;
use crate::readdir::Listing;
use crate::syncs::Syncs;
use crate::unsynced::Unsynced;

/// One mounted volume.
///
/// Its operations take inode numbers and plain names and return attributes: FUSE is
/// [`Engine`](crate::fuse::Engine)'s business. Everything below is reached from one descriptor of
/// the lower root, by `*at()` calls that follow no symlink.
pub struct VolumeFs {
    pub(crate) lower: OwnedFd,
    pub(crate) lower_device: u64,
    pub(crate) format: Arc<dyn Format>,
    pub(crate) caching: Caching,
    pub(crate) keys: Arc<dyn KeySource>,
    pub(crate) ownership: Ownership,
    pub(crate) inodes: Inodes,
    pub(crate) dirs: DirCache,
    pub(crate) files: Handles<Handle>,
    pub(crate) listings: Handles<Listing>,
    pub(crate) park: Arc<Park>,
    pub(crate) syncs: Arc<Syncs>,
    pub(crate) unsynced: Unsynced,
    pub(crate) moved: Moved,
    pub(crate) linger: Arc<Linger>,
    opens: RwLock<Opens>,
}

/// Whether content may be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opens {
    Accepted,
    Refused,
}

/// What the kernel is told of an inode that it then holds a reference to.
pub(crate) struct Entry {
    pub(crate) attr: FileAttr,
    pub(crate) generation: u64,
}

impl VolumeFs {
    /// A filesystem over the lower root `lower`, a directory opened for reading. The kernel keeps
    /// decrypted pages in its page cache.
    ///
    /// # Errors
    /// Those of fstat(2); `EAGAIN` if there can be no further thread.
    pub fn new(
        lower: OwnedFd,
        format: Arc<dyn Format>,
        keys: Arc<dyn KeySource>,
    ) -> Result<Arc<Self>, Errno> {
        Self::with_caching(lower, format, keys, Caching::Kept)
    }

    /// The same, with a choice of what the kernel keeps.
    ///
    /// # Errors
    /// Those of fstat(2).
    pub fn with_caching(
        lower: OwnedFd,
        format: Arc<dyn Format>,
        keys: Arc<dyn KeySource>,
        caching: Caching,
    ) -> Result<Arc<Self>, Errno> {
        let stat = fstat(&lower)?;
        let syncs = Syncs::new(lower.try_clone().map_err(io_errno)?);
        let linger = Linger::start(Arc::clone(&syncs)).map_err(io_errno)?;
        Ok(Arc::new(Self {
            lower,
            lower_device: stat.st_dev,
            format,
            caching,
            keys,
            ownership: Ownership::of_process(),
            inodes: Inodes::new(stat.st_ino),
            dirs: DirCache::default(),
            files: Handles::default(),
            listings: Handles::default(),
            park: Park::new(),
            syncs,
            unsynced: Unsynced::default(),
            moved: Moved::default(),
            linger,
            opens: RwLock::new(Opens::Accepted),
        }))
    }

    /// The openers that wait for a key, for whoever watches their signals.
    pub fn park(&self) -> &Arc<Park> {
        &self.park
    }

    /// Numbers of all inodes that the kernel may have pages of: those that are or have been open.
    pub fn open_inodes(&self) -> Vec<u64> {
        let inodes = self.inodes.all();
        let opened = inodes.iter().filter(|inode| inode.open.has_been_open());
        opened.map(|inode| inode.ino).collect()
    }

    /// Lower paths of all files that are open, or are being closed by a lock: what is lost if it
    /// cannot wait.
    pub fn open_paths(&self) -> Vec<Vec<u8>> {
        let mut inodes = self.inodes.all();
        inodes.retain(|inode| inode.open.is_open() || inode.open.is_closing());
        inodes.iter().map(|inode| inode.lower_path()).collect()
    }

    /// Every name that the kernel may have cached, as its directory's number and the plain name.
    pub fn known_names(&self) -> Vec<(u64, OsString)> {
        let places = self
            .inodes
            .all()
            .into_iter()
            .flat_map(|inode| inode.places().clone());
        let name = |place: Place| {
            let dir = self.dir_of(&place.parent).ok()?;
            let name = dir.names.upper_name(dir.fd.as_fd(), &place.name)?.ok()?;
            Some((place.parent.ino, OsString::from_vec(name)))
        };
        places.filter_map(name).collect()
    }

    /// From now on content is opened for nobody; once this returns no open is half done.
    pub fn refuse_opens(&self) {
        *self.opens.write().unwrap_or_else(PoisonError::into_inner) = Opens::Refused;
    }

    /// Undoes [`VolumeFs::refuse_opens`].
    pub fn accept_opens(&self) {
        *self.opens.write().unwrap_or_else(PoisonError::into_inner) = Opens::Accepted;
    }

    /// Answers everyone who waits for a key with `failure`, and calls their unwraps back.
    pub fn fail_parked(&self, failure: &Failure) {
        let (waiting, tickets) = self.park.land_all();
        for ticket in tickets {
            self.keys.cancel(ticket);
        }
        for wake in waiting {
            wake(Err(failure.clone().into()));
        }
    }

    /// Numbers of the inodes that `uid` has open.
    pub fn opened_by(&self, uid: u32) -> BTreeSet<u64> {
        let mut inodes = BTreeSet::new();
        self.files.for_each(|handle| {
            if handle.uid == uid {
                inodes.insert(handle.inode().ino);
            }
        });
        inodes
    }

    /// Takes from `uid` every file that was opened for him: his handles are dead from now on.
    pub fn drop_grants(&self, uid: u32) {
        for inode in self.open_files() {
            inode.open.revoke(uid);
        }
        self.files.for_each(|handle| {
            if handle.uid == uid {
                handle.revoked.store(true, Ordering::Release);
            }
        });
    }

    /// Makes everything durable. Returns the lower paths of files whose last writes are lost.
    pub fn sync_all(&self) -> Vec<Vec<u8>> {
        let mut lost = self.linger.settle_all();
        for inode in self.open_files() {
            if let Err(error) = inode.open.sync() {
                tracing::error!(lower = inode.shown_path(), %error, "sync failed");
                lost.push(inode);
            }
        }
        match self.unsynced.sync_all(|| self.syncs.sync()) {
            Ok(()) => self.settle_moved(),
            Err(errno) => tracing::error!(%errno, "the lower filesystem does not sync"),
        }
        lost.iter().map(|inode| inode.lower_path()).collect()
    }

    /// Closes every open file for everyone: what is still open answers `ENOKEY` from now on. Whatever
    /// succeeded before is durable then, but for what [`VolumeFs::sync_all`] does besides. Returns the
    /// lower paths of files whose last writes are lost.
    pub fn close_all(&self) -> Vec<Vec<u8>> {
        let settled = self.linger.settle_all();
        let mut lost: Vec<_> = settled.iter().map(|inode| inode.lower_path()).collect();
        for inode in self.open_files() {
            if let Err(error) = inode.open.close() {
                tracing::error!(lower = %inode.shown_path(), %error, "closing lost data");
                lost.push(inode.lower_path());
            }
        }
        lost
    }

    /// Forgets all content keys and names, without waiting for anybody: what [`VolumeFs::close_all`]
    /// did not come to is lost.
    pub fn wipe(&self) {
        self.linger.clear();
        for inode in self.inodes.all() {
            inode.open.wipe();
        }
        self.dirs.clear();
    }

    /// Errno of `error`; what an administrator has to know of is logged, with the lower path.
    pub(crate) fn report(&self, op: &'static str, ino: u64, error: &OpError) -> fuser::Errno {
        if error.errno() == libc::EIO {
            let lower = match self.inodes.find(ino) {
                Some(inode) => inode.shown_path(),
                None => format!("inode {ino}"),
            };
            tracing::warn!(op, lower, %error, "refused with EIO");
        }
        fuser::Errno::from_i32(error.errno())
    }

    /// The unlocked tree, or `ENOKEY`.
    pub(crate) fn tree(&self) -> Result<Arc<dyn Tree>, OpError> {
        self.keys.tree().ok_or(OpError::LOCKED)
    }

    /// Keeps [`VolumeFs::refuse_opens`] from returning while an open is completed.
    pub(crate) fn opening(&self) -> Result<RwLockReadGuard<'_, Opens>, OpError> {
        let opens = self.opens.read().unwrap_or_else(PoisonError::into_inner);
        match *opens {
            Opens::Accepted => Ok(opens),
            Opens::Refused => Err(OpError::LOCKED),
        }
    }

    pub(crate) fn statfs(&self) -> Result<Statvfs, OpError> {
        Ok(fstatvfs(self.lower.as_fd())?)
    }

    pub(crate) fn forget(&self, ino: u64, lookups: u64) {
        self.inodes.forget(ino, lookups);
    }

    fn open_files(&self) -> Vec<Arc<Inode>> {
        let mut inodes = self.inodes.all();
        inodes.retain(|inode| inode.open.is_open());
        inodes
    }
}

impl Drop for VolumeFs {
    fn drop(&mut self) {
        self.linger.end();
    }
}
