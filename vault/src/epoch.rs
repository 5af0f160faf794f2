//! Epoch keys and all that derives from them.
//!
//! ```text
//! names key of volume v     = HKDF(E, "names"    ‖ v)        → the filesystem
//! header key of file f      = HKDF(E, "header"   ‖ f)        seals the FEKs of f
//! manifest MAC key          = HKDF(E, "manifest")            authenticates volume.toml
//! chain key of epoch n      = HKDF(E, "chain"    ‖ n 4 B LE) seals E(n), for E = E(n+1)
//! commitment                = HKDF(E, "commit")              pinned in known_volumes; not secret
//! ```
//!
//! Each is 32 bytes of HKDF-SHA256 without salt. The epoch key itself is never handed to a
//! filesystem and never encrypts anything directly.

use core::fmt;
use std::collections::BTreeMap;

use aws_lc_rs::hmac;
use data_encoding::HEXLOWER_PERMISSIVE;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::ids::{Epoch, FileId, VolumeId};
use crate::kdf::derive;
use crate::locked::LockedKey;
pub use crate::locked::LockedMemoryError;
use crate::sealed::{OpenError, SealingKey};
use crate::secret::{NamesKey, fill_random};

/// Key of one epoch of a volume: opens every header and name made in that epoch.
///
/// Lies in memory that is locked, left out of core dumps and wiped on drop. No `Clone`, no
/// `PartialEq`, no `Serialize`.
pub struct EpochKey(LockedKey);

impl EpochKey {
    /// Takes over `bytes`; the caller's copy is wiped.
    ///
    /// # Errors
    /// [`LockedMemoryError`] if no memory can be locked.
    pub fn new(bytes: &mut [u8; 32]) -> Result<Self, LockedMemoryError> {
        Ok(Self(LockedKey::new(bytes)?))
    }

    /// Draws a fresh one from getrandom(2).
    ///
    /// # Errors
    /// [`LockedMemoryError`] if no memory can be locked.
    pub fn random() -> Result<Self, LockedMemoryError> {
        Ok(Self(LockedKey::filled_by(|key| fill_random(key))?))
    }

    /// The key itself, to be wrapped to a recipient.
    pub fn expose(&self) -> &[u8; 32] {
        self.0.expose()
    }

    /// What encrypts and binds the names of directories of this epoch.
    pub fn names_key(&self, volume: VolumeId) -> NamesKey {
        NamesKey::new(&mut derive(self.expose(), "names", &volume.0))
    }

    /// AES-256-GCM key that seals the key record of one file's header.
    pub fn header_key(&self, file: FileId) -> Zeroizing<[u8; 32]> {
        derive(self.expose(), "header", &file.0)
    }

    /// HMAC-SHA256 key that authenticates the manifest.
    pub(crate) fn manifest_mac_key(&self) -> hmac::Key {
        let key = derive::<32>(self.expose(), "manifest", &[]);
        hmac::Key::new(hmac::HMAC_SHA256, &*key)
    }

    /// What a machine remembers of this key, to know the volume again.
    pub fn commitment(&self) -> Commitment {
        Commitment(*derive(self.expose(), "commit", &[]))
    }

    /// Seals `previous`, the key of epoch `epoch`, under this one, the key of the epoch after it.
    pub(crate) fn seal_previous(&self, volume: VolumeId, epoch: Epoch, previous: &Self) -> Vec<u8> {
        self.chain_key(epoch)
            .seal(&chain_associated_data(volume, epoch), previous.expose())
    }

    /// Opens what [`Self::seal_previous`] sealed.
    pub(crate) fn open_previous(
        &self,
        volume: VolumeId,
        epoch: Epoch,
        sealed: &[u8],
    ) -> Result<Self, OpenChainError> {
        let associated_data = chain_associated_data(volume, epoch);
        let opened = self.chain_key(epoch).open(&associated_data, sealed)?;
        let mut key = Zeroizing::new([0; 32]);
        if opened.len() != key.len() {
            return Err(OpenChainError::DoesNotOpen(OpenError));
        }
        key.copy_from_slice(&opened);
        Ok(Self::new(&mut key)?)
    }

    fn chain_key(&self, epoch: Epoch) -> SealingKey {
        SealingKey::new(&derive(self.expose(), "chain", &epoch.0.to_le_bytes()))
    }
}

impl fmt::Debug for EpochKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EpochKey(32 bytes)")
    }
}

/// The older key of a chain link could not be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenChainError {
    #[error(transparent)]
    DoesNotOpen(#[from] OpenError),
    #[error(transparent)]
    Memory(#[from] LockedMemoryError),
}

fn chain_associated_data(volume: VolumeId, epoch: Epoch) -> [u8; 20] {
    let mut bytes = [0; 20];
    let (id, number) = bytes.split_at_mut(16);
    id.copy_from_slice(&volume.0);
    number.copy_from_slice(&epoch.0.to_le_bytes());
    bytes
}

/// HKDF(E, "commit"): tells one epoch key from another, and nothing about either.
#[derive(Clone, Copy)]
pub struct Commitment(pub [u8; 32]);

impl PartialEq for Commitment {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for Commitment {}

impl fmt::Display for Commitment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for Commitment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Commitment({self})")
    }
}

impl core::str::FromStr for Commitment {
    type Err = BadCommitment;

    fn from_str(text: &str) -> Result<Self, BadCommitment> {
        let bytes = HEXLOWER_PERMISSIVE
            .decode(text.as_bytes())
            .map_err(|_| BadCommitment)?;
        Ok(Self(bytes.try_into().map_err(|_| BadCommitment)?))
    }
}

/// Text is not 64 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a commitment of 64 hexadecimal digits")]
pub struct BadCommitment;

/// All epoch keys of an unlocked volume: the current one and every older one.
#[derive(Debug)]
pub struct EpochKeys {
    current: Epoch,
    keys: BTreeMap<Epoch, EpochKey>,
}

impl EpochKeys {
    /// Starts with the current epoch's key.
    pub fn new(current: Epoch, key: EpochKey) -> Self {
        Self {
            current,
            keys: BTreeMap::from([(current, key)]),
        }
    }

    /// Adds the key of an older epoch, or of a newer one, which then is the current.
    pub fn insert(&mut self, epoch: Epoch, key: EpochKey) {
        self.current = self.current.max(epoch);
        self.keys.insert(epoch, key);
    }

    /// The epoch that new files and directories use.
    pub fn current_epoch(&self) -> Epoch {
        self.current
    }

    /// Its key.
    pub fn current(&self) -> &EpochKey {
        &self.keys[&self.current]
    }

    /// The key of one epoch.
    pub fn of(&self, epoch: Epoch) -> Option<&EpochKey> {
        self.keys.get(&epoch)
    }

    /// The names keys of all epochs from `minimum` on: what a filesystem gets.
    pub fn names_keys(
        &self,
        volume: VolumeId,
        minimum: Epoch,
    ) -> impl Iterator<Item = (Epoch, NamesKey)> {
        let epochs = self.keys.range(minimum..);
        epochs.map(move |(&epoch, key)| (epoch, key.names_key(volume)))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::sealed::tests::seal_with_nonce;

    /// A chain link with a nonce of one's choice, for worked examples.
    pub(crate) fn seal_previous_with_nonce(
        key: &EpochKey,
        nonce: u8,
        (volume, epoch): (VolumeId, Epoch),
        previous: &EpochKey,
    ) -> Vec<u8> {
        let associated_data = chain_associated_data(volume, epoch);
        seal_with_nonce(
            &key.chain_key(epoch),
            nonce,
            &associated_data,
            previous.expose(),
        )
    }

    fn key(byte: u8) -> EpochKey {
        EpochKey::new(&mut [byte; 32]).unwrap()
    }

    #[test]
    fn no_two_derivations_agree() {
        let (key, other) = (key(1), key(2));
        let (volume, file) = (VolumeId([3; 16]), FileId([3; 16]));
        let derived = [
            *key.names_key(volume).expose(),
            *key.names_key(VolumeId([4; 16])).expose(),
            *other.names_key(volume).expose(),
            *key.header_key(file),
            *key.header_key(FileId([4; 16])),
            key.commitment().0,
            other.commitment().0,
            *key.expose(),
        ];
        assert_eq!(derived.iter().collect::<HashSet<_>>().len(), derived.len());
    }

    #[test]
    fn a_chain_link_opens_under_its_own_key_volume_and_epoch_only() {
        let (old, new) = (key(1), key(2));
        let volume = VolumeId([3; 16]);
        let sealed = new.seal_previous(volume, Epoch(1), &old);
        let opened = new.open_previous(volume, Epoch(1), &sealed).unwrap();
        assert_eq!(opened.expose(), old.expose());
        assert!(old.open_previous(volume, Epoch(1), &sealed).is_err());
        assert!(
            new.open_previous(VolumeId([4; 16]), Epoch(1), &sealed)
                .is_err()
        );
        assert!(new.open_previous(volume, Epoch(2), &sealed).is_err());
    }

    #[test]
    fn a_commitment_reads_back_as_it_was_shown() {
        let commitment = key(1).commitment();
        assert_eq!(commitment.to_string().parse(), Ok(commitment));
        assert_eq!("12".parse::<Commitment>(), Err(BadCommitment));
    }

    #[test]
    fn nothing_prints_a_key() {
        let text = format!("{:?}", EpochKeys::new(Epoch::FIRST, key(0xab)));
        assert!(!text.contains("ab") && !text.contains("171"), "{text}");
    }
}
