//! The main loop of a module program.

use std::collections::HashMap;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::panic;
use std::process::{self, ExitCode};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::socket::{SockType, getsockopt, sockopt};

use crate::module::{Module, ModuleError};
use crate::sys;
use crate::wire::{
    Answer, Call, FromModule, Incoming, Settings, ToModule, VERSION, WireError, receive, send,
};

/// How long calls in progress may go on once the host has gone.
const LAST_CALLS: Duration = Duration::from_secs(2);

/// The whole `main` of a module program: serves on file descriptor 3 until the host closes it.
///
/// The process gives up core dumps, being traced and gaining privileges first; then `open` makes the
/// module with the settings that the host sends. A panic ends the process. To be called before
/// anything else opens files.
pub fn run<M: Module + 'static>(
    open: impl FnOnce(&Settings) -> Result<M, ModuleError>,
) -> ExitCode {
    let socket = match sys::take_module_socket() {
        Ok(socket) if getsockopt(&socket, sockopt::SockType) == Ok(SockType::Stream) => socket,
        _ => {
            eprintln!("This program is a part of Claviger that clavigerd starts when it needs it.");
            return ExitCode::from(2);
        }
    };
    if let Err(error) = confine() {
        tracing::error!(%error, "cannot give up privileges");
        return ExitCode::FAILURE;
    }
    abort_on_panic();
    match serve(socket, open) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "module protocol");
            ExitCode::FAILURE
        }
    }
}

/// A thread that is gone would answer nothing, and the host would wait for it.
fn abort_on_panic() {
    let tell = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        tell(info);
        process::abort();
    }));
}

/// Nobody of this uid may trace the process or read its memory, and it leaves none behind.
fn confine() -> nix::Result<()> {
    prctl::set_dumpable(false)?;
    prctl::set_no_new_privs()?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0)
}

/// Serves one host over `socket` until it closes its end.
///
/// Calls run on as many threads as [`Module::concurrency`] says, others queue. One whose deadline
/// passes in the queue is answered [`ModuleError::TimedOut`] without being begun, one that is called
/// back there [`ModuleError::Cancelled`]. At the end of the stream, what is in progress has two
/// seconds more; then `serve` returns, and the threads still in it are left to the end of the process.
///
/// # Errors
/// [`WireError`] if the host breaks the protocol or the socket fails.
pub fn serve<M: Module + 'static>(
    socket: OwnedFd,
    open: impl FnOnce(&Settings) -> Result<M, ModuleError>,
) -> Result<(), WireError> {
    let stream = UnixStream::from(socket);
    let outgoing = Arc::new(Outgoing(Mutex::new(stream.try_clone()?)));
    let mut incoming = Incoming::new(stream);
    let ToModule::Hello { version, settings } = receive(&mut incoming)? else {
        return Err(WireError::Malformed);
    };
    let module = match check_version(version).and_then(|()| open(&settings)) {
        Ok(module) => Arc::new(module),
        Err(error) => return outgoing.send(&FromModule::Refused(error)),
    };

    let calls = Arc::new(Calls::default());
    let (queue, waiting) = unbounded();
    let (alive, ended) = bounded(0);
    for _ in 0..module.concurrency().max(1) {
        let worker = Worker {
            module: Arc::clone(&module),
            waiting: waiting.clone(),
            calls: Arc::clone(&calls),
            outgoing: Arc::clone(&outgoing),
            _alive: alive.clone(),
        };
        thread::Builder::new()
            .name("call".into())
            .spawn(move || worker.work())?;
    }
    drop((module, waiting, alive));

    let result = read_calls(&mut incoming, &calls, &outgoing, &queue);
    drop(queue);
    calls.cancel_waiting();
    let _ = ended.recv_timeout(LAST_CALLS);
    result
}

fn check_version(version: u16) -> Result<(), ModuleError> {
    if version != VERSION {
        let what = format!("module protocol version {version}, not {VERSION}");
        return Err(ModuleError::Unsupported(what));
    }
    Ok(())
}

fn read_calls(
    incoming: &mut Incoming<UnixStream>,
    calls: &Calls,
    outgoing: &Outgoing,
    queue: &Sender<Job>,
) -> Result<(), WireError> {
    loop {
        match receive(&mut *incoming) {
            Ok(ToModule::Call { id, time_ms, call }) => {
                let deadline = Instant::now() + Duration::from_millis(time_ms.into());
                calls.lock().insert(id, State::Waiting);
                let job = Job { id, deadline, call };
                queue.send(job).expect("workers live as long as the queue");
            }
            Ok(ToModule::Cancel { id }) => {
                if calls.cancel(id) == Cancelled::Unbegun {
                    outgoing.answer(id, Err(ModuleError::Cancelled))?;
                }
            }
            Ok(ToModule::Hello { .. }) => return Err(WireError::Malformed),
            Err(WireError::End) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

struct Job {
    id: u32,
    deadline: Instant,
    call: Call,
}

/// Calls that are not answered yet.
#[derive(Default)]
struct Calls(Mutex<HashMap<u32, State>>);

#[derive(Clone, Copy)]
enum State {
    /// In the queue.
    Waiting,
    /// Some worker is at it.
    Begun,
    /// Some worker is at it, and nobody wants the result.
    CalledBack,
}

#[derive(PartialEq, Eq)]
enum Cancelled {
    /// Taken from the queue: to be answered now.
    Unbegun,
    /// Answered when it ends, or answered before.
    Later,
}

impl Calls {
    fn lock(&self) -> MutexGuard<'_, HashMap<u32, State>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the call is to be done; not if it was called back.
    fn begin(&self, id: u32) -> bool {
        match self.lock().get_mut(&id) {
            Some(state @ State::Waiting) => {
                *state = State::Begun;
                true
            }
            Some(State::Begun | State::CalledBack) | None => false,
        }
    }

    fn cancel(&self, id: u32) -> Cancelled {
        let mut calls = self.lock();
        match calls.get_mut(&id) {
            Some(State::Waiting) => {
                calls.remove(&id);
                Cancelled::Unbegun
            }
            Some(state @ (State::Begun | State::CalledBack)) => {
                *state = State::CalledBack;
                Cancelled::Later
            }
            None => Cancelled::Later,
        }
    }

    fn cancel_waiting(&self) {
        self.lock()
            .retain(|_, state| !matches!(state, State::Waiting));
    }

    /// Ends a call; what it is answered with if it was called back.
    fn end<T>(&self, id: u32, result: Result<T, ModuleError>) -> Result<T, ModuleError> {
        match self.lock().remove(&id) {
            Some(State::CalledBack) => Err(ModuleError::Cancelled),
            Some(State::Waiting | State::Begun) | None => result,
        }
    }
}

struct Outgoing(Mutex<UnixStream>);

impl Outgoing {
    fn send(&self, message: &FromModule) -> Result<(), WireError> {
        let stream = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        send(&*stream, message)
    }

    fn answer(&self, id: u32, result: Result<Answer, ModuleError>) -> Result<(), WireError> {
        match self.send(&FromModule::Answer { id, result }) {
            Err(WireError::TooLarge(_)) => {
                let error = ModuleError::Unsupported("too many keys for one answer".into());
                self.send(&FromModule::Answer {
                    id,
                    result: Err(error),
                })
            }
            sent => sent,
        }
    }
}

struct Worker<M> {
    module: Arc<M>,
    waiting: Receiver<Job>,
    calls: Arc<Calls>,
    outgoing: Arc<Outgoing>,
    /// Closes when the last worker has ended, and with it the module.
    _alive: Sender<()>,
}

impl<M: Module> Worker<M> {
    fn work(self) {
        for Job { id, deadline, call } in &self.waiting {
            if !self.calls.begin(id) {
                continue;
            }
            let result = if Instant::now() < deadline {
                perform(&*self.module, call, deadline)
            } else {
                Err(ModuleError::TimedOut)
            };
            let result = self.calls.end(id, result);
            if self.outgoing.answer(id, result).is_err() {
                // The host has gone; let the reading thread see it too.
                let stream = self.outgoing.0.lock();
                let _ = stream
                    .unwrap_or_else(PoisonError::into_inner)
                    .shutdown(Shutdown::Both);
                return;
            }
        }
    }
}

fn perform(module: &impl Module, call: Call, deadline: Instant) -> Result<Answer, ModuleError> {
    match call {
        Call::Tokens => module.tokens().map(Answer::Tokens),
        Call::Keys { selector } => module.keys(&selector).map(Answer::Keys),
        Call::Generate(order) => module.generate(&order).map(Answer::Key),
        Call::Login(login) => module
            .login(&login.locator, &login.pin)
            .map(|()| Answer::Done),
        Call::Logout => {
            module.logout();
            Ok(Answer::Done)
        }
        Call::Decapsulate(call) => module.decapsulate(&call, deadline).map(Answer::Secret),
        Call::DecryptPkcs1V15(call) => module
            .decrypt_pkcs1_v15(&call, deadline)
            .map(Answer::Secret),
    }
}
