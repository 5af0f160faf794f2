//! One question on the controlling terminal, of which nothing is left however it ends.
//!
//! Not by rpassword: that waits for Enter whatever happens meanwhile, while the daemon may give up waiting,
//! and other requests have to be told of. SIGINT and the like are held up for as long as the question is
//! there: the terminal is put in order first, and the process ends of the signal then.
//! (`docs/decisions/075-questions-on-a-terminal.md`.)

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};

use claviger_protocol::Secret;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

/// Longest line that a terminal gives: `N_TTY_BUF_SIZE` in Linux `drivers/tty/n_tty.c`.
const LINE_MAX: usize = 4096;

/// What ends a program at a terminal.
const ENDS: [Signal; 4] = [
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGQUIT,
];

/// Whether what is typed shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Echo {
    /// As the terminal is set.
    Shown,
    /// It does not.
    Hidden,
}

/// A question that stands on the terminal. Dropped, the terminal is as before, and what was typed and not
/// read is gone: half a PIN is no command for the shell.
#[derive(Debug)]
pub(crate) struct Question {
    tty: File,
    text: String,
    echo: Echo,
    before: Termios,
    held: HeldSignals,
    /// Can be read when one has come.
    signals: SignalFd,
    /// Whether the cursor stands behind the question.
    standing: bool,
}

/// What came first.
#[derive(Debug)]
pub(crate) enum Event {
    /// A line; `None` at the end of the input (Ctrl-D).
    Line(Option<Secret>),
    /// The other descriptor can be read.
    Other,
}

/// Whether this process has a controlling terminal.
pub(crate) fn is_there() -> bool {
    open().is_ok()
}

fn open() -> io::Result<File> {
    File::options().read(true).write(true).open("/dev/tty")
}

impl Question {
    /// Shows `text` and takes what is typed from now on.
    ///
    /// # Errors
    /// If there is no terminal.
    pub(crate) fn put(text: String, echo: Echo) -> io::Result<Self> {
        let tty = open()?;
        let before = tcgetattr(&tty)?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let mut question = Self {
            held: HeldSignals::hold()?,
            signals: SignalFd::with_flags(&HeldSignals::which(), flags)?,
            tty,
            text,
            echo,
            before,
            standing: false,
        };
        question.show()?;
        Ok(question)
    }

    /// Waits for a line, or until `other` can be read.
    ///
    /// # Errors
    /// If the terminal cannot be read.
    pub(crate) fn wait(&mut self, other: Option<BorrowedFd<'_>>) -> io::Result<Event> {
        loop {
            match self.first(other)? {
                Source::Signal => self.take_signal()?,
                Source::Other => return Ok(Event::Other),
                Source::Terminal => return self.line().map(Event::Line),
            }
        }
    }

    /// Writes something above the question.
    ///
    /// # Errors
    /// If the terminal cannot be written.
    pub(crate) fn say(&self, text: &str) -> io::Result<()> {
        (&self.tty).write_all(format!("\n{text}\n{}", self.text).as_bytes())
    }

    fn show(&mut self) -> io::Result<()> {
        if self.echo == Echo::Hidden {
            let mut hidden = self.before.clone();
            hidden
                .local_flags
                .remove(LocalFlags::ECHO | LocalFlags::ECHONL);
            // What was typed before the question was seen, and showed, is no answer to it.
            tcsetattr(&self.tty, SetArg::TCSAFLUSH, &hidden)?;
        }
        self.standing = true;
        self.tty.write_all(self.text.as_bytes())
    }

    fn put_away(&mut self) {
        let _ = tcsetattr(&self.tty, SetArg::TCSAFLUSH, &self.before);
        if self.standing {
            let _ = self.tty.write_all(b"\n");
            self.standing = false;
        }
    }

    fn first(&self, other: Option<BorrowedFd<'_>>) -> io::Result<Source> {
        let of = |source| PollFd::new(source, PollFlags::POLLIN);
        let sources = [
            (Source::Signal, Some(self.signals.as_fd())),
            (Source::Other, other),
            (Source::Terminal, Some(self.tty.as_fd())),
        ];
        let (sources, mut polled): (Vec<_>, Vec<_>) = sources
            .into_iter()
            .filter_map(|(source, fd)| Some((source, of(fd?))))
            .unzip();
        loop {
            match poll(&mut polled, PollTimeout::NONE) {
                Err(Errno::EINTR) => continue,
                Err(errno) => return Err(errno.into()),
                Ok(_) => {}
            }
            let ready = |polled: &PollFd<'_>| polled.any().unwrap_or(true);
            if let Some(first) = polled.iter().position(ready) {
                return Ok(sources[first]);
            }
        }
    }

    /// Lets a signal that came do what it does, with the terminal in order; after one that stopped the
    /// process, or did nothing, the question is asked anew.
    fn take_signal(&mut self) -> io::Result<()> {
        self.put_away();
        self.held.let_through()?;
        self.show()
    }

    fn line(&mut self) -> io::Result<Option<Secret>> {
        let mut line = Zeroizing::new(vec![0; LINE_MAX]);
        let read = self.tty.read(&mut line)?;
        line.truncate(read);
        // The Enter that ended it went to the next line, where it showed.
        self.standing = self.echo == Echo::Hidden || line.is_empty();
        if line.is_empty() {
            return Ok(None);
        }
        if line.last() == Some(&b'\n') {
            line.pop();
        }
        Ok(Some(Secret::new(std::mem::take(&mut *line))))
    }
}

impl Drop for Question {
    fn drop(&mut self) {
        // A signal that came last ends the process when `held` is dropped, which is after this.
        self.put_away();
    }
}

#[derive(Clone, Copy, Debug)]
enum Source {
    Signal,
    Other,
    Terminal,
}

/// SIGINT and what else ends or stops a program at a terminal, held up in this thread; dropped, they come.
///
/// In a process of several threads all others have to hold them too, or they do not wait.
#[derive(Debug)]
pub(crate) struct HeldSignals {
    before: SigSet,
}

impl HeldSignals {
    /// Holds them from now on.
    ///
    /// # Errors
    /// None in practice.
    pub(crate) fn hold() -> io::Result<Self> {
        let before = Self::which().thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
        Ok(Self { before })
    }

    /// The same for those alone that end the process: Ctrl-Z stops it.
    ///
    /// # Errors
    /// None in practice.
    pub(crate) fn hold_ends() -> io::Result<Self> {
        let ends: SigSet = ENDS.into_iter().collect();
        let before = ends.thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
        Ok(Self { before })
    }

    /// The mask of this thread as it was before: for a thread that shall not hold them.
    pub(crate) fn before(&self) -> SigSet {
        self.before
    }

    /// Can be read when one has come that would end the process.
    ///
    /// # Errors
    /// None in practice.
    pub(crate) fn ends(&self) -> io::Result<SignalFd> {
        let ends = ENDS.into_iter().collect();
        Ok(SignalFd::with_flags(&ends, SfdFlags::SFD_CLOEXEC)?)
    }

    /// Does not hold them during `work`: those that have come do what they do before it.
    pub(crate) fn but_for<T>(&self, work: impl FnOnce() -> T) -> T {
        let _ = self.before.thread_set_mask();
        let done = work();
        let _ = Self::which().thread_block();
        done
    }

    fn which() -> SigSet {
        ENDS.into_iter().chain([Signal::SIGTSTP]).collect()
    }

    /// Lets those that have come do what they do, which is to end the process, or to stop it for a while.
    fn let_through(&self) -> io::Result<()> {
        self.before.thread_set_mask()?;
        Self::which().thread_block()?;
        Ok(())
    }
}

impl Drop for HeldSignals {
    fn drop(&mut self) {
        let _ = self.before.thread_set_mask();
    }
}
