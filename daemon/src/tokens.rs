//! Token operations with everything around them: who has the key, its PIN, a touch.
//!
//! A PIN is asked for once for all that wait for the same token, sent once, and forgotten; one that the
//! token refused ends the requests that waited for it. Unless a person at a terminal was told and agreed,
//! nothing is sent when one more wrong PIN would block the token.

use std::sync::Arc;
use std::time::Duration;

use claviger_pki::host::ModuleHost;
use claviger_pki::module::{Decapsulate, Locator, ModuleError, PinState};
use claviger_protocol::Failure;
use claviger_protocol::control::PromptKind;
use zeroize::Zeroizing;

use crate::config::FinalTry;
use crate::errand::Errand;
use crate::failure;
use crate::modules::{HostError, Modules, OPENSSL, PKCS11};
use crate::pin_source::{Located, RefusedFiles};
use crate::prompt::{Asker, Question};
use crate::single_flight::{Outcome, SingleFlight};
use crate::touch::{Hints, InProgress};
use crate::wait::Wait;

/// The tokens, through their modules.
pub struct Tokens {
    /// The module programs.
    pub modules: Modules,
    logins: SingleFlight<(String, String), Result<(), Failure>>,
    refused: RefusedFiles,
    hints: Hints,
    final_try: FinalTry,
    operation_time: Duration,
    prompt_time: Duration,
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

/// Whether a PIN may be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Login {
    /// Yes.
    IfNeeded,
    /// No: [`TokenError::PinNeeded`].
    Never,
}

/// A token operation failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenError {
    /// A PIN is needed, and [`Login::Never`] was said.
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
            final_try,
            operation_time,
            prompt_time,
        }
    }

    /// Does one KEM step with the key at `call.locator` of `module`, logging in first if need be.
    ///
    /// # Errors
    /// [`TokenError`].
    pub fn decapsulate(
        &self,
        module: &str,
        call: &Decapsulate,
        login: Login,
        request: &Arc<Request>,
    ) -> Result<Zeroizing<Vec<u8>>, TokenError> {
        let located = Located::parse(&call.locator.0).map_err(TokenError::Failed)?;
        let call = Decapsulate {
            locator: located.locator.clone(),
            ..call.clone()
        };
        let attempt = || {
            let wait = request.wait.shortened(self.operation_time);
            let _in_progress = self.watch_for_touch(module, request);
            self.modules.call(module, &call.locator.0, |host| {
                host.decapsulate(call.clone(), wait.deadline(), wait.cancel())
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
    ) -> Result<Vec<claviger_pki::module::Key>, Failure> {
        let attempt = || {
            let wait = request.wait.shortened(self.operation_time);
            self.modules.keys(module, &selector.locator.0, &wait)
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
        order: impl Fn() -> claviger_pki::module::Generate,
        request: &Arc<Request>,
    ) -> Result<claviger_pki::module::Key, Failure> {
        let attempt = || {
            // RSA-4096 in a card takes minutes.
            let wait = request.wait.shortened(Duration::from_secs(300));
            self.modules.call(module, &token.locator.0, |host| {
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
        attempt: impl Fn() -> Result<T, HostError>,
    ) -> Result<T, TokenError> {
        // Twice: between the login and the second attempt the token may be pulled and put back.
        for _ in 0..2 {
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
            if login == Login::Never {
                return Err(TokenError::PinNeeded);
            }
            self.log_in(&host, located, &token, state, request)
                .map_err(TokenError::Failed)?;
        }
        attempt().map_err(|other| TokenError::Failed(failure::of_module(module, other.error)))
    }

    /// Logs in, or waits for whoever is at it for the same token.
    fn log_in(
        &self,
        host: &Arc<ModuleHost>,
        located: &Located,
        token: &str,
        state: PinState,
        request: &Arc<Request>,
    ) -> Result<(), Failure> {
        let place = (host.name().to_owned(), token.to_owned());
        loop {
            let work = || self.log_in_now(host, located, token, state, request);
            match self.logins.run(&place, &request.wait, work) {
                Outcome::Led(result) => return result,
                // That was about the one who asked, not about the token.
                Outcome::Joined(Err(Failure::Cancelled | Failure::TimedOut { .. })) => {
                    request.wait.check(&format!("PIN of {token}"))?;
                }
                Outcome::Joined(result) => return result,
                Outcome::GaveUp(failure) => return Err(failure),
            }
        }
    }

    fn log_in_now(
        &self,
        host: &Arc<ModuleHost>,
        located: &Located,
        token: &str,
        state: PinState,
        request: &Arc<Request>,
    ) -> Result<(), Failure> {
        let last = match state {
            PinState::Blocked => return Err(blocked(token)),
            PinState::FinalTry | PinState::TriesLeft(0 | 1) => LastTry::Yes,
            PinState::NotNeeded | PinState::Ok | PinState::TriesLeft(_) => LastTry::No,
        };
        let Some(file) = &located.pin_file else {
            let pin = self.ask(host.name(), token, state, last, request)?;
            let locator = match last {
                LastTry::Yes => agreed_to_final_try(host.name(), &located.locator),
                LastTry::No => located.locator.clone(),
            };
            return self.send(host, &locator, pin, &request.wait);
        };
        if last == LastTry::Yes {
            return Err(blocked(token));
        }
        let (pin, read) = self.refused.read(file)?;
        let sent = self.send(host, &located.locator, pin, &request.wait);
        if matches!(
            sent,
            Err(Failure::PinWrong { .. } | Failure::PinBlocked { .. })
        ) {
            self.refused.refused(file, read);
        }
        sent
    }

    fn ask(
        &self,
        module: &str,
        token: &str,
        state: PinState,
        last: LastTry,
        request: &Arc<Request>,
    ) -> Result<Zeroizing<Vec<u8>>, Failure> {
        let (kind, noun) = match module {
            OPENSSL => (PromptKind::Passphrase, "Passphrase"),
            _ => (PromptKind::Pin, "PIN"),
        };
        let subject = format!("{noun} of {token}");
        let wait = request.wait.shortened(self.prompt_time);
        let errand = &request.errand;
        if last == LastTry::Yes {
            let at_terminal = matches!(&request.asker, Asker::Terminal(_));
            if !at_terminal || self.final_try == FinalTry::Never {
                return Err(blocked(token));
            }
            let text = format!(
                "{subject}\n{errand}\nThis is the FINAL TRY: a wrong {noun} blocks the token. Go on?"
            );
            let confirm = Question {
                kind: PromptKind::Confirm,
                subject: subject.clone(),
                text,
            };
            request.asker.ask(&confirm, &wait)?;
        }
        let tries = match failure::tries_left(state) {
            Some(1) => "\n1 try left".into(),
            Some(tries) => format!("\n{tries} tries left"),
            None => String::new(),
        };
        (request.waits_for)(WaitsFor::Pin);
        let text = format!("{subject}\n{errand}{tries}");
        request.asker.ask(
            &Question {
                kind,
                subject,
                text,
            },
            &wait,
        )
    }

    fn watch_for_touch(&self, module: &str, request: &Arc<Request>) -> Option<InProgress> {
        if module != PKCS11 {
            return None;
        }
        let request = request.clone();
        Some(self.hints.watch(move || {
            (request.waits_for)(WaitsFor::Touch);
            let text = format!("Touch the token if it blinks: {}", request.errand);
            request.asker.tell(&text);
        }))
    }

    fn send(
        &self,
        host: &ModuleHost,
        locator: &Locator,
        pin: Zeroizing<Vec<u8>>,
        wait: &Wait,
    ) -> Result<(), Failure> {
        let wait = wait.shortened(self.operation_time);
        let sent = host.login(locator, pin, wait.deadline(), wait.cancel());
        sent.map_err(|error| failure::of_module(host.name(), error))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LastTry {
    Yes,
    No,
}

/// Tells the PKCS#11 module that the person was told and wants it; it refuses by itself otherwise.
fn agreed_to_final_try(module: &str, locator: &Locator) -> Locator {
    if module != PKCS11 {
        return locator.clone();
    }
    let mark = if locator.0.contains('?') { '&' } else { '?' };
    Locator(format!("{}{mark}final-try=allow", locator.0))
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

fn blocked(token: &str) -> Failure {
    Failure::PinBlocked {
        token: token.into(),
    }
}
