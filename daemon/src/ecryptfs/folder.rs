//! The keys of an unlocked folder.

use std::collections::{BTreeMap, BTreeSet};

use claviger_protocol::Failure;
use claviger_protocol::control::OtherKeys;
use claviger_vault::ecryptfs::{KeptKey, KeySig, PassphraseKey};

use super::auth_tok;
use super::keys::RsaKey;
use crate::daemon::Daemon;

/// What an unlocked folder of eCryptfs is: keys that were handed in, and whose keys may be looked up.
///
/// Nothing but a key that was handed in is kept: who takes one out of the keyring takes it from the
/// folder.
pub struct FolderKeys {
    /// In locked memory.
    passwords: BTreeMap<KeySig, KeptKey>,
    named: BTreeSet<KeySig>,
    others: OtherKeys,
}

/// Where the key of a passphrase was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    HandedIn,
    InKeyring,
}

impl FolderKeys {
    pub(super) fn new(others: OtherKeys) -> Self {
        Self {
            passwords: BTreeMap::new(),
            named: BTreeSet::new(),
            others,
        }
    }

    pub(super) fn take(&mut self, key: KeptKey) {
        self.named.insert(key.sig());
        self.passwords.insert(key.sig(), key);
    }

    pub(super) fn name(&mut self, sig: KeySig) {
        self.named.insert(sig);
    }

    /// Takes over what another unlock of the same folder brought.
    pub(super) fn extend(&mut self, more: Self) {
        self.passwords.extend(more.passwords);
        self.named.extend(more.named);
        // What one mount of it was promised, another does not take back.
        if more.others == OtherKeys::Refused {
            self.others = OtherKeys::Refused;
        }
    }

    /// Whether it has all that `more` would bring, and keeps as much away.
    pub(super) fn covers(&self, more: &Self) -> bool {
        let holds = |sig| self.passwords.contains_key(sig);
        more.passwords.keys().all(holds)
            && more.named.is_subset(&self.named)
            && (more.others == OtherKeys::InKeyring || self.others == OtherKeys::Refused)
    }

    /// The key of that sig from a passphrase, if it is here now.
    pub(crate) fn password(&self, sig: KeySig) -> Option<PassphraseKey> {
        self.find_password(sig).map(|(key, _)| key)
    }

    pub(super) fn find_password(&self, sig: KeySig) -> Option<(PassphraseKey, Found)> {
        if let Some(kept) = self.passwords.get(&sig) {
            return Some((kept.lend(), Found::HandedIn));
        }
        let may_be_used = self.named.contains(&sig) || self.others == OtherKeys::InKeyring;
        let key = may_be_used.then(|| auth_tok::password(sig))??;
        Some((key, Found::InKeyring))
    }

    /// The RSA key of that sig, if this folder may use it and it is here now.
    ///
    /// # Errors
    /// [`Failure`] if the keyring cannot be read.
    pub(crate) fn rsa(&self, daemon: &Daemon, sig: KeySig) -> Result<Option<RsaKey>, Failure> {
        // Not every enrolled key: a folder could bring a packet for it, and whoever may open files of
        // the folder would have it used.
        let may_be_used = self.named.contains(&sig)
            || (self.others == OtherKeys::InKeyring && auth_tok::is_put(sig));
        if !may_be_used {
            return Ok(None);
        }
        match daemon.rsa_key(sig) {
            Ok(key) => Ok(Some(key)),
            Err(Failure::NotARecipient(_)) => Ok(None),
            Err(failure) => Err(failure),
        }
    }
}
