//! The manifest: what a volume is, who opens it, and the wrapped epoch keys.
//!
//! `.claviger/volume.toml` in the lower root holds no secret and is authenticated as a whole under
//! the current epoch key. Before that key is unwrapped it is only a claim ([`Unverified`]); changes
//! are made to a verified [`Manifest`] only, and each raises the generation by one.
//!
//! Wraps are opaque here: whoever calls makes and opens them.

use core::fmt;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac;
use data_encoding::HEXLOWER;

use crate::epoch::{EpochKey, EpochKeys, LockedMemoryError, OpenChainError};
use crate::ids::{Epoch, Scope, VolumeId};

mod error;
mod store;
mod text;

pub use error::{ChangeError, ManifestError};
pub use store::{Authenticated, Copy, Loaded, NAME, load};

/// Newest manifest format this program knows.
pub const FORMAT: u32 = 0;

/// The one suite of format 0: AES-256-GCM, AES-256-SIV, HMAC-SHA256 and HKDF-SHA256.
pub const SUITE: u32 = 1;

/// A manifest that its volume's current epoch key authenticates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    volume: VolumeId,
    scope: Scope,
    epoch: Epoch,
    minimum: Epoch,
    generation: u64,
    recipients: Vec<Enrolled>,
    /// Sealed keys of epochs 1 to `epoch` - 1, in this order.
    older: Vec<Vec<u8>>,
}

/// A manifest as it was read, and its MAC: nothing in it is to be believed yet.
#[derive(Clone, Debug)]
pub struct Unverified {
    claims: Manifest,
    covered: Vec<u8>,
    mac: [u8; 32],
}

/// A public key that opens the volume, and the current epoch key wrapped to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Enrolled {
    /// Whom.
    pub recipient: Recipient,
    /// The current epoch key, for him.
    pub wrap: Wrap,
}

/// A public key, and what people call it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipient {
    kind: RecipientKind,
    label: String,
    spki: Vec<u8>,
    /// Looked at for every file in file scope.
    key_id: KeyId,
}

/// Where a recipient's private key is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecipientKind {
    /// In a token: smartcard, YubiKey, HSM or TPM.
    Token,
    /// In a key file.
    File,
    /// Nowhere: a passphrase gives it.
    Passphrase(Argon2id),
    /// On the paper with the recovery key.
    Recovery,
}

/// Parameters of Argon2id (RFC 9106) that make a seed of a passphrase.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Argon2id {
    /// Random.
    pub salt: [u8; 16],
    /// Memory, KiB.
    pub memory_kib: u32,
    /// Passes over the memory.
    pub passes: u32,
    /// Lanes.
    pub lanes: u32,
}

/// An epoch key wrapped to one recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrap {
    /// Number of the KEM, as in Tag 1 packets.
    pub algorithm: u8,
    /// Encapsulation and sealed key.
    pub body: Vec<u8>,
}

/// What is to be wrapped to a recipient.
#[derive(Clone, Copy, Debug)]
pub struct ToWrap<'a> {
    /// The volume, for the wrap's context.
    pub volume: VolumeId,
    /// The key's epoch, for the wrap's context.
    pub epoch: Epoch,
    /// The key.
    pub key: &'a EpochKey,
}

/// SHA-256 of a DER SubjectPublicKeyInfo.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(pub [u8; 32]);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

impl Recipient {
    /// Longest label kept, characters.
    pub const LABEL_MAX: usize = 100;

    /// Names the key `spki`, a DER SubjectPublicKeyInfo that the caller has checked.
    ///
    /// Labels may come from tokens: control characters are left out and long ones cut, so that
    /// showing one cannot confuse a terminal.
    pub fn new(kind: RecipientKind, label: &str, spki: Vec<u8>) -> Self {
        let shown = label.chars().filter(|c| !c.is_control());
        let hash = digest(&SHA256, &spki);
        Self {
            kind,
            label: shown.take(Self::LABEL_MAX).collect(),
            spki,
            key_id: KeyId(hash.as_ref().try_into().expect("SHA-256 is 32 bytes")),
        }
    }

    /// Where the private key is.
    pub fn kind(&self) -> &RecipientKind {
        &self.kind
    }

    /// For people.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// The DER SubjectPublicKeyInfo.
    pub fn spki(&self) -> &[u8] {
        &self.spki
    }

    /// Its SHA-256.
    pub fn key_id(&self) -> KeyId {
        self.key_id
    }
}

impl RecipientKind {
    /// The word for it in the manifest and on screen.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::File => "file",
            Self::Passphrase(_) => "passphrase",
            Self::Recovery => "recovery",
        }
    }
}

impl Unverified {
    /// What it says: enough to ask the right token, not to be relied on.
    pub fn claims(&self) -> &Manifest {
        &self.claims
    }

    /// Checks it under the epoch key that one of its wraps gave.
    ///
    /// # Errors
    /// [`ManifestError::NotAuthentic`] if whoever wrote it did not have that key.
    pub fn verify(self, current: &EpochKey) -> Result<Manifest, ManifestError> {
        hmac::verify(&current.manifest_mac_key(), &self.covered, &self.mac)
            .map_err(|_| ManifestError::NotAuthentic)?;
        Ok(self.claims)
    }
}

impl Manifest {
    /// Begins a volume: epoch 1, generation 1, its key wrapped to each of `recipients`.
    ///
    /// # Errors
    /// [`ChangeError`]: a volume needs at least one recipient, and none twice.
    pub fn create<E>(
        scope: Scope,
        recipients: Vec<Recipient>,
        wrap: impl FnMut(&Recipient, ToWrap<'_>) -> Result<Wrap, E>,
    ) -> Result<(Self, EpochKey), ChangeError<E>> {
        let key = EpochKey::random()?;
        let mut manifest = Self {
            volume: VolumeId::random(),
            scope,
            epoch: Epoch::FIRST,
            minimum: Epoch::FIRST,
            generation: 1,
            recipients: Vec::new(),
            older: Vec::new(),
        };
        manifest.recipients = manifest.wrap_to_all(recipients, Epoch::FIRST, &key, wrap)?;
        Ok((manifest, key))
    }

    /// The volume's id.
    pub fn volume(&self) -> VolumeId {
        self.volume
    }

    /// What one token operation opens.
    pub fn scope(&self) -> Scope {
        self.scope
    }

    /// The epoch that new files and directories use.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The oldest epoch that is accepted.
    pub fn minimum(&self) -> Epoch {
        self.minimum
    }

    /// How often the manifest was changed, counting its making.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Who opens the volume.
    pub fn recipients(&self) -> &[Enrolled] {
        &self.recipients
    }

    /// The recipient with this key.
    pub fn recipient(&self, key_id: KeyId) -> Option<&Enrolled> {
        self.recipients
            .iter()
            .find(|enrolled| enrolled.recipient.key_id() == key_id)
    }

    /// Lets one more key open the volume. `current` is the current epoch's key.
    ///
    /// # Errors
    /// [`ChangeError`]; nothing has changed then.
    pub fn add_recipient<E>(
        &mut self,
        current: &EpochKey,
        recipient: Recipient,
        mut wrap: impl FnMut(&Recipient, ToWrap<'_>) -> Result<Wrap, E>,
    ) -> Result<(), ChangeError<E>> {
        if self.recipient(recipient.key_id()).is_some() {
            return Err(ChangeError::AlreadyRecipient(recipient.key_id()));
        }
        let to_wrap = ToWrap {
            volume: self.volume,
            epoch: self.epoch,
            key: current,
        };
        let wrap = wrap(&recipient, to_wrap).map_err(ChangeError::Wrap)?;
        self.recipients.push(Enrolled { recipient, wrap });
        self.generation += 1;
        Ok(())
    }

    /// Takes a key off the volume and starts a new epoch, whose key it is not given. `current` is
    /// the key of the epoch that ends; returned is the key of the one that begins.
    ///
    /// # Errors
    /// [`ChangeError`]; nothing has changed then.
    pub fn remove_recipient<E>(
        &mut self,
        current: &EpochKey,
        key_id: KeyId,
        wrap: impl FnMut(&Recipient, ToWrap<'_>) -> Result<Wrap, E>,
    ) -> Result<EpochKey, ChangeError<E>> {
        if self.recipient(key_id).is_none() {
            return Err(ChangeError::NotRecipient(key_id));
        }
        let remaining = self.recipients.iter().map(|enrolled| &enrolled.recipient);
        let remaining = remaining
            .filter(|recipient| recipient.key_id() != key_id)
            .cloned();
        let (epoch, key) = (self.epoch.next(), EpochKey::random()?);
        self.recipients = self.wrap_to_all(remaining.collect(), epoch, &key, wrap)?;
        self.older
            .push(key.seal_previous(self.volume, self.epoch, current));
        self.epoch = epoch;
        self.generation += 1;
        Ok(key)
    }

    /// Refuses, from now on, what was made before epoch `minimum`: everything has been moved on.
    /// Lower than now, or beyond the current epoch, it changes nothing.
    pub fn raise_minimum(&mut self, minimum: Epoch) {
        if minimum > self.minimum && minimum <= self.epoch {
            self.minimum = minimum;
            self.generation += 1;
        }
    }

    /// Unwraps the chain from the current epoch's key down to the first one's.
    ///
    /// # Errors
    /// [`ManifestError::Chain`] names the epoch whose sealed key does not open.
    pub fn unwrap_chain(&self, current: EpochKey) -> Result<EpochKeys, ManifestError> {
        let mut keys = EpochKeys::new(self.epoch, current);
        let mut newer = self.epoch;
        let older = (1..self.epoch.0).rev().map(Epoch);
        for (epoch, sealed) in older.zip(self.older.iter().rev()) {
            let opener = keys.of(newer).expect("inserted in the round before");
            let key = match opener.open_previous(self.volume, epoch, sealed) {
                Ok(key) => key,
                Err(OpenChainError::DoesNotOpen(_)) => return Err(ManifestError::Chain(epoch)),
                Err(OpenChainError::Memory(error)) => return Err(error.into()),
            };
            keys.insert(epoch, key);
            newer = epoch;
        }
        Ok(keys)
    }

    fn wrap_to_all<E>(
        &self,
        recipients: Vec<Recipient>,
        epoch: Epoch,
        key: &EpochKey,
        mut wrap: impl FnMut(&Recipient, ToWrap<'_>) -> Result<Wrap, E>,
    ) -> Result<Vec<Enrolled>, ChangeError<E>> {
        if recipients.is_empty() {
            return Err(ChangeError::LastRecipient);
        }
        let to_wrap = ToWrap {
            volume: self.volume,
            epoch,
            key,
        };
        let mut enrolled: Vec<Enrolled> = Vec::with_capacity(recipients.len());
        for recipient in recipients {
            let key_id = recipient.key_id();
            if enrolled
                .iter()
                .any(|other| other.recipient.key_id() == key_id)
            {
                return Err(ChangeError::AlreadyRecipient(key_id));
            }
            let wrap = wrap(&recipient, to_wrap).map_err(ChangeError::Wrap)?;
            enrolled.push(Enrolled { recipient, wrap });
        }
        Ok(enrolled)
    }
}

impl<E> From<LockedMemoryError> for ChangeError<E> {
    fn from(error: LockedMemoryError) -> Self {
        Self::Memory(error)
    }
}

#[cfg(test)]
pub(crate) mod tests;
