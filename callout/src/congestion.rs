//! Links whose peer has no room, and when to try them again.
//!
//! By the clock, on either carrier: poll(2) calls a netlink socket writable whenever its *own* buffer
//! has room, whatever the receiver's.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::link::{Flushed, Link, LinkId};

const FIRST_WAIT: Duration = Duration::from_millis(1);
const LONGEST_WAIT: Duration = Duration::from_millis(64);

/// The congested links of one thread.
#[derive(Default)]
pub(crate) struct Congestion {
    links: Vec<Arc<Link>>,
    wait: Duration,
    retry_at: Option<Instant>,
}

impl Congestion {
    /// Takes care of links until what waits on them is out.
    pub(crate) fn add(&mut self, links: Vec<Arc<Link>>, now: Instant) {
        for link in links {
            if !self.links.iter().any(|known| known.id() == link.id()) {
                self.links.push(link);
            }
        }
        if !self.links.is_empty() && self.retry_at.is_none() {
            self.wait = FIRST_WAIT;
            self.retry_at = Some(now + self.wait);
        }
    }

    /// When to call [`Self::retry`].
    pub(crate) fn retry_at(&self) -> Option<Instant> {
        self.retry_at
    }

    /// Tries again if it is time; gives the links whose peer is gone.
    pub(crate) fn retry(&mut self, now: Instant) -> Vec<LinkId> {
        if self.retry_at.is_none_or(|at| now < at) {
            return Vec::new();
        }
        let mut lost = Vec::new();
        let mut moved = false;
        self.links.retain(|link| match link.flush() {
            Ok(Flushed::All) => false,
            Ok(Flushed::Part) => {
                moved = true;
                true
            }
            Ok(Flushed::Nothing) => true,
            Err(_) => {
                lost.push(link.id());
                false
            }
        });
        self.wait = match moved {
            true => FIRST_WAIT,
            false => (self.wait * 2).min(LONGEST_WAIT),
        };
        self.retry_at = (!self.links.is_empty()).then(|| now + self.wait);
        lost
    }
}
