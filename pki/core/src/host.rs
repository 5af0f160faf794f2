//! Runs a module program and calls it.
//!
//! The program is started by the first call that needs it and lives until the host is dropped. Any
//! number of calls may be in flight; each has a deadline and can be called back. A program that dies
//! takes the calls in flight with it, as [`ModuleError::Process`], and the next call starts another.
//! One that has not answered [`HostConfig::grace`] after a deadline is killed, which is the same.

pub mod identity;
mod in_flight;
mod process;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{bounded, select};
use zeroize::Zeroizing;

pub use crate::host::in_flight::{Done, Outcome};
pub use crate::host::process::Calling;

use crate::cancel::Cancel;
use crate::host::process::{Death, Process};
use crate::module::{Decapsulate, DecryptPkcs1V15, Generate, Key, Locator, ModuleError, Token};
use crate::wire::{Answer, Call, Login, Settings};
use crate::wrap::fits;

/// Variables that a module program keeps of the environment; all others are cleared.
///
/// They say where the libraries find their tokens and files, and how they log.
pub const ENVIRONMENT: &[&str] = &[
    "DBUS_SESSION_BUS_ADDRESS",
    "DBUS_SYSTEM_BUS_ADDRESS",
    "HOME",
    "LANG",
    "OPENSC_CONF",
    "PATH",
    "PCSCLITE_CSOCK_NAME",
    "RUST_LOG",
    "SOFTHSM2_CONF",
    "TPM2_PKCS11_STORE",
    "TPM2_PKCS11_TCTI",
    "TSS2_FAPICONF",
    "TSS2_LOG",
    "XDG_CONFIG_HOME",
    "XDG_RUNTIME_DIR",
];

/// The [`HostConfig::grace`] that `docs/protocol-module.md` promises.
pub const GRACE: Duration = Duration::from_secs(5);

/// What a host needs to know of its module.
#[derive(Clone, Debug)]
pub struct HostConfig {
    /// The module's name, as in auth toks: `pkcs11`, `tpm`, `openssl`.
    pub name: String,
    /// The program.
    pub program: PathBuf,
    /// What it works with.
    pub settings: Settings,
    /// How long after a deadline it may still answer before it is killed.
    pub grace: Duration,
}

/// One module program, running or not.
#[derive(Debug)]
pub struct ModuleHost {
    config: HostConfig,
    state: Mutex<State>,
}

/// A module program that runs.
#[derive(Debug)]
pub struct Running(Arc<Process>);

#[derive(Debug, Default)]
struct State {
    process: Option<Arc<Process>>,
    restarts: u32,
}

/// What `status` shows of a module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostStatus {
    /// Process id, while it runs.
    pub pid: Option<u32>,
    /// How often it died or was killed, and had to be started again.
    pub restarts: u32,
    /// Calls that it has not answered, those included that nobody waits for any more.
    pub in_flight: usize,
}

impl ModuleHost {
    /// Starts nothing yet.
    pub fn new(config: HostConfig) -> Self {
        Self {
            config,
            state: Mutex::default(),
        }
    }

    /// The module's name.
    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// Whether it runs, and how it has done so far.
    pub fn status(&self) -> HostStatus {
        let state = self.lock();
        let running = state.process.as_ref().filter(|process| process.is_alive());
        HostStatus {
            pid: running.map(|process| process.pid()),
            restarts: state.restarts,
            in_flight: running.map_or(0, |process| process.in_flight()),
        }
    }

    /// Ends the program, if it runs; the next call starts it anew. That is no restart.
    ///
    /// Waits until it has ended: at most [`HostConfig::grace`], after which it is killed.
    pub fn stop(&self) {
        let process = self.lock().process.take();
        if let Some(process) = process {
            process.end(self.config.grace);
        }
    }

    /// Calls the module and waits for what it answers.
    ///
    /// # Errors
    /// What the module answers; [`ModuleError::TimedOut`] and [`ModuleError::Cancelled`] at once when
    /// the one or the other happens, whatever the module does; [`ModuleError::Process`].
    pub fn call(
        &self,
        call: Call,
        deadline: Instant,
        cancel: &Cancel,
    ) -> Result<Answer, ModuleError> {
        if cancel.is_cancelled() {
            return Err(ModuleError::Cancelled);
        }
        if deadline <= Instant::now() {
            return Err(ModuleError::TimedOut);
        }
        let process = self.start_or_find()?;
        let (sender, answer) = bounded(1);
        // Fails if the caller waits no more: then it is wiped here.
        let done = Box::new(move |outcome| drop(sender.try_send(outcome)));
        let calling = process.call(call, deadline, done);
        let answered = || answer.recv().unwrap_or_else(|_| Err(lost()));
        let Some(calling) = calling else {
            return answered();
        };
        select! {
            recv(answer) -> result => result.unwrap_or_else(|_| Err(lost())),
            recv(cancel.receiver()) -> _ => {
                calling.cancel();
                answered()
            }
        }
    }

    /// The program, if it runs: what may be called by somebody who must not wait, not even for another
    /// who is starting it.
    pub fn running(&self) -> Option<Running> {
        let process = self.state.try_lock().ok()?.process.clone();
        process.filter(|process| process.is_alive()).map(Running)
    }

    /// Tokens that are present now.
    ///
    /// # Errors
    /// As [`ModuleHost::call`].
    pub fn tokens(&self, deadline: Instant, cancel: &Cancel) -> Result<Vec<Token>, ModuleError> {
        match self.call(Call::Tokens, deadline, cancel)? {
            Answer::Tokens(tokens) => Ok(tokens),
            _ => Err(wrong_answer()),
        }
    }

    /// Keys that `selector` matches.
    ///
    /// # Errors
    /// As [`ModuleHost::call`].
    pub fn keys(
        &self,
        selector: &str,
        deadline: Instant,
        cancel: &Cancel,
    ) -> Result<Vec<Key>, ModuleError> {
        let selector = selector.into();
        match self.call(Call::Keys { selector }, deadline, cancel)? {
            Answer::Keys(keys) => Ok(keys),
            _ => Err(wrong_answer()),
        }
    }

    /// Makes a key pair.
    ///
    /// # Errors
    /// As [`ModuleHost::call`].
    pub fn generate(
        &self,
        order: Generate,
        deadline: Instant,
        cancel: &Cancel,
    ) -> Result<Key, ModuleError> {
        match self.call(Call::Generate(order), deadline, cancel)? {
            Answer::Key(key) => Ok(key),
            _ => Err(wrong_answer()),
        }
    }

    /// Logs in to what `locator` names.
    ///
    /// # Errors
    /// As [`ModuleHost::call`].
    pub fn login(
        &self,
        locator: &Locator,
        pin: Zeroizing<Vec<u8>>,
        deadline: Instant,
        cancel: &Cancel,
    ) -> Result<(), ModuleError> {
        let locator = locator.clone();
        match self.call(Call::Login(Login { locator, pin }), deadline, cancel)? {
            Answer::Done => Ok(()),
            _ => Err(wrong_answer()),
        }
    }

    /// Has the module forget logins and secrets; one that does not run has none.
    ///
    /// # Errors
    /// As [`ModuleHost::call`].
    pub fn logout(&self, deadline: Instant) -> Result<(), ModuleError> {
        if self.status().pid.is_none() {
            return Ok(());
        }
        match self.call(Call::Logout, deadline, &Cancel::never())? {
            Answer::Done => Ok(()),
            _ => Err(wrong_answer()),
        }
    }

    /// Does one KEM step.
    ///
    /// This is where it is made sure that no module ever sees a point off its curve.
    ///
    /// # Errors
    /// As [`ModuleHost::call`]; [`ModuleError::NotDecryptable`] at once for an encapsulation that the
    /// key cannot have.
    pub fn decapsulate(
        &self,
        call: Decapsulate,
        deadline: Instant,
        cancel: &Cancel,
    ) -> Result<Zeroizing<Vec<u8>>, ModuleError> {
        if !fits(call.kem, &call.encapsulation, &call.public_key) {
            return Err(ModuleError::NotDecryptable);
        }
        secret(self.call(Call::Decapsulate(call), deadline, cancel)?)
    }

    /// Decrypts a FEK of eCryptfs for compatibility's sake.
    ///
    /// # Errors
    /// As [`ModuleHost::call`]; [`ModuleError::NotDecryptable`] at once for a ciphertext that the key
    /// cannot have.
    pub fn decrypt_pkcs1_v15(
        &self,
        call: DecryptPkcs1V15,
        deadline: Instant,
        cancel: &Cancel,
    ) -> Result<Zeroizing<Vec<u8>>, ModuleError> {
        let len = call.public_key.key_type().encapsulation_len();
        if call.public_key.rsa().is_none() || call.ciphertext.len() != len {
            return Err(ModuleError::NotDecryptable);
        }
        match self.call(Call::DecryptPkcs1V15(call), deadline, cancel)? {
            Answer::Secret(secret) => Ok(secret),
            _ => Err(wrong_answer()),
        }
    }

    /// The process, started if there is none alive.
    fn start_or_find(&self) -> Result<Arc<Process>, ModuleError> {
        let mut state = self.lock();
        if let Some(process) = &state.process {
            match process.death() {
                None => return Ok(Arc::clone(process)),
                Some(Death::Refused(_)) => {}
                Some(Death::Unasked(_)) => state.restarts += 1,
            }
        }
        state.process = None;
        let process = Process::start(&self.config).map_err(|error| {
            let program = self.config.program.display();
            ModuleError::Process(format!("cannot start {program}: {error}"))
        })?;
        let process = Arc::new(process);
        state.process = Some(Arc::clone(&process));
        Ok(process)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ModuleHost {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Running {
    /// Calls that it has not answered, those included that nobody waits for any more.
    pub fn in_flight(&self) -> usize {
        self.0.in_flight()
    }

    /// Begins one KEM step and waits for nothing; as [`ModuleHost::decapsulate`] in all else.
    ///
    /// `done` gets what comes of it, once: on a thread of the host's, which it must not keep, or before
    /// this returns, and then there is nothing to call back.
    pub fn decapsulate(
        &self,
        call: Decapsulate,
        deadline: Instant,
        done: impl FnOnce(Result<Zeroizing<Vec<u8>>, ModuleError>) + Send + 'static,
    ) -> Option<Calling> {
        if !fits(call.kem, &call.encapsulation, &call.public_key) {
            done(Err(ModuleError::NotDecryptable));
            return None;
        }
        let done = Box::new(move |outcome: Outcome| done(outcome.and_then(secret)));
        self.0.call(Call::Decapsulate(call), deadline, done)
    }
}

fn secret(answer: Answer) -> Result<Zeroizing<Vec<u8>>, ModuleError> {
    match answer {
        Answer::Secret(secret) => Ok(secret),
        _ => Err(wrong_answer()),
    }
}

fn wrong_answer() -> ModuleError {
    ModuleError::Process("answered something that was not asked".into())
}

/// A completion that was dropped: a panic on the thread that had it.
fn lost() -> ModuleError {
    ModuleError::Process("was lost".into())
}
