//! Locking a mount: the order in which it forgets.
//!
//! 1. New opens are refused, and whoever waits for a key is answered.
//! 2. Every open inode has its pages written out and dropped, while its FEKs still serve that.
//! 3. Every open file is closed for good: uses of it are refused, those under way are waited for, and
//!    what they wrote is made durable. So no write that succeeded is lost between a sync and a wipe.
//! 4. FEKs, names keys and fresh files are wiped.
//! 5. Pages are dropped once more: reads that came between 2 and 3 had brought some back. Then
//!    names expire.
//!
//! Steps 2 and 3 wait for the lower filesystem, so they run in a thread of their own, and get
//! [`LIMIT`]; then the wipe comes all the same, and what was still on its way is lost, and reported.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use claviger_protocol::Failure;
use claviger_vault::dir::{self, Location};
use claviger_vault::format::Tree;
use subtle::ConstantTimeEq;

use crate::callout_keys::CalloutKeys;
use crate::filesystem::VolumeFs;
use crate::kernel::{Expiry, Kernel};
use crate::keys::KeySource;

/// Longest time until the wipe.
pub const LIMIT: Duration = Duration::from_secs(10);

/// Longest time for what comes after the wipe, when nothing can leak any more.
const AFTERWARDS: Duration = Duration::from_secs(2);

/// One mount, as far as locking it goes.
#[derive(Clone)]
pub struct Lockable {
    /// The filesystem.
    pub volume: Arc<VolumeFs>,
    /// Its keys.
    pub keys: CalloutKeys,
    /// The kernel's side of it.
    pub kernel: Arc<Kernel>,
}

impl Lockable {
    /// Locks; returns the lower paths of files whose last writes are lost.
    ///
    /// Blocks for up to [`LIMIT`] and a little more; never to be called from a thread that serves
    /// requests.
    pub fn lock(&self) -> Vec<Vec<u8>> {
        self.lock_within(LIMIT)
    }

    /// Lets go of what `uid` has been granted, while others keep the volume unlocked.
    ///
    /// The kernel forgets the pages of what he has open, or his descriptors and mappings would go on
    /// reading them: before, so that what he wrote through a mapping goes out by his own handle, and
    /// after, for what was read in between. Never to be called from a thread that serves requests.
    pub fn drop_grants(&self, uid: u32) {
        self.keys.pool().discard(uid);
        let opened = self.volume.opened_by(uid);
        self.forget_pages_within(opened.clone(), LIMIT);
        self.volume.drop_grants(uid);
        self.forget_pages_within(opened, AFTERWARDS);
    }

    fn forget_pages_within(&self, inodes: BTreeSet<u64>, limit: Duration) {
        let mount = self.clone();
        let forgetting = in_thread(move || mount.forget_pages(inodes));
        if forgetting.recv_timeout(limit).is_err() {
            tracing::warn!("the kernel is slow to forget pages");
        }
    }

    /// Checks names keys before anyone uses them: they must open the root directory, and not
    /// contradict those that are here. Whoever does not know the volume's keys cannot make any that do.
    ///
    /// # Errors
    /// Why they are refused, for the log.
    pub(crate) fn check_tree(&self, new: &dyn Tree) -> Result<(), String> {
        // What a format without names keys opens names by, the mount has named by its sig.
        let Some(new) = new.names_keys() else {
            return Ok(());
        };
        let root = dir::Record::open(&self.volume.lower, new, Location::ROOT);
        root.map_err(|error| error.to_string())?;
        let old = self.keys.tree();
        let Some(old) = old.as_ref().and_then(|old| old.names_keys()) else {
            return Ok(());
        };
        // Each may know epochs that the other does not, but not both the other's current one.
        let shared = [old.current(), new.current()]
            .into_iter()
            .filter_map(|epoch| Some((old.names_key(epoch).ok()?, new.names_key(epoch).ok()?)));
        for (ours, theirs) in shared {
            if !bool::from(ours.expose().ct_eq(theirs.expose())) {
                return Err("they contradict those of another user".into());
            }
        }
        if new.current() < old.current() {
            return Err(format!("epoch {} is over", new.current()));
        }
        Ok(())
    }

    fn lock_within(&self, limit: Duration) -> Vec<Vec<u8>> {
        let deadline = Instant::now() + limit;
        self.volume.refuse_opens();
        self.keys.pool().clear();
        self.volume.fail_parked(&Failure::Locked);
        let lost = self.write_out(deadline);
        let known = match self.kernel.expiry() {
            Expiry::AtOnce => Vec::new(),
            Expiry::NameByName => self.volume.known_names(),
        };
        drop(self.keys.set_tree(None));
        self.volume.wipe();
        let mount = self.clone();
        let forgetting = in_thread(move || {
            mount.forget_open_pages();
            mount.kernel.forget_names(&known)
        });
        match forgetting.recv_timeout(AFTERWARDS) {
            Ok(Ok(())) => (),
            Ok(Err(error)) => tracing::warn!(%error, "the kernel keeps names it has cached"),
            Err(_) => tracing::warn!("the kernel is slow to forget names and pages"),
        }
        // What operations that were under way have put back.
        self.volume.wipe();
        lost
    }

    /// Steps 2 and 3.
    fn write_out(&self, deadline: Instant) -> Vec<Vec<u8>> {
        let mount = self.clone();
        let lost = in_thread(move || {
            mount.forget_open_pages();
            let mut lost = mount.volume.close_all();
            lost.extend(mount.volume.sync_all());
            lost
        });
        let left = deadline.saturating_duration_since(Instant::now());
        match lost.recv_timeout(left) {
            Ok(lost) => lost,
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                let lost = self.volume.open_paths();
                tracing::error!(
                    files = lost.len(),
                    "locked before everything was written out"
                );
                lost
            }
        }
    }

    fn forget_open_pages(&self) {
        self.forget_pages(self.volume.open_inodes());
    }

    fn forget_pages(&self, inodes: impl IntoIterator<Item = u64>) {
        for ino in inodes {
            // ENOENT is not reported, and any other error says that the mount is gone.
            if let Err(error) = self.kernel.forget_pages(ino) {
                tracing::debug!(ino, %error, "no pages to forget");
            }
        }
    }
}

/// Runs `work` in a thread that nobody joins: it may hang on the lower filesystem.
fn in_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> mpsc::Receiver<T> {
    let (done, outcome) = mpsc::channel();
    let run = move || {
        // The receiver has gone if its time ran out.
        let _ = done.send(work());
    };
    // Without a thread the channel closes, which counts as a failure.
    let _ = thread::Builder::new().name("lock".into()).spawn(run);
    outcome
}
