//! Auth toks of the kernel's: what makes its eCryptfs ask this daemon for a key.

use claviger_pki::key::KeyId;
use claviger_protocol::Failure;
use claviger_vault::ecryptfs::{AuthTok, KeySig, PrivateKeyTok};
use linux_keyutils::{KeyError, KeyRing, KeyRingIdentifier};
use zeroize::Zeroizing;

/// Who answers for the key: told to no program but that daemon, so nobody else needs to know it.
const MODULE: &str = "claviger";

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

fn user_keyring() -> Result<KeyRing, KeyError> {
    KeyRing::from_special_id(KeyRingIdentifier::User, false)
}

fn refused(error: KeyError) -> Failure {
    Failure::Permission(format!(
        "the user keyring takes no auth tok for the kernel: {error}"
    ))
}
