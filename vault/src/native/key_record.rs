//! The key record: the FEKs, sealed under an epoch key, and in file scope under a file key as well.

use aws_lc_rs::aead::LessSafeKey;
use zeroize::Zeroizing;

use super::aead::{self, NONCE_LEN, Random, TAG_LEN};
use super::feks::{Feks, MAX_FEKS};
use super::fixed::FIXED_LEN;
use super::octets::{Octets, is_zero, join};
use crate::epoch::EpochKey;
use crate::ids::{Epoch, FileId, Scope};
use crate::kdf::derive;
use crate::secret::FileKey;

/// Length in bytes.
pub(super) const KEY_RECORD_LEN: usize = 192;
/// The FEKs as they are sealed.
const FEKS_LEN: usize = MAX_FEKS * 32;

/// One copy of a key record, still sealed.
///
/// ```text
/// epoch 4 | FEK count 1 | newest 1 | reserved 2 | nonce 12 | sealed FEKs 4 × 32 | tag 16
/// | file scope: nonce 12 | tag 16      volume scope: zero 28
/// ```
///
/// Lengths are bytes, integers little-endian. In file scope the FEKs are sealed twice, first under
/// the file key (nonce and tag at the end), then under the epoch key; so whoever has the epoch key
/// can seal the outer layer anew without a token.
pub(super) struct KeyRecord {
    pub(super) epoch: Epoch,
    pub(super) count: u8,
    pub(super) newest: u8,
    nonce: [u8; NONCE_LEN],
    sealed: Zeroizing<[u8; FEKS_LEN]>,
    tag: [u8; TAG_LEN],
    inner: InnerSeal,
}

/// Nonce and tag of the layer under the file key; zero in volume scope.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct InnerSeal {
    nonce: [u8; NONCE_LEN],
    tag: [u8; TAG_LEN],
}

impl InnerSeal {
    const NONE: Self = Self {
        nonce: [0; NONCE_LEN],
        tag: [0; TAG_LEN],
    };
}

/// The inner layer of a key record: the FEKs in the clear, or in file scope sealed still.
pub(super) struct InnerFeks {
    pub(super) count: u8,
    pub(super) newest: u8,
    bytes: Zeroizing<[u8; FEKS_LEN]>,
    seal: InnerSeal,
}

impl InnerFeks {
    /// FEKs that only the epoch key seals.
    pub(super) fn volume_scope(feks: &Feks) -> Self {
        Self {
            count: feks.count(),
            newest: feks.newest(),
            bytes: feks.packed(),
            seal: InnerSeal::NONE,
        }
    }

    /// FEKs sealed under the file key.
    pub(super) fn file_scope(
        feks: &Feks,
        fixed: &[u8; FIXED_LEN],
        file: FileId,
        file_key: &FileKey,
        random: &Random,
    ) -> Self {
        let (count, newest) = (feks.count(), feks.newest());
        let mut bytes = feks.packed();
        let nonce = random.array();
        let associated = inner_associated(fixed, count, newest);
        let key = inner_cipher(file_key, file);
        let tag = aead::seal(&key, &nonce, &associated, bytes.as_mut_slice());
        Self {
            count,
            newest,
            bytes,
            seal: InnerSeal { nonce, tag },
        }
    }

    /// The FEKs of a record of volume scope.
    pub(super) fn feks(&self) -> Option<Feks> {
        Feks::unpack(&self.bytes, self.count, self.newest).ok()
    }

    /// The FEKs of a record of file scope.
    pub(super) fn open(
        &self,
        fixed: &[u8; FIXED_LEN],
        file: FileId,
        file_key: &FileKey,
    ) -> Option<Feks> {
        let mut bytes = self.bytes.clone();
        let associated = inner_associated(fixed, self.count, self.newest);
        let InnerSeal { nonce, tag } = &self.seal;
        aead::open(
            &inner_cipher(file_key, file),
            nonce,
            &associated,
            bytes.as_mut_slice(),
            tag,
        )
        .ok()?;
        Feks::unpack(&bytes, self.count, self.newest).ok()
    }

    /// Seals the outer layer.
    pub(super) fn seal(
        &self,
        fixed: &[u8; FIXED_LEN],
        file: FileId,
        epoch: Epoch,
        epoch_key: &EpochKey,
        random: &Random,
    ) -> KeyRecord {
        let mut record = KeyRecord {
            epoch,
            count: self.count,
            newest: self.newest,
            nonce: random.array(),
            sealed: self.bytes.clone(),
            tag: [0; TAG_LEN],
            inner: self.seal,
        };
        let associated = record.associated(fixed);
        let key = outer_cipher(epoch_key, file);
        record.tag = aead::seal(
            &key,
            &record.nonce,
            &associated,
            record.sealed.as_mut_slice(),
        );
        record
    }
}

impl KeyRecord {
    /// Parses one copy. None if it is zero or what no version writes.
    pub(super) fn parse(bytes: &[u8; KEY_RECORD_LEN]) -> Option<Self> {
        if is_zero(bytes) {
            return None;
        }
        let mut octets = Octets(bytes);
        let epoch = Epoch(octets.u32()?);
        let (count, newest) = (octets.u8()?, octets.u8()?);
        let reserved = octets.u16()?;
        let nonce = *octets.array()?;
        let sealed = Zeroizing::new(*octets.array()?);
        let tag = *octets.array()?;
        let inner = InnerSeal {
            nonce: *octets.array()?,
            tag: *octets.array()?,
        };
        (reserved == 0).then_some(Self {
            epoch,
            count,
            newest,
            nonce,
            sealed,
            tag,
            inner,
        })
    }

    /// The bytes that [`KeyRecord::parse`] reads.
    pub(super) fn write(&self) -> [u8; KEY_RECORD_LEN] {
        join(&[
            &self.epoch.0.to_le_bytes(),
            &[self.count, self.newest, 0, 0],
            &self.nonce,
            self.sealed.as_slice(),
            &self.tag,
            &self.inner.nonce,
            &self.inner.tag,
        ])
    }

    /// Opens the outer layer. None if it does not verify, or is not of `scope`.
    pub(super) fn open(
        &self,
        fixed: &[u8; FIXED_LEN],
        scope: Scope,
        file: FileId,
        epoch_key: &EpochKey,
    ) -> Option<InnerFeks> {
        let mut bytes = self.sealed.clone();
        let associated = self.associated(fixed);
        let key = outer_cipher(epoch_key, file);
        aead::open(
            &key,
            &self.nonce,
            &associated,
            bytes.as_mut_slice(),
            &self.tag,
        )
        .ok()?;
        if scope == Scope::Volume && self.inner != InnerSeal::NONE {
            return None;
        }
        Some(InnerFeks {
            count: self.count,
            newest: self.newest,
            bytes,
            seal: self.inner,
        })
    }

    /// Everything of the record that is not sealed, after the fixed part.
    fn associated(&self, fixed: &[u8; FIXED_LEN]) -> [u8; FIXED_LEN + 36] {
        join(&[
            fixed,
            &self.epoch.0.to_le_bytes(),
            &[self.count, self.newest, 0, 0],
            &self.inner.nonce,
            &self.inner.tag,
        ])
    }
}

fn outer_cipher(epoch_key: &EpochKey, file: FileId) -> LessSafeKey {
    aead::cipher(&epoch_key.header_key(file))
}

fn inner_cipher(file_key: &FileKey, file: FileId) -> LessSafeKey {
    aead::cipher(&derive(file_key.expose(), "feks", &file.0))
}

/// Without the epoch: the outer layer moves to another one and leaves this one as it is.
fn inner_associated(fixed: &[u8; FIXED_LEN], count: u8, newest: u8) -> [u8; FIXED_LEN + 2] {
    join(&[fixed, &[count, newest]])
}
