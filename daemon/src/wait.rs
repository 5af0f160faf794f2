//! How long something may take, and whether anybody still wants it.

use std::time::{Duration, Instant};

use claviger_pki::cancel::Cancel;
use claviger_protocol::Failure;

/// How often a wait that has no wake-up of its own looks whether it was called off.
pub const TICK: Duration = Duration::from_millis(50);

/// The bounds of one wait: a deadline, and whoever asked may call it off.
#[derive(Clone, Debug)]
pub struct Wait {
    deadline: Instant,
    cancel: Cancel,
}

impl Wait {
    /// Until `deadline`, unless it is called off by `cancel`.
    pub fn new(deadline: Instant, cancel: Cancel) -> Self {
        Self { deadline, cancel }
    }

    /// For `time`, whatever happens.
    pub fn at_most(time: Duration) -> Self {
        Self::new(Instant::now() + time, Cancel::never())
    }

    /// The same, but not beyond `time` from now.
    #[must_use]
    pub fn shortened(&self, time: Duration) -> Self {
        Self {
            deadline: self.deadline.min(Instant::now() + time),
            cancel: self.cancel.clone(),
        }
    }

    /// When it ends.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// What calls it off.
    pub fn cancel(&self) -> &Cancel {
        &self.cancel
    }

    /// Whether nobody wants the result any more.
    pub fn is_cancelled(&self) -> bool {
        self.cancel.is_cancelled()
    }

    /// Whether to go on.
    ///
    /// # Errors
    /// [`Failure::Cancelled`], or [`Failure::TimedOut`] waiting for `what`.
    pub fn check(&self, what: &str) -> Result<(), Failure> {
        if self.is_cancelled() {
            return Err(Failure::Cancelled);
        }
        if Instant::now() >= self.deadline {
            return Err(Failure::TimedOut { what: what.into() });
        }
        Ok(())
    }

    /// The next stretch to block for before [`Wait::check`] is due, at most [`TICK`].
    pub fn stretch(&self) -> Duration {
        self.deadline
            .saturating_duration_since(Instant::now())
            .min(TICK)
    }
}
