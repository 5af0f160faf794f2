//! Syncs of the lower filesystem as a whole, and what was made since.
//!
//! One also makes durable what nobody has asked for: whatever was made before it counts as synced.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use claviger_vault::native::Synced;
use nix::errno::Errno;
use nix::unistd::syncfs;

/// How long what is new counts as never synced. What is older Linux writes to the disk by itself
/// (`vm.dirty_expire_centisecs`), and tells nobody.
const YOUNG: Duration = Duration::from_secs(30);

/// The only way here to sync everything: what is made asks how many times that was done.
pub(crate) struct Syncs {
    lower: OwnedFd,
    /// Goes up when one begins, and again when it has ended: what is made meanwhile may be in it.
    turns: AtomicU64,
}

/// When something was made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Made {
    at: Instant,
    turn: u64,
}

impl Syncs {
    /// Those of the filesystem that `lower` is on.
    pub(crate) fn new(lower: OwnedFd) -> Arc<Self> {
        Arc::new(Self {
            lower,
            turns: AtomicU64::new(0),
        })
    }

    /// Makes durable what was written before.
    pub(crate) fn sync(&self) -> Result<(), Errno> {
        self.turns.fetch_add(1, Ordering::SeqCst);
        let synced = syncfs(&self.lower);
        self.turns.fetch_add(1, Ordering::SeqCst);
        synced
    }

    /// The moment of making something, asked for before any of it is written.
    pub(crate) fn now(&self) -> Made {
        Made {
            at: Instant::now(),
            turn: self.turns.load(Ordering::SeqCst),
        }
    }

    /// Whether what was made then can be on the disk although nobody has asked for it.
    pub(crate) fn since(&self, made: Made) -> Synced {
        if made.turn == self.turns.load(Ordering::SeqCst) && made.at.elapsed() < YOUNG {
            Synced::Never
        } else {
            Synced::Maybe
        }
    }
}

#[cfg(test)]
impl Made {
    /// The same, so long ago that Linux has written it out.
    pub(crate) fn long_ago(self) -> Self {
        let at = self.at.checked_sub(YOUNG);
        Self {
            at: at.expect("the machine has been up for longer"),
            ..self
        }
    }
}
