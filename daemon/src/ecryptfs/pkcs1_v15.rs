//! FEKs that eCryptfs' `pkcs11-helper` key module wrapped: RSA with PKCS#1 v1.5 padding.
//!
//! Who can tell a ciphertext whose padding is bad from one whose content is bad can have the key decrypt
//! anything, some ten thousand ciphertexts later (Bleichenbacher 1998); to submit one it is enough to
//! write to a lower folder. So all that can be wrong is one failure here, it is told at the next whole
//! second, and all of it is off unless the configuration says otherwise.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use claviger_pki::module::DecryptPkcs1V15;
use claviger_protocol::Failure;
use claviger_vault::ecryptfs::Fek;
use zeroize::Zeroizing;

use super::does_not_open;
use super::keys::RsaKey;
use crate::daemon::Daemon;
use crate::tokens::{Login, Request, TokenError};

/// Failures are told after a multiple of this: many times what a token takes to tell good from bad.
const BEAT: Duration = Duration::from_secs(1);

impl Daemon {
    /// What was wrapped to a key: a FEK, as RFC 2440 codes it.
    pub(super) fn unwrap_pkcs1_v15(
        &self,
        key: &RsaKey,
        ciphertext: Vec<u8>,
        login: Login,
        request: &Arc<Request>,
    ) -> Result<Zeroizing<Vec<u8>>, TokenError> {
        let begun = Instant::now();
        let call = DecryptPkcs1V15 {
            locator: key.locator.clone(),
            public_key: key.enrolled.public_key.clone(),
            ciphertext,
        };
        let opened = self
            .tokens
            .decrypt_pkcs1_v15(&key.module, &call, login, request);
        let failed = match opened {
            Ok(message) => match Fek::from_doubtful_session_key(&message) {
                Some(_) => return Ok(message),
                None => TokenError::Failed(does_not_open()),
            },
            // Before the token saw a ciphertext.
            Err(TokenError::PinNeeded) => return Err(TokenError::PinNeeded),
            Err(TokenError::Failed(failure)) if is_of_the_login(&failure) => {
                return Err(TokenError::Failed(failure));
            }
            Err(TokenError::Failed(_)) => TokenError::Failed(does_not_open()),
        };
        thread::sleep(to_next_beat(begun.elapsed()));
        Err(failed)
    }
}

/// Whether it says that no private key was used at all.
fn is_of_the_login(failure: &Failure) -> bool {
    matches!(
        failure,
        Failure::TokenAbsent { .. }
            | Failure::PinWrong { .. }
            | Failure::PinBlocked { .. }
            | Failure::NobodyToAsk { .. }
            | Failure::Declined
            | Failure::Cancelled
            | Failure::TpmLockout(_)
    )
}

/// How long until a whole number of beats has passed.
fn to_next_beat(passed: Duration) -> Duration {
    let into_beat = passed.as_nanos() % BEAT.as_nanos();
    BEAT - Duration::from_nanos(u64::try_from(into_beat).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_fall_on_whole_seconds() {
        for (passed, left) in [(0, 1000), (1, 999), (999, 1), (1000, 1000), (2300, 700)] {
            let left = Duration::from_millis(left);
            assert_eq!(to_next_beat(Duration::from_millis(passed)), left);
        }
    }
}
