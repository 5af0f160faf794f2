//! One run of a module program: its socket, its calls in flight, its end.

use std::io;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::unistd::Pid;

use crate::host::in_flight::{Done, InFlight, Outcome};
use crate::host::{ENVIRONMENT, HostConfig};
use crate::module::ModuleError;
use crate::sys;
use crate::wire::{Call, Incoming, Polled, ToModule, VERSION, send};

mod reader;
mod watch;

use reader::Reader;
use watch::Watch;

/// How long a module may leave its socket unread before a send to it fails.
const UNREAD: Duration = Duration::from_secs(1);

/// A running module program.
#[derive(Debug)]
pub(super) struct Process {
    pid: u32,
    grace: Duration,
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Shared {
    outgoing: Mutex<UnixStream>,
    table: Mutex<Table>,
    /// Told when the watch would sleep too long.
    changed: Condvar,
}

#[derive(Debug)]
struct Table {
    in_flight: InFlight,
    /// Until when the watch sleeps, if it need not be told before; it is often past, and then the watch
    /// finds nothing to do and sleeps anew: cheaper than telling it of every call.
    asleep_until: Option<Instant>,
    /// When to kill it although nothing is in flight.
    end_at: Option<Instant>,
    /// The watch has killed it.
    killed: bool,
    asked: Asked,
    death: Option<Death>,
}

/// Whether the process was asked to end.
#[derive(Clone, Copy, Debug)]
enum Asked {
    No,
    Yes,
}

/// A call that was made: calls it back.
#[derive(Debug)]
pub struct Calling {
    shared: Arc<Shared>,
    id: u32,
}

/// How a process ended.
#[derive(Clone, Debug)]
pub(super) enum Death {
    /// It said that it cannot work, and why.
    Refused(ModuleError),
    /// It crashed, was killed, broke the protocol or closed its socket.
    Unasked(String),
}

impl Process {
    /// Starts the program and sends it the settings.
    pub(super) fn start(config: &HostConfig) -> io::Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_write_timeout(Some(UNREAD))?;
        let mut command = Command::new(&config.program);
        command
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        for name in ENVIRONMENT {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        // Ctrl-C in the terminal of a daemon in the foreground is the daemon's business.
        command.process_group(0);
        sys::pass_socket(&mut command, OwnedFd::from(theirs));
        let child = command.spawn()?;
        // Its end of the socketpair closes here, so that its death is seen as the end of the stream.
        drop(command);
        let pid = child.id();
        tracing::info!(module = config.name, pid, "module started");

        let incoming = Incoming::new(Polled(ours.try_clone()?));
        let shared = Arc::new(Shared {
            outgoing: Mutex::new(ours),
            table: Mutex::new(Table {
                in_flight: InFlight::default(),
                asleep_until: None,
                end_at: None,
                killed: false,
                asked: Asked::No,
                death: None,
            }),
            changed: Condvar::new(),
        });
        let reader = Reader {
            name: config.name.clone(),
            incoming,
            child,
            grace: config.grace,
            shared: Arc::clone(&shared),
        };
        let watch = Watch {
            name: config.name.clone(),
            pid: Pid::from_raw(pid.cast_signed()),
            shared: Arc::clone(&shared),
        };
        let process = Self {
            pid,
            grace: config.grace,
            shared,
            threads: Mutex::new(vec![
                thread::Builder::new()
                    .name("module reader".into())
                    .spawn(move || reader.read())?,
                thread::Builder::new()
                    .name("module watch".into())
                    .spawn(move || watch.watch())?,
            ]),
        };
        process.shared.write(&ToModule::Hello {
            version: VERSION,
            settings: config.settings.clone(),
        });
        Ok(process)
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    pub(super) fn is_alive(&self) -> bool {
        self.shared.lock().death.is_none()
    }

    pub(super) fn in_flight(&self) -> usize {
        self.shared.lock().in_flight.len()
    }

    pub(super) fn death(&self) -> Option<Death> {
        self.shared.lock().death.clone()
    }

    /// Makes a call. `done` gets what comes of it, once: on a thread of this process's, or before this
    /// returns.
    pub(super) fn call(&self, call: Call, deadline: Instant, done: Done) -> Option<Calling> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            done(Err(ModuleError::TimedOut));
            return None;
        }
        let mut table = self.shared.lock();
        if let Some(death) = &table.death {
            let error = death.error();
            drop(table);
            done(Err(error));
            return None;
        }
        let id = table.in_flight.add(done, deadline, self.grace);
        let too_long = table.asleep_until.is_none_or(|until| deadline < until);
        drop(table);
        if too_long {
            self.shared.changed.notify_all();
        }
        let time_ms = u32::try_from(left.as_millis()).unwrap_or(u32::MAX).max(1);
        self.shared.write(&ToModule::Call { id, time_ms, call });
        Some(Calling {
            shared: Arc::clone(&self.shared),
            id,
        })
    }

    /// Has the program end and waits until it has, at most `grace`.
    pub(super) fn end(&self, grace: Duration) {
        {
            let mut table = self.shared.lock();
            table.asked = Asked::Yes;
            table.end_by(Instant::now() + grace);
        }
        self.shared.changed.notify_all();
        let _ = self.shared.outgoing().shutdown(Shutdown::Write);
        let threads =
            std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            // A completion may have let go of the last reference, and then this is one of them.
            if thread.thread().id() != thread::current().id() {
                let _ = thread.join();
            }
        }
    }
}

impl Calling {
    /// Nobody waits any more: unless it has its outcome, that is [`ModuleError::Cancelled`]. The module
    /// is told, and must answer all the same.
    pub fn cancel(&self) {
        let done = self.shared.lock().in_flight.give_up(self.id);
        if let Some(done) = done {
            self.shared.write(&ToModule::Cancel { id: self.id });
            done(Err(ModuleError::Cancelled));
        }
    }
}

impl Drop for Process {
    /// For one that died by itself, this only joins its threads.
    fn drop(&mut self) {
        self.end(Duration::ZERO);
    }
}

impl Shared {
    /// A failure needs no answer here: the socket is closed, and the reader sees the rest.
    fn write(&self, message: &ToModule) {
        let stream = self.outgoing();
        if send(&*stream, message).is_err() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    fn outgoing(&self) -> MutexGuard<'_, UnixStream> {
        self.outgoing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn end_by(&mut self, at: Instant) {
        self.end_at = Some(self.end_at.map_or(at, |before| before.min(at)));
    }
}

impl Death {
    /// What a call gets that the process took with it.
    fn error(&self) -> ModuleError {
        match self {
            Self::Refused(error) => error.clone(),
            Self::Unasked(how) => ModuleError::Process(how.clone()),
        }
    }
}

/// Runs a completion, which may panic: the panic hook tells of it, and the thread goes on for the others.
fn tell(done: Done, outcome: Outcome) {
    let _ = catch_unwind(AssertUnwindSafe(|| done(outcome)));
}
