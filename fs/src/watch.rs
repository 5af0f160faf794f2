//! Watches the signals of parked callers, because the kernel frees none of them.
//!
//! Once a FUSE server has read a request, its caller sits in state D until the reply, SIGKILL or
//! not. So whoever is parked has the masks of pending signals in `/proc/TID/status` read every
//! [`PACE`], and is answered `EINTR` when one would be delivered; then the wait for the daemon is
//! called back, which sends CANCEL. A caller in a pid namespace that is not ours has no thread id
//! here (0): it waits for the reply or the deadline.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::keys::KeySource;
use crate::park::{Caller, Park};

/// Time between two looks: a signal is answered within twice that.
///
/// Nobody is looked at before he has waited as long, so that opens which the daemon answers at once,
/// nearly all of them, cost the watcher nothing.
pub const PACE: Duration = Duration::from_millis(50);

/// How long the watcher sleeps at most while nobody is parked.
const IDLE: Duration = Duration::from_secs(60);

/// The watching thread. It ends some time after this is dropped.
#[derive(Debug)]
pub struct Watch {
    ended: Arc<AtomicBool>,
}

impl Watch {
    /// Starts to watch who is in `park`; what only they waited for is called back at `keys`.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub fn start(park: Arc<Park>, keys: Arc<dyn KeySource>) -> io::Result<Self> {
        let ended = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&ended);
        thread::Builder::new().name("watch".into()).spawn(move || {
            while !seen.load(Ordering::Relaxed) {
                let newest = park.wait(IDLE);
                thread::sleep(PACE);
                interrupt_signalled(&park.callers_up_to(newest), &park, keys.as_ref());
            }
        })?;
        Ok(Self { ended })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
    }
}

fn interrupt_signalled(callers: &[Caller], park: &Park, keys: &dyn KeySource) {
    for caller in callers {
        if is_signalled(caller.pid)
            && let Some(ticket) = park.interrupt(caller.id)
        {
            keys.cancel(ticket);
        }
    }
}

/// Whether a signal waits for thread `tid` that it would have been given in an interruptible sleep.
/// No for a thread that cannot be seen.
fn is_signalled(tid: u32) -> bool {
    if tid == 0 {
        return false;
    }
    let status = fs::read_to_string(PathBuf::from(format!("/proc/{tid}/status")));
    status.is_ok_and(|text| Masks::parse(&text).is_some_and(|masks| masks.deliverable() != 0))
}

/// The signal masks of `/proc/TID/status` (proc_pid_status(5)): hexadecimal, bit 0 is signal 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Masks {
    /// Sent to the thread.
    pending: u64,
    /// Sent to its process.
    shared_pending: u64,
    blocked: u64,
    ignored: u64,
}

impl Masks {
    /// `None` unless all four are there.
    pub(crate) fn parse(status: &str) -> Option<Self> {
        let mask = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            u64::from_str_radix(line.trim(), 16).ok()
        };
        Some(Self {
            pending: mask("SigPnd:")?,
            shared_pending: mask("ShdPnd:")?,
            blocked: mask("SigBlk:")?,
            ignored: mask("SigIgn:")?,
        })
    }

    fn deliverable(self) -> u64 {
        (self.pending | self.shared_pending) & !self.blocked & !self.ignored
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Name:\tcat\nSigQ:\t1/15000\n\
        SigPnd:\t0000000000000100\nShdPnd:\t0000000000000002\n\
        SigBlk:\t0000000000000000\nSigIgn:\t0000000000001000\nSigCgt:\t0000000000000000\n";

    #[test]
    fn a_killed_thread_has_a_signal_waiting() {
        let masks = Masks::parse(STATUS).unwrap();
        // SIGKILL (9) for the thread and SIGINT (2) for the process, as seen on Linux 6.18.
        assert_eq!(masks.deliverable(), 0x102);
    }

    #[test]
    fn blocked_and_ignored_signals_interrupt_nobody() {
        let masks = Masks {
            pending: 0b0110,
            shared_pending: 0b1000,
            blocked: 0b0010,
            ignored: 0b1100,
        };
        assert_eq!(masks.deliverable(), 0);
    }

    #[test]
    fn a_status_without_all_four_masks_is_not_guessed_at() {
        for name in ["SigPnd", "ShdPnd", "SigBlk", "SigIgn"] {
            assert_eq!(Masks::parse(&STATUS.replace(name, "Other")), None, "{name}");
        }
    }

    #[test]
    fn a_thread_that_is_not_there_or_not_known_is_left_to_the_deadline() {
        assert!(!is_signalled(0));
        assert!(!is_signalled(u32::MAX));
    }
}
