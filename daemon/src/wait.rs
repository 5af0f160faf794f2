//! How long something may take, and whether anybody still wants it.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use claviger_protocol::Failure;

/// How often a wait that has no wake-up of its own looks whether it was called off.
pub const TICK: Duration = Duration::from_millis(50);

/// The bounds of one wait: a deadline, and whoever asked may call it off.
#[derive(Clone)]
pub struct Wait {
    deadline: Instant,
    cancelled: Arc<dyn Fn() -> bool + Send + Sync>,
}

impl Wait {
    /// Until `deadline`, unless `cancelled` says so first.
    pub fn new(deadline: Instant, cancelled: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Self {
            deadline,
            cancelled: Arc::new(cancelled),
        }
    }

    /// For `time`, whatever happens.
    pub fn at_most(time: Duration) -> Self {
        Self::new(Instant::now() + time, || false)
    }

    /// The same, but not beyond `time` from now.
    #[must_use]
    pub fn shortened(&self, time: Duration) -> Self {
        Self {
            deadline: self.deadline.min(Instant::now() + time),
            cancelled: self.cancelled.clone(),
        }
    }

    /// When it ends.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Whether nobody wants the result any more.
    pub fn is_cancelled(&self) -> bool {
        (self.cancelled)()
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

impl fmt::Debug for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Wait({:?})", self.deadline)
    }
}
