//! Logging in to a token: once for all who wait for it.
//!
//! A PIN comes from the file that the key's URI names, or from a person. It is sent once and forgotten;
//! one that the token refused ends the requests that waited for it. Unless a person at a terminal was
//! told and agreed, nothing is sent when one more wrong PIN would block the token: lines of a descriptor
//! agree to nothing.

use std::sync::Arc;
use std::time::Instant;

use claviger_pki::host::ModuleHost;
use claviger_pki::module::{Locator, PinState};
use claviger_protocol::Failure;
use claviger_protocol::control::{Answers, PromptKind};
use zeroize::Zeroizing;

use crate::config::FinalTry;
use crate::failure;
use crate::modules::{OPENSSL, PKCS11};
use crate::pin_source::Located;
use crate::prompt::{Asker, Question};
use crate::single_flight::Outcome;
use crate::tokens::{Request, Tokens, WaitsFor};
use crate::wait::Wait;

impl Tokens {
    /// Logs in, or waits for whoever is at it for the same token, which was found locked at `since`.
    pub(crate) fn log_in(
        &self,
        host: &Arc<ModuleHost>,
        located: &Located,
        token: &str,
        state: PinState,
        mut since: Instant,
        request: &Arc<Request>,
    ) -> Result<(), Failure> {
        let place = (host.name().to_owned(), token.to_owned());
        loop {
            let work = || self.log_in_now(host, located, token, state, request);
            match self.logins.run(&place, since, &request.wait, work) {
                Outcome::Led(result) => return result,
                Outcome::Joined(Err(failure)) if is_about_who_led(&failure, &request.asker) => {
                    request.wait.check(&format!("PIN of {token}"))?;
                    since = Instant::now();
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
        if state == PinState::Blocked {
            return Err(blocked(token));
        }
        let last = LastTry::of(state);
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
            if !self.may_agree_to_final_try(&request.asker) {
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

    /// Whether somebody is there whom the last try may be offered.
    pub(crate) fn may_agree_to_final_try(&self, asker: &Asker) -> bool {
        self.final_try == FinalTry::Ask && asker.cli_answers() == Some(Answers::Terminal)
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

/// Whether a wrong PIN would block the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LastTry {
    /// It would.
    Yes,
    /// It would not.
    No,
}

impl LastTry {
    /// For a PIN in this state.
    pub(crate) fn of(state: PinState) -> Self {
        match state {
            PinState::FinalTry | PinState::TriesLeft(0 | 1) => Self::Yes,
            PinState::NotNeeded | PinState::Ok | PinState::TriesLeft(_) | PinState::Blocked => {
                Self::No
            }
        }
    }
}

/// Whether another's failure says nothing of how this request would fare: he gave up, or he said no or had
/// nobody to ask where this one has a CLI of its own.
fn is_about_who_led(failure: &Failure, asker: &Asker) -> bool {
    match failure {
        Failure::Cancelled | Failure::TimedOut { .. } => true,
        Failure::NobodyToAsk { .. } => asker.cli_answers().is_some(),
        Failure::PinBlocked { .. } => asker.cli_answers() == Some(Answers::Terminal),
        // Not one that is attached: sixteen files opened at once are one no.
        Failure::Declined => matches!(asker, Asker::Terminal(_)),
        _ => false,
    }
}

/// Tells the PKCS#11 module that the person was told and wants it; it refuses by itself otherwise.
fn agreed_to_final_try(module: &str, locator: &Locator) -> Locator {
    if module != PKCS11 {
        return locator.clone();
    }
    let mark = if locator.0.contains('?') { '&' } else { '?' };
    Locator(format!("{}{mark}final-try=allow", locator.0))
}

fn blocked(token: &str) -> Failure {
    Failure::PinBlocked {
        token: token.into(),
    }
}
