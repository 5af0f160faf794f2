//! What may be sent to a token as a PIN, and what never again.
//!
//! Every refused PIN costs a try, and the last one costs the card. So: the flags are read before each
//! login; a PIN that was refused is not sent twice; the final try is spent only if asked for in so
//! many words.

use std::collections::HashSet;

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use claviger_pki::module::{ModuleError, PinState};
use claviger_pki::p11_uri::Uri;
use cryptoki::slot::TokenInfo;
use zeroize::Zeroizing;

/// Query attribute of a locator whose PIN may be sent though a wrong one would block the token:
/// `pkcs11:serial=1?final-try=allow`.
const FINAL_TRY: (&str, &[u8]) = ("final-try", b"allow");

/// Whether a PIN may be spent on the last try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FinalTry {
    /// Never unasked.
    Spare,
    /// The person was told, and wants it.
    Spend,
}

impl FinalTry {
    pub(crate) fn asked_for(uri: &Uri) -> Self {
        let (name, value) = FINAL_TRY;
        let asked = uri
            .vendor_query
            .iter()
            .any(|(n, v)| n == name && v == value);
        if asked { Self::Spend } else { Self::Spare }
    }
}

/// What the token's flags say of its PIN.
///
/// PKCS#11 tells no count. CKF_USER_PIN_COUNT_LOW ("at least once since the last right one") is not
/// passed on as a number: on a card with three tries and on one with ten it means different things.
pub(crate) fn state(info: &TokenInfo) -> PinState {
    if !info.login_required() {
        PinState::NotNeeded
    } else if info.user_pin_locked() {
        PinState::Blocked
    } else if info.user_pin_final_try() {
        PinState::FinalTry
    } else {
        PinState::Ok
    }
}

/// Refuses to go on towards a login that the token's flags warn of.
pub(crate) fn check_state(
    state: PinState,
    final_try: FinalTry,
    token: &str,
) -> Result<(), ModuleError> {
    match (state, final_try) {
        (PinState::Blocked, _) => Err(ModuleError::PinBlocked {
            token: token.to_owned(),
        }),
        (PinState::FinalTry, FinalTry::Spare) => Err(ModuleError::PinNeeded {
            token: token.to_owned(),
            state,
        }),
        (PinState::FinalTry, FinalTry::Spend)
        | (PinState::NotNeeded | PinState::Ok | PinState::TriesLeft(_), _) => Ok(()),
    }
}

/// The PINs that one token has refused, as tags under a key that this process made up: enough to
/// recognise one, nothing to read one back from.
pub(crate) struct RefusedPins {
    key: hmac::Key,
    tags: HashSet<Vec<u8>>,
}

impl RefusedPins {
    pub(crate) fn new() -> Self {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new())
            .expect("aws-lc's random source does not fail once it is seeded");
        Self {
            key,
            tags: HashSet::new(),
        }
    }

    pub(crate) fn add(&mut self, pin: &[u8]) {
        self.tags.insert(self.tag(pin));
    }

    pub(crate) fn has(&self, pin: &[u8]) -> bool {
        self.tags.contains(&self.tag(pin))
    }

    /// After a login, since the PIN is known to be another; and after a logout, for somebody who has
    /// changed the PIN elsewhere to one that was wrong before.
    pub(crate) fn clear(&mut self) {
        self.tags.clear();
    }

    fn tag(&self, pin: &[u8]) -> Vec<u8> {
        hmac::sign(&self.key, pin).as_ref().to_vec()
    }
}

/// A PIN for the next operation of one CKA_ALWAYS_AUTHENTICATE key: kept for that one, then wiped.
pub(crate) struct HeldPin {
    pub(crate) key_id: Option<Vec<u8>>,
    pub(crate) final_try: FinalTry,
    pub(crate) pin: Zeroizing<Vec<u8>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_final_try_is_spent_only_if_asked_for_in_so_many_words() {
        let asked = |uri: &str| FinalTry::asked_for(&Uri::parse(uri).unwrap());
        assert_eq!(asked("pkcs11:serial=1?final-try=allow"), FinalTry::Spend);
        assert_eq!(asked("pkcs11:serial=1?final-try=yes"), FinalTry::Spare);
        assert_eq!(asked("pkcs11:serial=1"), FinalTry::Spare);

        let check = |state, final_try| check_state(state, final_try, "card");
        assert!(check(PinState::Ok, FinalTry::Spare).is_ok());
        assert!(check(PinState::FinalTry, FinalTry::Spend).is_ok());
        assert_eq!(
            check(PinState::FinalTry, FinalTry::Spare),
            Err(ModuleError::PinNeeded {
                token: "card".into(),
                state: PinState::FinalTry
            })
        );
        assert_eq!(
            check(PinState::Blocked, FinalTry::Spend),
            Err(ModuleError::PinBlocked {
                token: "card".into()
            })
        );
    }

    #[test]
    fn a_refused_pin_is_recognised_until_it_may_have_become_right() {
        let mut refused = RefusedPins::new();
        refused.add(b"1234");
        assert!(refused.has(b"1234"));
        assert!(!refused.has(b"12345"));
        refused.clear();
        assert!(!refused.has(b"1234"));
    }
}
