//! Watches the deadlines of the calls of one module process, and of its end.

use std::sync::{Arc, PoisonError};
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::host::in_flight::Due;
use crate::module::ModuleError;
use crate::wire::ToModule;

use super::{Shared, tell};

/// Tells callers that their time is up, and kills the process when a deadline is passed by the grace.
pub(super) struct Watch {
    pub(super) name: String,
    pub(super) pid: Pid,
    pub(super) shared: Arc<Shared>,
}

impl Watch {
    pub(super) fn watch(self) {
        let mut table = self.shared.lock();
        while table.death.is_none() && !table.killed {
            let now = Instant::now();
            let end = table.end_at.is_some_and(|at| at <= now);
            let late = match table.in_flight.due(now) {
                Due::TimedOut(late) if !end => late,
                Due::TimedOut(_) | Due::Kill => {
                    tracing::warn!(module = self.name, "module is overdue: killed");
                    table.killed = true;
                    let _ = kill(self.pid, Signal::SIGKILL);
                    break;
                }
            };
            if !late.is_empty() {
                drop(table);
                for (id, done) in late {
                    self.shared.write(&ToModule::Cancel { id });
                    tell(done, Err(ModuleError::TimedOut));
                }
                table = self.shared.lock();
                continue;
            }
            let alarm = table
                .in_flight
                .alarm()
                .into_iter()
                .chain(table.end_at)
                .min();
            table.asleep_until = alarm;
            table = match alarm {
                Some(at) => {
                    let wait = self.shared.changed.wait_timeout(table, at - now);
                    wait.unwrap_or_else(PoisonError::into_inner).0
                }
                None => {
                    let wait = self.shared.changed.wait(table);
                    wait.unwrap_or_else(PoisonError::into_inner)
                }
            };
        }
    }
}
