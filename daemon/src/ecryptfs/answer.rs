//! Answering one request of the kernel's.

use std::time::{Duration, Instant};

use claviger_callout::miscdev::KernelCall;
use claviger_pki::cancel::Cancel;
use claviger_protocol::Failure;
use claviger_vault::ecryptfs::KeySig;
use zeroize::Zeroizing;

use super::message::{self, CodedFek, Question};
use super::{does_not_open, kernel_request, not_encrypted};
use crate::audit::{Event, UsedKey};
use crate::daemon::Daemon;
use crate::tokens::Login;
use crate::wait::Wait;

/// Of the kernel's patience, for what happens before a request is read and after it is answered.
const MARGIN: Duration = Duration::from_millis(250);

/// Answers it, or has it refused.
pub(super) fn answer(daemon: &Daemon, call: KernelCall) {
    let question = match Question::parse(&call.body) {
        Ok(question) => question,
        Err(error) => return tracing::warn!(%error, "the kernel asks something unknown"),
    };
    let sig = question.sig();
    let answered = match question {
        Question::Unwrap { wrapped, .. } => unwrap(daemon, sig, wrapped, call.received),
        Question::Wrap { fek, .. } => wrap(daemon, sig, &fek),
    };
    match answered {
        Ok(body) => {
            if let Err(error) = call.reply(body) {
                tracing::warn!(%sig, %error, "the kernel was not answered");
            }
        }
        // Dropped, the call is refused at once.
        Err(Failure::NobodyToAsk { what }) => {
            tracing::warn!(%sig, "the kernel was refused: {what} needed, run 'claviger ecryptfs add-key'");
        }
        Err(failure) => tracing::warn!(%sig, %failure, "the kernel was refused"),
    }
}

fn unwrap(
    daemon: &Daemon,
    sig: KeySig,
    wrapped: Vec<u8>,
    received: Instant,
) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let patience = daemon.config.kernel_patience.saturating_sub(MARGIN);
    let request = kernel_request(Wait::new(received + patience, Cancel::never()));
    let mut used = UsedKey::default();
    let result = daemon.rsa_key(sig).and_then(|key| {
        used.key_id = Some(key.enrolled.key_id().to_string());
        used.module = Some(key.module.clone());
        let opened = daemon.unwrap_session_key(&key, wrapped, Login::IfNeeded, &request)?;
        let fek = CodedFek::new(opened).ok_or_else(does_not_open)?;
        Ok(message::unwrapped(&fek))
    });
    let took = received.elapsed();
    daemon
        .audit
        .record(Event::Unwrap, &request.errand, &used, &result, took);
    result
}

fn wrap(daemon: &Daemon, sig: KeySig, fek: &CodedFek) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let wrapped = daemon.rsa_key(sig)?.wrap(fek.expose());
    wrapped
        .and_then(|wrapped| message::wrapped(&wrapped))
        .ok_or_else(not_encrypted)
}
