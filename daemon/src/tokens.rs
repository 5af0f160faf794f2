//! Token operations with everything around them: who has the key, its PIN, a touch.
//!
//! Which module has the key is [`modules`](crate::modules)' business, the PIN [`login`](crate::login)'s.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use claviger_pki::host::ModuleHost;
use claviger_pki::module::{Decapsulate, DecryptPkcs1V15, Generate, Key, ModuleError};
use claviger_protocol::Failure;
use zeroize::Zeroizing;

use crate::config::FinalTry;
use crate::errand::Errand;
use crate::failure;
use crate::login::LastTry;
use crate::modules::{HostError, Modules, OPENSSL, Said, TPM};
use crate::pin_source::{Located, RefusedFiles};
use crate::prompt::Asker;
use crate::single_flight::SingleFlight;
use crate::touch::{Hints, InProgress};
use crate::wait::Wait;

/// A person is told of a touch at most this often.
const HINT_INTERVAL: Duration = Duration::from_secs(2);

/// The tokens, through their modules.
pub struct Tokens {
    /// The module programs.
    pub modules: Modules,
    pub(crate) logins: SingleFlight<(String, String), Result<(), Failure>>,
    pub(crate) refused: RefusedFiles,
    hints: Hints,
    told_of_touch: Arc<Mutex<Option<Instant>>>,
    pub(crate) final_try: FinalTry,
    pub(crate) operation_time: Duration,
    pub(crate) prompt_time: Duration,
}

/// What a request waits for, told to whoever made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitsFor {
    /// Somebody to enter a PIN.
    Pin,
    /// Probably a touch.
    Touch,
}

/// For whom and why a token is used.
pub struct Request {
    /// What for.
    pub errand: Errand,
    /// Whom to ask for a PIN.
    pub asker: Asker,
    /// How long all of it may take.
    pub wait: Wait,
    /// Told what it waits for.
    pub waits_for: Box<dyn Fn(WaitsFor) + Send + Sync>,
}

/// Whether a PIN may be given: if not, [`TokenError::PinNeeded`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Login {
    /// No.
    Never,
    /// From the file that the key's URI names.
    FromFile,
    /// Also by a person, but for a final try that this person would have to agree to.
    Sparing,
    /// Also that.
    IfNeeded,
}

/// What a module has said to a KEM step already.
pub type Answered = Said<Zeroizing<Vec<u8>>>;

/// A token operation failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenError {
    /// A PIN is needed, and [`Login`] does not go as far.
    PinNeeded,
    /// Anything else.
    Failed(Failure),
}

impl Tokens {
    /// Uses `modules`; one token operation may take `operation_time`, a person `prompt_time`.
    pub fn new(
        modules: Modules,
        final_try: FinalTry,
        operation_time: Duration,
        prompt_time: Duration,
    ) -> Self {
        Self {
            modules,
            logins: SingleFlight::new(),
            refused: RefusedFiles::default(),
            hints: Hints::new(),
            told_of_touch: Arc::default(),
            final_try,
            operation_time,
            prompt_time,
        }
    }

    /// Does one KEM step with the key at `call.locator` of `module`, logging in first if need be; goes on
    /// from what was `answered`, if it was [begun](crate::begun).
    ///
    /// # Errors
    /// [`TokenError`].
    pub fn decapsulate(
        &self,
        module: &str,
        call: &Decapsulate,
        login: Login,
        request: &Arc<Request>,
        mut answered: Option<Answered>,
    ) -> Result<Zeroizing<Vec<u8>>, TokenError> {
        let located = Located::parse(&call.locator.0).map_err(TokenError::Failed)?;
        let call = Decapsulate {
            locator: located.locator.clone(),
            ..call.clone()
        };
        let attempt = || {
            let wait = request.wait.shortened(self.operation_time);
            let said = answered.take();
            self.modules.call(module, &call.locator.0, said, |host| {
                let _in_progress = self.watch_for_touch(host, request);
                host.decapsulate(call.clone(), wait.deadline(), wait.cancel())
            })
        };
        self.with_login(module, &located, login, request, attempt)
    }

    /// Decrypts a FEK of eCryptfs for compatibility's sake, logging in first if need be.
    ///
    /// # Errors
    /// [`TokenError`]; which one it is, nobody else may learn.
    pub fn decrypt_pkcs1_v15(
        &self,
        module: &str,
        call: &DecryptPkcs1V15,
        login: Login,
        request: &Arc<Request>,
    ) -> Result<Zeroizing<Vec<u8>>, TokenError> {
        let located = Located::parse(&call.locator.0).map_err(TokenError::Failed)?;
        let call = DecryptPkcs1V15 {
            locator: located.locator.clone(),
            ..call.clone()
        };
        let attempt = || {
            let wait = request.wait.shortened(self.operation_time);
            self.modules.call(module, &call.locator.0, None, |host| {
                let _in_progress = self.watch_for_touch(host, request);
                host.decrypt_pkcs1_v15(call.clone(), wait.deadline(), wait.cancel())
            })
        };
        self.with_login(module, &located, login, request, attempt)
    }

    /// The keys that `selector` names, logging in first if need be.
    ///
    /// # Errors
    /// [`Failure`].
    pub fn keys(
        &self,
        module: &str,
        selector: &Located,
        request: &Arc<Request>,
    ) -> Result<Vec<Key>, Failure> {
        let attempt = || {
            let wait = request.wait.shortened(self.operation_time);
            self.modules.keys(module, &selector.locator.0, |host| {
                // What a key is good for is tried out.
                let _in_progress = self.watch_for_touch(host, request);
                host.keys(&selector.locator.0, wait.deadline(), wait.cancel())
            })
        };
        let found = self.with_login(module, selector, Login::IfNeeded, request, attempt);
        Ok(found?)
    }

    /// Makes a key pair, logging in first if need be.
    ///
    /// # Errors
    /// [`Failure`].
    pub fn generate(
        &self,
        module: &str,
        token: &Located,
        order: impl Fn() -> Generate,
        request: &Arc<Request>,
    ) -> Result<Key, Failure> {
        let attempt = || {
            // RSA-4096 in a card takes minutes.
            let wait = request.wait.shortened(Duration::from_secs(300));
            self.modules.call(module, &token.locator.0, None, |host| {
                let _in_progress = self.watch_for_touch(host, request);
                host.generate(order(), wait.deadline(), wait.cancel())
            })
        };
        let made = self.with_login(module, token, Login::IfNeeded, request, attempt);
        Ok(made?)
    }

    fn with_login<T>(
        &self,
        module: &str,
        located: &Located,
        login: Login,
        request: &Arc<Request>,
        mut attempt: impl FnMut() -> Result<T, HostError>,
    ) -> Result<T, TokenError> {
        if login == Login::FromFile && located.pin_file.is_none() {
            return Err(TokenError::PinNeeded);
        }
        // Twice: between the login and the second attempt the token may be pulled and put back.
        for _ in 0..2 {
            let since = Instant::now();
            let (host, token, state) = match attempt() {
                Ok(done) => return Ok(done),
                Err(HostError {
                    host: Some(host),
                    error: ModuleError::PinNeeded { token, state },
                }) => (host, token, state),
                Err(other) => {
                    return Err(TokenError::Failed(failure::of_module(module, other.error)));
                }
            };
            let may_log_in = match login {
                Login::Never => false,
                Login::FromFile | Login::IfNeeded => true,
                Login::Sparing => {
                    LastTry::of(state) == LastTry::No
                        || !self.may_agree_to_final_try(&request.asker)
                }
            };
            if !may_log_in {
                return Err(TokenError::PinNeeded);
            }
            self.log_in(&host, located, &token, state, since, request)
                .map_err(TokenError::Failed)?;
        }
        attempt().map_err(|other| TokenError::Failed(failure::of_module(module, other.error)))
    }

    pub(crate) fn watch_for_touch(
        &self,
        host: &ModuleHost,
        request: &Arc<Request>,
    ) -> Option<InProgress> {
        // Neither a TPM nor a file has anything to touch. And a module that does not run yet takes its time
        // to load its library, but has nobody logged in; whoever is starting it is not waited for, since this
        // is asked on callout's thread, too.
        if [TPM, OPENSSL].contains(&host.name()) || host.running().is_none() {
            return None;
        }
        let request = request.clone();
        let told = self.told_of_touch.clone();
        Some(self.hints.watch(move || {
            (request.waits_for)(WaitsFor::Touch);
            // Sixteen files opened at once want one touch each, and one word about it.
            let now = Instant::now();
            let is_due = {
                let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
                let is_due = told.is_none_or(|told| now - told > HINT_INTERVAL);
                if is_due {
                    *told = Some(now);
                }
                is_due
            };
            // Not under the lock: a terminal may take seconds not to be told.
            if is_due {
                let errand = &request.errand;
                request
                    .asker
                    .tell(&format!("The token may be waiting for a touch\n{errand}"));
            }
        }))
    }
}

impl From<TokenError> for Failure {
    fn from(error: TokenError) -> Self {
        match error {
            TokenError::Failed(failure) => failure,
            // Not said to whoever may log in; if it were, this is what it means.
            TokenError::PinNeeded => Self::NobodyToAsk { what: "PIN".into() },
        }
    }
}
