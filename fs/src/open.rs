//! Open content: one [`Content`] an inode, shared by all who have been granted it.

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError, Weak};

use claviger_protocol::Failure;
use claviger_vault::format::{Content, KeysMark};
use nix::errno::Errno;
use nix::sys::stat::{FileStat, fstat};

use crate::failure::OpError;
use crate::inode::Inode;
use crate::linger::Linger;
use crate::openfile::OpenFile;

/// What a lower file is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Access {
    Read,
    Write,
}

/// What an opener wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Want {
    Read,
    Write,
    /// To write, and none of the content that is there: a file that never reached the disk will do.
    Truncated,
}

impl Want {
    pub(crate) fn access(self) -> Access {
        match self {
            Self::Read => Access::Read,
            Self::Write | Self::Truncated => Access::Write,
        }
    }
}

/// Content that is open and used by nobody, as of some moment.
pub(crate) struct Idle {
    file: Arc<OpenFile>,
    changes: u64,
}

/// Where an inode keeps its open content.
#[derive(Default)]
pub(crate) struct OpenSlot {
    opened: Mutex<Option<Opened>>,
    /// What a lock has closed, or is about to: nobody may open the lower file a second time before.
    closing: Mutex<Weak<OpenFile>>,
    has_been_open: AtomicBool,
}

/// What an opener comes with.
#[derive(Clone, Debug)]
pub(crate) enum Claim {
    /// Nothing: the file needs no key.
    NoKey,
    /// What his daemon says are the file's keys.
    Keys(KeysMark),
    /// New keys: the file is made, or made anew.
    NewFile(KeysMark),
}

struct Opened {
    file: Arc<OpenFile>,
    /// What opened it; `None` if that took no key.
    keys: Option<KeysMark>,
    /// What the lower file is open for.
    access: Access,
    uses: usize,
    /// Who has been granted it, while it is open.
    granted: HashSet<u32>,
}

/// One use of open content; the last one closes it.
pub(crate) struct OpenUse {
    inode: Arc<Inode>,
    file: Arc<OpenFile>,
}

/// What a file handle of the kernel stands for.
pub(crate) struct Handle {
    pub(crate) open: OpenUse,
    /// Who opened it.
    pub(crate) uid: u32,
    pub(crate) access: Access,
    /// The grant was taken back.
    pub(crate) revoked: AtomicBool,
}

impl Handle {
    pub(crate) fn inode(&self) -> &Arc<Inode> {
        self.open.inode()
    }

    /// The content, if it may still be used.
    pub(crate) fn file(&self) -> Result<&OpenFile, OpError> {
        if self.revoked.load(Ordering::Acquire) {
            return Err(OpError::LOCKED);
        }
        Ok(&self.open.file)
    }

    /// A use of the content to change it.
    pub(crate) fn writable(&self) -> Result<OpenUse, OpError> {
        self.file()?;
        match self.access {
            Access::Write => Ok(self.open.again()),
            Access::Read => Err(Errno::EBADF.into()),
        }
    }
}

impl OpenUse {
    /// Another use of the same.
    pub(crate) fn again(&self) -> Self {
        let mut slot = self.inode.open.lock();
        if let Some(opened) = slot
            .as_mut()
            .filter(|opened| Arc::ptr_eq(&opened.file, &self.file))
        {
            opened.uses += 1;
        }
        Self {
            inode: Arc::clone(&self.inode),
            file: Arc::clone(&self.file),
        }
    }

    pub(crate) fn inode(&self) -> &Arc<Inode> {
        &self.inode
    }

    pub(crate) fn file(&self) -> &OpenFile {
        &self.file
    }

    /// Changes the content on behalf of an application.
    pub(crate) fn change<T>(
        &self,
        work: impl FnOnce(&dyn Content) -> Result<T, OpError>,
    ) -> Result<T, OpError> {
        let done = self.file.change(work);
        if self.file.begins_to_announce() {
            self.file.linger.announced(&self.inode);
        }
        done
    }

    /// Cuts or extends the content.
    pub(crate) fn truncate(&self, size: u64) -> Result<(), OpError> {
        self.change(|content| Ok(content.truncate(size)?))
    }
}

impl Drop for OpenUse {
    fn drop(&mut self) {
        let mut slot = self.inode.open.lock();
        let Some(opened) = slot
            .as_mut()
            .filter(|opened| Arc::ptr_eq(&opened.file, &self.file))
        else {
            // Locked since: the slot is empty, or another's.
            return;
        };
        opened.uses -= 1;
        if opened.uses > 0 {
            return;
        }
        // What was only read has nothing to settle, though its permissions may have changed meanwhile.
        let settled = opened.access == Access::Read || self.file.is_settled();
        if settled || self.inode.is_gone() {
            *slot = None;
            return;
        }
        opened.granted.clear();
        drop(slot);
        self.file.linger.closed(Arc::clone(&self.inode));
    }
}

impl Claim {
    fn keys(self) -> Option<KeysMark> {
        match self {
            Self::NoKey => None,
            Self::Keys(keys) | Self::NewFile(keys) => Some(keys),
        }
    }
}

impl Opened {
    /// Refuses whoever cannot claim what is open.
    fn check(&self, uid: u32, access: Access, claim: &Claim) -> Result<(), OpError> {
        match (&self.keys, claim) {
            // He has been granted it, by another open of his that was faster.
            _ if self.granted.contains(&uid) && self.access >= access => Ok(()),
            (Some(opened), Claim::Keys(claimed)) if opened.is(claimed) => Ok(()),
            (Some(_), Claim::Keys(_)) => {
                let text = "the keys that the daemon gave are not those that the file is open by";
                Err(OpError::Damaged(text.into()))
            }
            (None, Claim::NoKey | Claim::NewFile(_)) => Ok(()),
            // Since the lower file was looked at, somebody has opened it as something else. The kernel
            // looks again.
            (None, Claim::Keys(_)) | (Some(_), Claim::NoKey | Claim::NewFile(_)) => {
                Err(Errno::ESTALE.into())
            }
        }
    }
}

impl OpenSlot {
    /// A use of the content, if it is open and `uid` has been granted it.
    pub(crate) fn granted(&self, inode: &Arc<Inode>, uid: u32, access: Access) -> Option<OpenUse> {
        let mut slot = self.lock();
        let opened = slot.as_mut()?;
        if !opened.granted.contains(&uid) || opened.access < access {
            return None;
        }
        opened.uses += 1;
        Some(OpenUse {
            inode: Arc::clone(inode),
            file: Arc::clone(&opened.file),
        })
    }

    /// Grants the content to `uid`, and opens it by `open` if nobody has. If somebody has, `open` would
    /// prove nothing of what is served, so the claim has to be to what is open: a daemon is its user's
    /// own, and may answer whatever he likes.
    pub(crate) fn grant(
        &self,
        inode: &Arc<Inode>,
        uid: u32,
        access: Access,
        linger: &Arc<Linger>,
        claim: Claim,
        open: impl FnOnce() -> Result<Box<dyn Content>, OpError>,
    ) -> Result<OpenUse, OpError> {
        let mut slot = self.lock();
        if let Some(opened) = slot.as_ref() {
            opened.check(uid, access, &claim)?;
        }
        self.has_been_open.store(true, Ordering::Relaxed);
        let opened = match slot.take() {
            Some(opened) if opened.access >= access => slot.insert(opened),
            // Open for reading only so far: nothing to write out, and its handles go on with the new.
            Some(opened) => {
                let content = open();
                let opened = slot.insert(opened);
                opened.file.replace(content?);
                opened.keys = claim.keys();
                opened.access = access;
                opened
            }
            None => {
                if self.is_closing() {
                    let text = "the file is still being written out, for a lock";
                    return Err(Failure::Busy(text.into()).into());
                }
                let file = Arc::new(OpenFile::new(open()?, Arc::clone(linger)));
                slot.insert(Opened {
                    file,
                    keys: claim.keys(),
                    access,
                    uses: 0,
                    granted: HashSet::new(),
                })
            }
        };
        opened.granted.insert(uid);
        opened.uses += 1;
        Ok(OpenUse {
            inode: Arc::clone(inode),
            file: Arc::clone(&opened.file),
        })
    }

    /// Whether somebody uses the content, or it is being opened or closed. Waits for nobody.
    pub(crate) fn is_open(&self) -> bool {
        let is_used = |opened: &Option<Opened>| opened.as_ref().is_some_and(|o| o.uses > 0);
        match self.opened.try_lock() {
            Ok(opened) => is_used(&opened),
            Err(TryLockError::Poisoned(opened)) => is_used(&opened.into_inner()),
            Err(TryLockError::WouldBlock) => true,
        }
    }

    /// The content, if it waits to be settled and nobody uses it.
    pub(crate) fn idle(&self) -> Option<Idle> {
        let slot = self.lock();
        let opened = slot.as_ref().filter(|opened| opened.uses == 0)?;
        let file = Arc::clone(&opened.file);
        let changes = file.changes_begun();
        Some(Idle { file, changes })
    }

    /// Closes content that has been idle since: what was written to it has been made durable.
    pub(crate) fn settle(&self, idle: &Idle) -> Result<(), OpError> {
        let mut slot = self.lock();
        let is_idle = |opened: &&mut Opened| {
            opened.uses == 0
                && Arc::ptr_eq(&opened.file, &idle.file)
                && opened.file.changes_begun() == idle.changes
        };
        let Some(opened) = slot.as_mut().filter(is_idle) else {
            return Ok(());
        };
        let settled = opened.file.maintain(|content| match content.settles() {
            Some(settles) => Ok(settles.made_durable()?),
            None => Ok(()),
        });
        *slot = None;
        settled
    }

    /// Closes content that nobody uses: its file is gone.
    pub(crate) fn discard_idle(&self) {
        let mut slot = self.lock();
        if slot.as_ref().is_some_and(|opened| opened.uses == 0) {
            *slot = None;
        }
    }

    /// Whether a lock has begun to close it, and is not done.
    pub(crate) fn is_closing(&self) -> bool {
        self.closing().upgrade().is_some_and(|file| file.lingers())
    }

    /// Takes back what `uid` was granted.
    pub(crate) fn revoke(&self, uid: u32) {
        if let Some(opened) = self.lock().as_mut() {
            opened.granted.remove(&uid);
        }
    }

    /// Whether the kernel may have pages of the content: it has been open.
    pub(crate) fn has_been_open(&self) -> bool {
        self.has_been_open.load(Ordering::Relaxed)
    }

    /// Makes everything durable, if it is open.
    pub(crate) fn sync(&self) -> Result<(), OpError> {
        self.file().map_or(Ok(()), |file| file.sync())
    }

    /// Closes it for everyone, whose handles answer `ENOKEY` from now on; all that was written before
    /// is durable then. Waits for whatever is under way.
    ///
    /// # Errors
    /// If writes are lost.
    pub(crate) fn close(&self) -> Result<(), OpError> {
        let file = self.lock().take().map(|opened| self.hand_to_lock(opened));
        file.map_or(Ok(()), |file| file.close())
    }

    /// The same without waiting, and without writing: what [`OpenSlot::close`] did not come to is lost.
    pub(crate) fn wipe(&self) {
        if let Ok(mut opened) = self.opened.try_lock()
            && let Some(opened) = opened.take()
        {
            self.hand_to_lock(opened);
        }
        if let Some(file) = self.closing().upgrade() {
            file.wipe();
        }
    }

    fn hand_to_lock(&self, opened: Opened) -> Arc<OpenFile> {
        *self.closing() = Arc::downgrade(&opened.file);
        opened.file
    }

    fn closing(&self) -> MutexGuard<'_, Weak<OpenFile>> {
        self.closing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Size of the content, if it is open.
    pub(crate) fn size(&self) -> Option<u64> {
        self.file()?.with(|content| Ok(content.size())).ok()
    }

    /// Attributes of the lower file, if it is open.
    pub(crate) fn stat(&self) -> Option<Result<FileStat, OpError>> {
        let file = self.file()?;
        Some(file.with(|content| Ok(fstat(content.as_fd())?)))
    }

    /// A descriptor of the lower file, if it is open.
    pub(crate) fn lower(&self) -> Result<Option<OwnedFd>, OpError> {
        let clone = |content: &dyn Content| {
            let clone = content.as_fd().try_clone_to_owned();
            clone.map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)).into())
        };
        self.file().map(|file| file.with(clone)).transpose()
    }

    /// The content, if it is open.
    pub(crate) fn file(&self) -> Option<Arc<OpenFile>> {
        self.lock().as_ref().map(|opened| Arc::clone(&opened.file))
    }

    fn lock(&self) -> MutexGuard<'_, Option<Opened>> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
