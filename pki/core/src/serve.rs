//! The main loop of a module program.

use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::panic;
use std::process::{self, ExitCode};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, bounded};
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::socket::{SockType, getsockopt, sockopt};

use crate::module::{Module, ModuleError};
use crate::serve::calls::{CalledBack, Calls, Job};
use crate::sys;
use crate::wire::{
    Answer, Call, FromModule, Incoming, Polled, Settings, ToModule, VERSION, WireError, receive,
    send,
};

mod calls;

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
    let mut incoming = Incoming::new(Polled(stream));
    let ToModule::Hello { version, settings } = receive(&mut incoming)? else {
        return Err(WireError::Malformed);
    };
    let module = match check_version(version).and_then(|()| open(&settings)) {
        Ok(module) => Arc::new(module),
        Err(error) => return outgoing.send(&FromModule::Refused(error)),
    };

    let calls = Arc::new(Calls::default());
    let workers = module.concurrency().max(1);
    let (alive, ended) = bounded(0);
    for _ in 0..workers {
        let worker = Worker {
            module: Arc::clone(&module),
            calls: Arc::clone(&calls),
            outgoing: Arc::clone(&outgoing),
            _alive: alive.clone(),
        };
        thread::Builder::new()
            .name("call".into())
            .spawn(move || worker.work())?;
    }
    drop((module, alive));

    let result = read_calls(&mut incoming, &calls, &outgoing, workers);
    calls.close();
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
    incoming: &mut Incoming<Polled>,
    calls: &Calls,
    outgoing: &Outgoing,
    workers: usize,
) -> Result<(), WireError> {
    loop {
        if incoming.is_drained() {
            // Whoever ends a call has another to go on with.
            calls.rest(workers);
        }
        match receive(&mut *incoming) {
            Ok(ToModule::Call { id, time_ms, call }) => {
                let deadline = Instant::now() + Duration::from_millis(time_ms.into());
                calls.add(Job { id, deadline, call });
            }
            Ok(ToModule::Cancel { id }) => {
                if calls.call_back(id) == CalledBack::Unbegun {
                    outgoing.answer(id, Err(ModuleError::Cancelled))?;
                }
            }
            Ok(ToModule::Hello { .. }) => return Err(WireError::Malformed),
            Err(WireError::End) => return Ok(()),
            Err(error) => return Err(error),
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
    calls: Arc<Calls>,
    outgoing: Arc<Outgoing>,
    /// Closes when the last worker has ended, and with it the module.
    _alive: Sender<()>,
}

impl<M: Module> Worker<M> {
    fn work(self) {
        while let Some(Job { id, deadline, call }) = self.calls.begin() {
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
