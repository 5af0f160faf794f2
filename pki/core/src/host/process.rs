//! One run of a module program: its socket, its calls in flight, its end.

use std::collections::HashMap;
use std::io;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;

use crate::host::{ENVIRONMENT, HostConfig};
use crate::module::ModuleError;
use crate::sys;
use crate::wire::{Answer, Call, FromModule, ToModule, VERSION, WireError, receive, send};

type Outcome = Result<Answer, ModuleError>;

/// How long a module may leave its socket unread before a send to it fails.
const UNREAD: Duration = Duration::from_secs(1);

/// A running module program.
#[derive(Debug)]
pub(super) struct Process {
    pid: u32,
    outgoing: Mutex<UnixStream>,
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Shared {
    table: Mutex<Table>,
    /// Told when the earliest [`Table::kill_at`] or [`Table::death`] may have changed.
    changed: Condvar,
}

#[derive(Debug)]
struct Table {
    next_id: u32,
    in_flight: HashMap<u32, InFlight>,
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

#[derive(Debug)]
struct InFlight {
    /// Closed if the caller waits no more.
    answer: Sender<Outcome>,
    /// When to kill the process if this has not been answered.
    kill_at: Instant,
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

        let shared = Arc::new(Shared {
            table: Mutex::new(Table {
                next_id: 0,
                in_flight: HashMap::new(),
                end_at: None,
                killed: false,
                asked: Asked::No,
                death: None,
            }),
            changed: Condvar::new(),
        });
        let reader = Reader {
            name: config.name.clone(),
            incoming: ours.try_clone()?,
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
            outgoing: Mutex::new(ours),
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
        process.write(&ToModule::Hello {
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

    /// What a call gets that the process took with it.
    pub(super) fn died(&self) -> ModuleError {
        match self.death() {
            Some(Death::Refused(error)) => error,
            Some(Death::Unasked(how)) => ModuleError::Process(how),
            None => ModuleError::Process("was stopped".into()),
        }
    }

    /// Sends a call; the channel closes without an answer if the process dies first.
    pub(super) fn send(
        &self,
        call: Call,
        left: Duration,
        grace: Duration,
    ) -> Result<(u32, Receiver<Outcome>), ModuleError> {
        let (sender, answer) = bounded(1);
        let id = {
            let mut table = self.shared.lock();
            if table.death.is_some() {
                drop(table);
                return Err(self.died());
            }
            let id = table.free_id();
            let kill_at = Instant::now() + left + grace;
            let in_flight = InFlight {
                answer: sender,
                kill_at,
            };
            table.in_flight.insert(id, in_flight);
            id
        };
        self.shared.changed.notify_all();
        let time_ms = u32::try_from(left.as_millis()).unwrap_or(u32::MAX).max(1);
        self.write(&ToModule::Call { id, time_ms, call });
        Ok((id, answer))
    }

    /// Tells that nobody waits for `id`; the module must answer it all the same.
    pub(super) fn cancel(&self, id: u32) {
        self.write(&ToModule::Cancel { id });
    }

    /// Has the program end and waits until it has, at most `grace`.
    pub(super) fn end(&self, grace: Duration) {
        {
            let mut table = self.shared.lock();
            table.asked = Asked::Yes;
            table.end_by(Instant::now() + grace);
        }
        self.shared.changed.notify_all();
        let _ = self.outgoing().shutdown(Shutdown::Write);
        let threads =
            std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            let _ = thread.join();
        }
    }

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
}

impl Drop for Process {
    /// For one that died by itself, this only joins its threads.
    fn drop(&mut self) {
        self.end(Duration::ZERO);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn free_id(&mut self) -> u32 {
        while self.in_flight.contains_key(&self.next_id) {
            self.next_id = self.next_id.wrapping_add(1);
        }
        let id = self.next_id;
        self.next_id = id.wrapping_add(1);
        id
    }

    fn end_by(&mut self, at: Instant) {
        self.end_at = Some(self.end_at.map_or(at, |before| before.min(at)));
    }

    fn kill_at(&self) -> Option<Instant> {
        let calls = self.in_flight.values().map(|call| call.kill_at);
        calls.chain(self.end_at).min()
    }
}

/// Hands answers to who waits for them, until the stream ends; then sees the process off.
struct Reader {
    name: String,
    incoming: UnixStream,
    child: Child,
    /// How long the process may live without its socket.
    grace: Duration,
    shared: Arc<Shared>,
}

impl Reader {
    fn read(mut self) {
        let fault = self.answers();
        let _ = self.incoming.shutdown(Shutdown::Both);
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
        table.death = Some(death);
        table.in_flight.clear();
        drop(table);
        self.shared.changed.notify_all();
    }

    /// Ends with why, unless that is how the process ended.
    fn answers(&self) -> Option<Death> {
        loop {
            match receive(&self.incoming) {
                Ok(FromModule::Answer { id, result }) => {
                    let in_flight = self.shared.lock().in_flight.remove(&id);
                    let Some(in_flight) = in_flight else {
                        return Some(Death::Unasked(format!("answered call {id}, never made")));
                    };
                    // Fails if the caller waits no more: then it is wiped here.
                    let _ = in_flight.answer.try_send(result);
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

/// Kills the process when a deadline is passed by the grace.
struct Watch {
    name: String,
    pid: Pid,
    shared: Arc<Shared>,
}

impl Watch {
    fn watch(self) {
        let mut table = self.shared.lock();
        while table.death.is_none() && !table.killed {
            let now = Instant::now();
            table = match table.kill_at() {
                Some(at) if at <= now => {
                    tracing::warn!(module = self.name, "module is overdue: killed");
                    table.killed = true;
                    let _ = kill(self.pid, Signal::SIGKILL);
                    table
                }
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
