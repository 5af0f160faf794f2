//! Reads what a module answers, and sees its process off.

use std::io;
use std::net::Shutdown;
use std::process::{Child, ExitStatus};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;

use crate::host::in_flight::Addressee;
use crate::wire::{FromModule, Incoming, Polled, WireError, receive};

use super::{Asked, Death, Shared, tell};

/// Hands answers to who waits for them, until the stream ends; then sees the process off.
pub(super) struct Reader {
    pub(super) name: String,
    pub(super) incoming: Incoming<Polled>,
    pub(super) child: Child,
    /// How long the process may live without its socket.
    pub(super) grace: Duration,
    pub(super) shared: Arc<Shared>,
}

impl Reader {
    pub(super) fn read(mut self) {
        let fault = self.answers();
        let _ = self.incoming.get_ref().0.shutdown(Shutdown::Both);
        let grace = if fault.is_some() {
            Duration::ZERO
        } else {
            self.grace
        };
        self.shared.lock().end_by(Instant::now() + grace);
        self.shared.changed.notify_all();

        let pid = Pid::from_raw(self.child.id().cast_signed());
        let unreaped = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
        while waitid(Id::Pid(pid), unreaped) == Err(Errno::EINTR) {}
        // Reaped under the lock, so that the watch never kills another process of the same number.
        let mut table = self.shared.lock();
        let status = self.child.wait();
        let death = match (fault, table.killed) {
            (Some(death), _) => death,
            (None, true) => Death::Unasked("killed, since it did not end in time".into()),
            (None, false) => Death::Unasked(how_ended(status)),
        };
        if let (Death::Unasked(how), Asked::No) = (&death, table.asked) {
            tracing::warn!(module = self.name, how, "module died");
        }
        let error = death.error();
        table.death = Some(death);
        let waiters = table.in_flight.end();
        drop(table);
        self.shared.changed.notify_all();
        for done in waiters {
            tell(done, Err(error.clone()));
        }
    }

    /// Ends with why, unless that is how the process ended.
    fn answers(&mut self) -> Option<Death> {
        loop {
            match receive(&mut self.incoming) {
                Ok(FromModule::Answer { id, result }) => {
                    let addressee = self.shared.lock().in_flight.answered(id);
                    match addressee {
                        Addressee::Waiter(done) => tell(done, result),
                        // It is wiped here.
                        Addressee::Gone => {}
                        Addressee::Nobody => {
                            return Some(Death::Unasked(format!("answered call {id}, never made")));
                        }
                    }
                }
                Ok(FromModule::Refused(error)) => return Some(Death::Refused(error)),
                Err(WireError::End | WireError::Io(_)) => return None,
                Err(error) => return Some(Death::Unasked(error.to_string())),
            }
        }
    }
}

fn how_ended(status: io::Result<ExitStatus>) -> String {
    match status {
        Ok(status) => format!("ended: {status}"),
        Err(error) => format!("ended: {error}"),
    }
}
