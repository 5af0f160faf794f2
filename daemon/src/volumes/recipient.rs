//! Public keys as recipients: made of what a person names, and wrapped to.

use claviger_pki::key::{Kem, PublicKey};
use claviger_pki::seed::{PassphraseKdf, SeededKey};
use claviger_pki::wrap::{self, Identity, PublicKeyRecipient, Purpose, Recipient as _, WrapError};
use claviger_protocol::Failure;
use claviger_protocol::control::RecipientInfo;
use claviger_vault::manifest::{Argon2id, KeyId, Manifest, Recipient, RecipientKind, ToWrap, Wrap};
use data_encoding::BASE64_NOPAD;

/// Somebody who is to open a volume, and how to wrap to him.
pub(super) struct Newcomer {
    pub(super) recipient: Recipient,
    pub(super) kem: Kem,
}

impl Newcomer {
    /// Whoever has a key in a token or file.
    pub(super) fn of_key(key: &PublicKey, kem: Kem, kind: RecipientKind, label: &str) -> Self {
        Self {
            recipient: Recipient::new(kind, label, key.spki().to_vec()),
            kem,
        }
    }

    /// Whoever knows `passphrase`.
    pub(super) fn of_passphrase(passphrase: &[u8]) -> Result<Self, Failure> {
        if passphrase.is_empty() {
            return Err(Failure::Usage("the passphrase is empty".into()));
        }
        let kdf = PassphraseKdf::fresh();
        let parameters = parameters(&kdf)?;
        let key = kdf.seed(passphrase).derive();
        Ok(Self::of_seed(
            &key,
            RecipientKind::Passphrase(parameters),
            "passphrase",
        ))
    }

    /// Whoever has a recovery key or passphrase that gives `key`.
    pub(super) fn of_seed(key: &SeededKey, kind: RecipientKind, label: &str) -> Self {
        Self::of_key(key.public_key(), Kem::DhkemP256, kind, label)
    }
}

/// Wraps an epoch key to a recipient whose KEM is known.
pub(super) fn wrap_epoch_key(
    recipient: &Recipient,
    kem: Kem,
    to_wrap: &ToWrap<'_>,
) -> Result<Wrap, Failure> {
    let context = wrap::Context {
        volume: to_wrap.volume.0,
        epoch: to_wrap.epoch.0,
        purpose: Purpose::EpochKey,
        file: None,
    };
    let key = public_key(recipient)?;
    let wrapped = PublicKeyRecipient::new(key, kem)
        .and_then(|recipient| recipient.wrap(&context, to_wrap.key.expose()))
        .map_err(|error| of_wrap(&error))?;
    Ok(Wrap {
        algorithm: wrapped.algorithm(),
        body: wrapped.write(),
    })
}

/// The KEM by which the epoch key is wrapped to a recipient now: what the token of that key can do.
pub(super) fn kem_of(manifest: &Manifest, key_id: KeyId) -> Result<Kem, Failure> {
    let enrolled = manifest.recipient(key_id);
    let kem = enrolled.and_then(|enrolled| Kem::from_number(enrolled.wrap.algorithm));
    kem.ok_or_else(|| Failure::Unsupported(format!("the key algorithm of recipient {key_id}")))
}

/// A recipient's public key.
pub(crate) fn public_key(recipient: &Recipient) -> Result<PublicKey, Failure> {
    PublicKey::from_spki(recipient.spki())
        .map_err(|error| Failure::Integrity(format!("manifest: {error}")))
}

/// What wrapping to a public key can fail with.
pub(crate) fn of_wrap(error: &WrapError) -> Failure {
    match error {
        WrapError::WrongKem { .. } | WrapError::Refused(_) => {
            Failure::Unsupported(error.to_string())
        }
    }
}

/// A recipient, as it is shown.
pub(super) fn recipient_info(recipient: &Recipient) -> RecipientInfo {
    let key = PublicKey::from_spki(recipient.spki());
    RecipientInfo {
        key_id: recipient.key_id().to_string(),
        kind: recipient.kind().word().into(),
        label: recipient.label().into(),
        key_type: key.map_or_else(|_| "unknown".into(), |key| key.key_type().to_string()),
    }
}

/// All of them.
pub(super) fn recipient_infos(manifest: &Manifest) -> Vec<RecipientInfo> {
    let recipients = manifest.recipients().iter();
    recipients
        .map(|enrolled| recipient_info(&enrolled.recipient))
        .collect()
}

/// The parameters of a manifest, checked, for the one who derives by them.
pub(super) fn kdf(parameters: &Argon2id) -> Result<PassphraseKdf, Failure> {
    let Argon2id {
        salt,
        memory_kib,
        passes,
        lanes,
    } = parameters;
    let salt = BASE64_NOPAD.encode(salt);
    format!("{PHC}m={memory_kib},t={passes},p={lanes}${salt}")
        .parse()
        .map_err(|error| Failure::Integrity(format!("manifest: {error}")))
}

/// The other way round.
fn parameters(kdf: &PassphraseKdf) -> Result<Argon2id, Failure> {
    let text = kdf.to_string();
    let parse = || {
        let (costs, salt) = text.strip_prefix(PHC)?.split_once('$')?;
        let (memory, costs) = costs.strip_prefix("m=")?.split_once(",t=")?;
        let (passes, lanes) = costs.split_once(",p=")?;
        Some(Argon2id {
            salt: BASE64_NOPAD.decode(salt.as_bytes()).ok()?.try_into().ok()?,
            memory_kib: memory.parse().ok()?,
            passes: passes.parse().ok()?,
            lanes: lanes.parse().ok()?,
        })
    };
    parse().ok_or_else(|| Failure::Internal("passphrase parameters do not parse".into()))
}

/// How a PHC string of Argon2id version 1.3 begins: the form in which both crates know parameters.
const PHC: &str = "$argon2id$v=19$";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passphrase_parameters_survive_the_way_through_a_manifest() {
        let fresh = PassphraseKdf::fresh();
        let through = kdf(&parameters(&fresh).unwrap()).unwrap();
        assert_eq!(through.to_string(), fresh.to_string());
    }
}
