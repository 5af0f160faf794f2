//! Descriptors of lower directories: at most a few hundred, whatever the kernel holds.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};

use claviger_vault::format::Folder;

use crate::inode::Inode;

/// Descriptors kept at most. Operations under way hold theirs beyond that.
const KEPT: usize = 512;

/// A lower directory that can be worked in: its record has been read and its place checked.
pub(crate) struct Dir {
    /// An `O_PATH` descriptor: a directory may be searched by whom it may not be read by.
    pub(crate) fd: OwnedFd,
    /// Its names; knows its id.
    pub(crate) names: Box<dyn Folder>,
}

/// Where an inode keeps its [`Dir`]: with the inode, so that a number used again finds no old one.
#[derive(Default)]
pub(crate) struct DirSlot {
    dir: RwLock<Option<Arc<Dir>>>,
    used: AtomicBool,
}

/// Which inodes have a [`Dir`], oldest first; those used since get a second chance.
#[derive(Default)]
pub(crate) struct DirCache {
    queue: Mutex<VecDeque<Weak<Inode>>>,
}

impl DirSlot {
    pub(crate) fn find(&self) -> Option<Arc<Dir>> {
        self.used.store(true, Ordering::Relaxed);
        self.dir
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn set(&self, dir: Option<Arc<Dir>>) -> Option<Arc<Dir>> {
        let mut slot = self.dir.write().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut slot, dir)
    }
}

impl DirCache {
    /// Keeps `dir` for `inode`, and lets go of one not used for long if there are too many.
    pub(crate) fn keep(&self, inode: &Arc<Inode>, dir: Dir) -> Arc<Dir> {
        let dir = Arc::new(dir);
        if inode.dir.set(Some(Arc::clone(&dir))).is_some() {
            return dir;
        }
        let mut queue = self.queue();
        queue.push_back(Arc::downgrade(inode));
        while queue.len() > KEPT {
            let Some(oldest) = queue.pop_front() else {
                break;
            };
            let Some(oldest) = oldest.upgrade() else {
                continue;
            };
            if oldest.dir.used.swap(false, Ordering::Relaxed) {
                queue.push_back(Arc::downgrade(&oldest));
            } else {
                oldest.dir.set(None);
            }
        }
        dir
    }

    /// Lets go of all of them, and with them of the names keys they hold.
    pub(crate) fn clear(&self) {
        for inode in self.queue().drain(..).filter_map(|inode| inode.upgrade()) {
            inode.dir.set(None);
        }
    }

    fn queue(&self) -> MutexGuard<'_, VecDeque<Weak<Inode>>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
