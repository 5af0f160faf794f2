//! What the kernel's file handles stand for.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use fuser::FileHandle;

const SHARDS: usize = 16;

/// Open handles of one sort. Sharded, and only read on the way of a read or a write.
pub(crate) struct Handles<T> {
    next: AtomicU64,
    shards: [RwLock<HashMap<u64, Arc<T>>>; SHARDS],
}

impl<T> Default for Handles<T> {
    fn default() -> Self {
        Self { next: AtomicU64::new(1), shards: std::array::from_fn(|_| RwLock::default()) }
    }
}

impl<T> Handles<T> {
    /// Gives `value` a handle. A number is never used twice.
    pub(crate) fn insert(&self, value: T) -> FileHandle {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let mut shard = self.shard(number).write().unwrap_or_else(PoisonError::into_inner);
        shard.insert(number, Arc::new(value));
        FileHandle(number)
    }

    /// What a handle stands for.
    pub(crate) fn find(&self, handle: FileHandle) -> Option<Arc<T>> {
        let shard = self.shard(handle.0).read().unwrap_or_else(PoisonError::into_inner);
        shard.get(&handle.0).map(Arc::clone)
    }

    /// Takes a handle back.
    pub(crate) fn remove(&self, handle: FileHandle) -> Option<Arc<T>> {
        let mut shard = self.shard(handle.0).write().unwrap_or_else(PoisonError::into_inner);
        shard.remove(&handle.0)
    }

    /// Shows every value that has a handle now.
    pub(crate) fn for_each(&self, mut visit: impl FnMut(&T)) {
        for shard in &self.shards {
            let shard = shard.read().unwrap_or_else(PoisonError::into_inner);
            shard.values().for_each(|value| visit(value));
        }
    }

    fn shard(&self, number: u64) -> &RwLock<HashMap<u64, Arc<T>>> {
        &self.shards[number as usize % SHARDS]
    }
}
