//! Shows how far a migration is, and listens for signals that end it.

use std::cell::Cell;
use std::io;
use std::time::Duration;

use claviger_protocol::failure::ExitCode;
use indicatif::{ProgressBar, ProgressStyle};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::Failed;
use crate::migrate::{Phase, Tally, Watch};

/// Shows how far a migration is, and ends it at SIGINT, SIGTERM or SIGHUP.
pub(super) struct Looking {
    signals: SignalFd,
    bar: ProgressBar,
    asked: Cell<bool>,
}

impl Looking {
    /// From here on the signals do not end this process: what it has mounted is to be unmounted.
    pub(super) fn begin() -> Result<Self, Failed> {
        let signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]);
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        let blocked = signals.thread_block();
        let signals = blocked.and_then(|()| SignalFd::with_flags(&signals, flags));
        let signals = signals.map_err(|errno| {
            Failed::new(
                ExitCode::Internal,
                format!("signals: {}", io::Error::from(errno)),
            )
        })?;
        // Shown on a terminal only.
        let bar = ProgressBar::new(0);
        bar.enable_steady_tick(Duration::from_millis(100));
        Ok(Self {
            signals,
            bar,
            asked: Cell::new(false),
        })
    }

    /// Clears what was shown.
    pub(super) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

impl Watch for Looking {
    fn begins(&self, phase: Phase, whole: Tally) {
        let counting = phase == Phase::Counting || whole == Tally::default();
        let template = match counting {
            true => "{spinner} {msg} ({elapsed})",
            false => "{msg} {wide_bar} {bytes} of {total_bytes}, {eta} left",
        };
        let style = ProgressStyle::with_template(template);
        self.bar
            .set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        self.bar.set_length(whole.bytes);
        self.bar.reset();
        self.bar.set_message(match phase {
            Phase::Counting => "counting".to_owned(),
            Phase::Copying => format!("copying {} files", whole.files),
            Phase::Comparing => "reading back and comparing".to_owned(),
        });
    }

    fn done(&self, bytes: u64) {
        self.bar.inc(bytes);
    }

    fn wants_to_stop(&self) -> bool {
        if let Ok(Some(_)) = self.signals.read_signal() {
            self.asked.set(true);
        }
        self.asked.get()
    }
}
