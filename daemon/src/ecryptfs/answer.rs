//! Answering one request of the kernel's.

use std::time::{Duration, Instant};

use claviger_callout::miscdev::KernelCall;
use claviger_pki::cancel::Cancel;
use claviger_pki::oaep;
use claviger_protocol::Failure;
use claviger_vault::ecryptfs::KeySig;
use zeroize::Zeroizing;

use super::message::{self, CodedFek, Question};
use super::{kernel_request, not_encrypted};
use crate::audit::{Event, UsedKey};
use crate::daemon::Daemon;
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
    let result = daemon
        .usable_kernel_key(sig)
        .and_then(|(key, module, locator)| {
            used.key_id = Some(key.key_id().to_string());
            used.module = Some(module.clone());
            if wrapped.len() != key.public_key.key_type().encapsulation_len() {
                return Err(does_not_open());
            }
            let opened = daemon.open_for_kernel(&key, &module, &locator, wrapped, &request)?;
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
    let (key, ..) = daemon.usable_kernel_key(sig)?;
    let wrapped = oaep::encrypt_sha1(&key.public_key, fek.expose());
    wrapped
        .and_then(|wrapped| message::wrapped(&wrapped))
        .ok_or_else(not_encrypted)
}

/// One failure for all that may be wrong with a wrapped FEK.
fn does_not_open() -> Failure {
    Failure::Integrity("a wrapped FEK does not open".into())
}
