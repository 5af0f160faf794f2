//! Files that were written and closed, until what was written is known to be durable.
//!
//! Only then can a shape say so, and only what a shape vouches for cannot be taken away unnoticed. A
//! barrier for each file would cost more than writing it, so many share one syncfs(2), some seconds
//! later and in a thread of their own. Whoever opens such a file meanwhile gets it as it is, without
//! the barrier that opening it anew would owe.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::editions::Editions;
use crate::failure::OpError;
use crate::inode::Inode;
use crate::syncs::Syncs;

/// How long a file waits for others.
const DELAY: Duration = Duration::from_secs(5);

/// Files that wait at most, each with a descriptor; fewer where descriptors are few.
const AT_MOST: u64 = 1024;

/// Closed files that are not yet settled.
pub(crate) struct Linger {
    syncs: Arc<Syncs>,
    at_most: usize,
    state: Mutex<State>,
    changed: Condvar,
    /// What is known of closed files.
    pub(crate) editions: Editions,
}

#[derive(Default)]
struct State {
    closed: VecDeque<(Instant, Arc<Inode>)>,
    /// Files of which something waits in memory for a barrier, open or not.
    announced: VecDeque<(Instant, Weak<Inode>)>,
    /// Batches that are being settled.
    under_way: usize,
    life: Life,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Life {
    #[default]
    Going,
    Ended,
}

impl Linger {
    /// Starts the thread that settles files.
    pub(crate) fn start(syncs: Arc<Syncs>) -> std::io::Result<Arc<Self>> {
        let linger = Arc::new(Self {
            syncs,
            at_most: raise_descriptor_limit(),
            state: Mutex::default(),
            changed: Condvar::new(),
            editions: Editions::default(),
        });
        let settling = Arc::clone(&linger);
        thread::Builder::new()
            .name("settle".into())
            .spawn(move || settling.run())?;
        Ok(linger)
    }

    /// Ends the thread, without settling anything.
    pub(crate) fn end(&self) {
        self.state().life = Life::Ended;
        self.changed.notify_all();
    }

    /// Takes on a file that was written and closed. Whoever closes files faster than they are settled
    /// settles some himself.
    pub(crate) fn closed(&self, inode: Arc<Inode>) {
        let mut state = self.state();
        state.closed.push_back((Instant::now(), inode));
        let waiting = state.closed.len();
        if waiting < self.at_most {
            drop(state);
            // In between it wakes by itself, when the oldest is due.
            if waiting == 1 || waiting == self.many() {
                self.changed.notify_all();
            }
            return;
        }
        drop(self.settle(state, waiting));
    }

    /// Takes on a file of which something that was written waits in memory for a barrier (rule W3 of the
    /// native format): it is synced in a while.
    pub(crate) fn announced(&self, inode: &Arc<Inode>) {
        let mut state = self.state();
        state
            .announced
            .push_back((Instant::now(), Arc::downgrade(inode)));
        if state.announced.len() == 1 {
            self.changed.notify_all();
        }
    }

    /// Settles all files that wait, and waits for those that others settle. Returns those of its own whose
    /// last writes are lost.
    pub(crate) fn settle_all(&self) -> Vec<Arc<Inode>> {
        let state = self.state();
        let all = state.closed.len();
        let (lost, state) = self.settle(state, all);
        let others = self.changed.wait_while(state, |state| state.under_way > 0);
        drop(others.unwrap_or_else(PoisonError::into_inner));
        lost
    }

    /// Forgets all files that wait.
    pub(crate) fn clear(&self) {
        let mut state = self.state();
        state.closed.clear();
        state.announced.clear();
    }

    /// So many that they are settled before they are due: closers get ahead of a sync by as many more.
    fn many(&self) -> usize {
        self.at_most / 2
    }

    fn run(&self) {
        let mut state = self.state();
        while state.life == Life::Going {
            let now = Instant::now();
            let old = |at: &Instant| now.duration_since(*at) >= DELAY;
            let due = match state.closed.len() {
                waiting if waiting >= self.many() => waiting,
                _ => state.closed.iter().take_while(|(at, _)| old(at)).count(),
            };
            if due > 0 {
                (_, state) = self.settle(state, due);
                continue;
            }
            let due = state.announced.iter().take_while(|(at, _)| old(at));
            let due = due.count();
            if due > 0 {
                let announced: Vec<_> = state.announced.drain(..due).collect();
                drop(state);
                self.release(
                    announced
                        .into_iter()
                        .filter_map(|(_, inode)| inode.upgrade()),
                );
                state = self.state();
                continue;
            }
            let closed = state.closed.front().map(|(at, _)| *at);
            let announced = state.announced.front().map(|(at, _)| *at);
            state = match closed.into_iter().chain(announced).min() {
                None => self
                    .changed
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner),
                Some(at) => {
                    let left = (at + DELAY).saturating_duration_since(now);
                    let woken = self.changed.wait_timeout(state, left);
                    woken.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// Settles the first `count` files, with the state unlocked meanwhile. Returns those whose last writes
    /// are lost.
    fn settle<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        count: usize,
    ) -> (Vec<Arc<Inode>>, MutexGuard<'a, State>) {
        let batch = state.closed.drain(..count).map(|(_, inode)| inode);
        let batch = batch.collect();
        state.under_way += 1;
        drop(state);
        let lost = self.settle_batch(batch);
        let mut state = self.state();
        state.under_way -= 1;
        self.changed.notify_all();
        (lost, state)
    }

    /// Has files write out what they have announced. What makes them wait is done before, for all of them and
    /// while they can be used.
    fn release(&self, inodes: impl Iterator<Item = Arc<Inode>>) {
        // An error is told by the file that it is about.
        let _ = self.syncs.sync();
        for inode in inodes {
            if let Err(error) = inode.open.sync() {
                let lower = inode.shown_path();
                tracing::error!(lower, %error, "writes are not on the disk yet, and may be lost");
            }
        }
    }

    /// Settles files that nobody has opened again: what was written before the sync began is durable
    /// when it has ended.
    fn settle_batch(&self, inodes: Vec<Arc<Inode>>) -> Vec<Arc<Inode>> {
        let idle = |inode: Arc<Inode>| Some((inode.open.idle()?, inode));
        let closed: Vec<_> = inodes.into_iter().filter_map(idle).collect();
        if closed.is_empty() {
            return Vec::new();
        }
        let synced = self.syncs.sync().map_err(OpError::from);
        let mut lost = Vec::new();
        for (idle, inode) in closed {
            let settled = synced.clone().and_then(|()| inode.open.settle(&idle));
            if let Err(error) = settled {
                let lower = inode.shown_path();
                tracing::error!(lower, %error, "last writes could not be written out");
                lost.push(inode);
            }
        }
        lost
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes all the descriptors that this process may have; returns how many closed files may hold one.
fn raise_descriptor_limit() -> usize {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return 64;
    };
    let limit = match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        Ok(()) => hard,
        Err(_) => soft,
    };
    usize::try_from((limit / 4).clamp(64, AT_MOST)).unwrap_or(64)
}
