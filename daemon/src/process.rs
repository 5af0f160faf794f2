//! What the daemon does to its own process before it holds anything worth stealing.

use std::io;

use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, pthread_sigmask};
use nix::sys::stat::{Mode, umask};

/// Makes the process undumpable and private; to be called before any thread starts.
///
/// Another process of the same user can then neither ptrace it nor read `/proc/PID/mem`, `environ`
/// or `exe`, and a crash leaves no core file.
///
/// # Errors
/// If the kernel refuses any of it: then nothing secret may be loaded.
pub fn harden() -> io::Result<()> {
    umask(Mode::S_IRWXG | Mode::S_IRWXO);
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    prctl::set_dumpable(false)?;
    Ok(())
}

/// Signals that end the daemon, blocked in every thread and taken by one: [`EndSignals::wait`].
pub struct EndSignals(SigSet);

impl EndSignals {
    /// Blocks them in this thread and all that it starts later; to be called before any thread starts.
    ///
    /// # Errors
    /// None in practice.
    pub fn block() -> io::Result<Self> {
        let mut signals = SigSet::empty();
        for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
            signals.add(signal);
        }
        pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&signals), None)?;
        Ok(Self(signals))
    }

    /// Waits for one of them.
    ///
    /// # Errors
    /// None in practice.
    pub fn wait(&self) -> io::Result<Signal> {
        Ok(self.0.wait()?)
    }
}

/// Ends this process as SIGTERM does, from any of its threads.
///
/// # Errors
/// None in practice.
pub fn end() -> io::Result<()> {
    nix::sys::signal::kill(nix::unistd::getpid(), Signal::SIGTERM)?;
    Ok(())
}
