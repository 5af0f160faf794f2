//! The FEKs of one file, and what derives from them.

use aws_lc_rs::aead::{AES_256_GCM, LessSafeKey, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Prk, Salt};
use aws_lc_rs::hmac;
use zeroize::Zeroizing;

use crate::ids::FileId;
use crate::secret::Fek;

/// How many FEKs a key record holds.
pub const MAX_FEKS: usize = 4;

/// The FEKs of one file by number, 1 to 4 of them.
///
/// A file starts with one, number 0. After a revocation blocks are written under a further one;
/// each slot half says which its block uses.
#[derive(Debug)]
pub struct Feks {
    keys: Vec<Fek>,
    newest: u8,
}

/// Not 1 to 4 FEKs, or the newest is none of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not 1 to 4 FEKs, of which one is the newest")]
pub struct BadFeks;

impl Feks {
    /// FEKs by number, and the number of the one for new blocks.
    ///
    /// # Errors
    /// [`BadFeks`] unless there are 1 to 4 and `newest` is the number of one.
    pub fn new(keys: Vec<Fek>, newest: u8) -> Result<Self, BadFeks> {
        if keys.len() > MAX_FEKS || usize::from(newest) >= keys.len() {
            return Err(BadFeks);
        }
        Ok(Self { keys, newest })
    }

    /// The only FEK of a new file.
    pub fn first(fek: Fek) -> Self {
        Self {
            keys: vec![fek],
            newest: 0,
        }
    }

    /// One more, drawn from getrandom(2), which becomes the newest. Not for four.
    pub(super) fn with_another(mut self) -> Self {
        self.newest = self.count();
        self.keys.push(Fek::random());
        self
    }

    /// By number.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Fek> {
        self.keys.iter()
    }

    /// How many there are.
    pub fn count(&self) -> u8 {
        self.keys.len() as u8
    }

    /// Number of the one for new blocks.
    pub fn newest(&self) -> u8 {
        self.newest
    }

    /// As the key record seals them: 4 × 32 bytes, those not there zero.
    pub(super) fn packed(&self) -> Zeroizing<[u8; MAX_FEKS * 32]> {
        let mut packed = Zeroizing::new([0; MAX_FEKS * 32]);
        for (place, fek) in packed.chunks_exact_mut(32).zip(&self.keys) {
            place.copy_from_slice(fek.expose());
        }
        packed
    }

    /// Takes apart what [`Feks::packed`] made.
    pub(super) fn unpack(
        packed: &[u8; MAX_FEKS * 32],
        count: u8,
        newest: u8,
    ) -> Result<Self, BadFeks> {
        let (keys, _) = packed.as_chunks::<32>();
        let keys = keys.iter().take(usize::from(count)).map(|key| {
            let mut copy = Zeroizing::new(*key);
            Fek::new(&mut copy)
        });
        Self::new(keys.collect(), newest)
    }
}

/// What the filesystem keeps of the FEKs of an open file.
pub(super) struct ContentKeys {
    /// HKDF-Extract(salt: file id, FEK), by number.
    extracted: Vec<Prk>,
    newest: u8,
    shape: hmac::Key,
}

impl ContentKeys {
    pub(super) fn new(file: FileId, feks: &Feks) -> Self {
        let salt = Salt::new(HKDF_SHA256, &file.0);
        let extracted: Vec<Prk> = feks.iter().map(|fek| salt.extract(fek.expose())).collect();
        let mut shape = Zeroizing::new([0; 32]);
        extracted
            .first()
            .expect("there is at least one FEK")
            .expand(&[b"shape"], Len32)
            .and_then(|okm| okm.fill(shape.as_mut_slice()))
            .expect("HKDF-SHA256 gives 32 bytes");
        Self {
            extracted,
            newest: feks.newest(),
            shape: hmac::Key::new(hmac::HMAC_SHA256, shape.as_slice()),
        }
    }

    /// Number of the FEK for new blocks.
    pub(super) fn newest(&self) -> u8 {
        self.newest
    }

    /// Key of the shape's HMAC.
    pub(super) fn shape(&self) -> &hmac::Key {
        &self.shape
    }

    /// The cipher of a segment under a FEK, or none if there is no such FEK.
    pub(super) fn segment(&self, fek: u8, segment: u64) -> Option<LessSafeKey> {
        let number = segment.to_le_bytes();
        let info = [b"segment".as_slice(), &number];
        let okm = self
            .extracted
            .get(usize::from(fek))?
            .expand(&info, &AES_256_GCM)
            .expect("HKDF-SHA256 gives 32 bytes");
        Some(LessSafeKey::new(UnboundKey::from(okm)))
    }
}

struct Len32;

impl KeyType for Len32 {
    fn len(&self) -> usize {
        32
    }
}
