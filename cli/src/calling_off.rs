//! Calling a command off, for commands whose reply tells what nobody tells again.
//!
//! A signal that ended this process while the daemon is at work would leave it open what the daemon has
//! done, and a recovery key would be told to nobody. So the signal is held, the daemon is told that nobody
//! wants the command any more, and what it says then counts: *cancelled*, or the reply, which is shown. The
//! signal comes when this is dropped.

use std::io;
use std::net::Shutdown;
use std::os::fd::AsFd;

use claviger_protocol::control::Conversation;
use claviger_protocol::failure::ExitCode;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signalfd::SignalFd;

use crate::Failed;
use crate::terminal::HeldSignals;

/// From now on signals call off instead of ending the process.
#[derive(Debug)]
pub(crate) struct CallingOff {
    held: HeldSignals,
    /// Can be read when one has come that would have ended it.
    ends: SignalFd,
}

impl CallingOff {
    /// Holds the signals.
    ///
    /// # Errors
    /// None in practice.
    pub(crate) fn start() -> Result<Self, Failed> {
        let start = || {
            let held = HeldSignals::hold()?;
            let ends = held.ends()?;
            Ok(Self { held, ends })
        };
        start().map_err(|error: io::Error| Failed::new(ExitCode::Internal, error.to_string()))
    }

    /// Waits until the daemon has something to say. A signal that comes before closes our end, which calls
    /// the command off; the daemon can still say what came of it.
    ///
    /// # Errors
    /// If the socket cannot be waited for.
    pub(crate) fn wait(&self, conversation: &Conversation) -> io::Result<()> {
        let of = |source| PollFd::new(source, PollFlags::POLLIN);
        let mut sources = [of(conversation.stream().as_fd()), of(self.ends.as_fd())];
        loop {
            match poll(&mut sources, PollTimeout::NONE) {
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
                Ok(_) => break,
            }
        }
        let [daemon, _] = &sources;
        if !daemon.any().unwrap_or(true) {
            // Fails only if the daemon has gone, which is what is read next.
            let _ = conversation.stream().shutdown(Shutdown::Write);
        }
        Ok(())
    }

    /// Lets signals end the process while `question` is put: the daemon does nothing until it has the answer.
    pub(crate) fn but_at<T>(&self, question: impl FnOnce() -> T) -> T {
        self.held.but_for(question)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;
    use std::sync::mpsc;
    use std::thread;

    use claviger_protocol::control::ConversationError;
    use nix::sys::signal::{Signal, raise};

    use super::*;

    #[test]
    fn a_signal_calls_the_command_off_and_what_the_daemon_says_is_still_heard() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut ours = Conversation::new(ours).unwrap();
        let mut daemon = Conversation::new(theirs).unwrap();
        let (called_off, is_called_off) = mpsc::channel();
        thread::scope(|scope| {
            let waits = scope.spawn(move || {
                let calling_off = CallingOff::start().unwrap();
                raise(Signal::SIGINT).unwrap();
                calling_off.wait(&ours).unwrap();
                called_off.send(()).unwrap();
                let said = ours.receive::<u32>();
                // Or it would come when they are let go.
                let signal = calling_off.ends.read_signal().unwrap();
                assert_eq!(signal.unwrap().ssi_signo, Signal::SIGINT as u32);
                said
            });
            is_called_off.recv().unwrap();
            let hears = daemon.receive::<u32>();
            assert!(matches!(hears, Err(ConversationError::Closed)), "{hears:?}");
            daemon.send(&7_u32).unwrap();
            assert_eq!(waits.join().unwrap().unwrap(), 7);
        });
    }
}
