//! Auth toks of the kernel's: what makes its eCryptfs ask this daemon for a key.

use std::ffi::CString;

use claviger_pki::key::KeyId;
use claviger_protocol::Failure;
use claviger_vault::ecryptfs::{AuthTok, KeySig, PassphraseKey, PrivateKeyTok};
use linux_keyutils::{KeyError, KeyRing, KeyRingIdentifier};
use zeroize::Zeroizing;

use crate::sys;

/// Who answers for the key: told to no program but that daemon, so nobody else needs to know it.
const MODULE: &str = "claviger";

/// Length of the auth tok of a passphrase.
const PASSWORD_LEN: usize = 740;

/// Puts the auth tok of a key into the user keyring, in place of one that was there. It holds no secret:
/// the blob, which only its daemon reads, is the key id.
///
/// # Errors
/// [`Failure`].
pub(super) fn put(key_sig: KeySig, key_id: KeyId) -> Result<(), Failure> {
    let tok = AuthTok::PrivateKey(PrivateKeyTok {
        key_sig,
        key_size: 0,
        module: MODULE.into(),
        blob: Zeroizing::new(key_id.0.to_vec()),
    });
    let payload = tok
        .write()
        .map_err(|error| Failure::Internal(error.to_string()))?;
    let ring = user_keyring().map_err(refused)?;
    let added = ring.add_key(&key_sig.to_string(), &payload.as_slice());
    added.map(drop).map_err(refused)
}

/// Whether the kernel would find an auth tok for it.
pub(super) fn is_put(sig: KeySig) -> bool {
    user_keyring().is_ok_and(|ring| ring.search(&sig.to_string()).is_ok())
}

/// The key of that sig that somebody put there, as `ecryptfs-add-passphrase` does.
pub(super) fn password(sig: KeySig) -> Option<PassphraseKey> {
    let found = user_keyring().and_then(|ring| ring.search(&sig.to_string()));
    // One byte more than the payload has: a longer one is of another kind.
    let mut payload = Zeroizing::new([0; PASSWORD_LEN + 1]);
    let len = found.and_then(|key| key.read(&mut *payload)).ok()?;
    match AuthTok::parse(payload.get(..len)?) {
        Ok(AuthTok::Passphrase(key)) if key.sig() == sig => Some(key),
        Ok(_) => None,
        Err(error) => {
            tracing::warn!(%sig, %error, "a key of the user keyring is passed over");
            None
        }
    }
}

/// Whether the key of that sig is one of the type `encrypted`, which the kernel's eCryptfs uses and no program
/// can read: keyctl(2) gives its key only as wrapped by another.
pub(super) fn is_for_the_kernel_only(sig: KeySig) -> bool {
    CString::new(sig.to_string()).is_ok_and(|sig| sys::has_encrypted_key(&sig))
}

fn user_keyring() -> Result<KeyRing, KeyError> {
    KeyRing::from_special_id(KeyRingIdentifier::User, false)
}

fn refused(error: KeyError) -> Failure {
    Failure::Permission(format!(
        "the user keyring takes no auth tok for the kernel: {error}"
    ))
}
