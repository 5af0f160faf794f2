//! AES-256-GCM with the nonce in front: chain links, symlink targets, attribute values.
//!
//! ```text
//! sealed := nonce 12 B | ciphertext, as long as the plaintext | tag 16 B
//! ```

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use zeroize::Zeroizing;

use crate::secret::random_array;

/// How much longer the sealed form is.
pub(crate) const OVERHEAD: usize = NONCE_LEN + 16;

/// A key for few and small things: nonces are random, so at most 2^32 of them (NIST SP 800-38D,
/// section 8.3).
pub(crate) struct SealingKey(LessSafeKey);

/// What was sealed does not open: another key, other associated data, or changed since.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("does not open: changed, moved, or sealed under another key")]
pub(crate) struct OpenError;

impl SealingKey {
    pub(crate) fn new(key: &[u8; 32]) -> Self {
        let key = UnboundKey::new(&AES_256_GCM, key).expect("AES-256 takes 32 bytes");
        Self(LessSafeKey::new(key))
    }

    pub(crate) fn seal(&self, associated_data: &[u8], plaintext: &[u8]) -> Vec<u8> {
        self.seal_with(random_array(), associated_data, plaintext)
    }

    fn seal_with(
        &self,
        nonce: [u8; NONCE_LEN],
        associated_data: &[u8],
        plaintext: &[u8],
    ) -> Vec<u8> {
        let mut sealed = Vec::with_capacity(plaintext.len() + OVERHEAD);
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(plaintext);
        let (_, body) = sealed.split_at_mut(NONCE_LEN);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = self
            .0
            .seal_in_place_separate_tag(nonce, Aad::from(associated_data), body)
            .expect("AES-GCM seals anything shorter than 64 GiB");
        sealed.extend_from_slice(tag.as_ref());
        sealed
    }

    pub(crate) fn open(
        &self,
        associated_data: &[u8],
        sealed: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, OpenError> {
        let (&nonce, body) = sealed.split_first_chunk::<NONCE_LEN>().ok_or(OpenError)?;
        let mut body = Zeroizing::new(body.to_vec());
        let plain = self
            .0
            .open_in_place(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(associated_data),
                &mut body,
            )
            .map_err(|_| OpenError)?
            .len();
        body.truncate(plain);
        Ok(body)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Sealing with a nonce of one's choice, for worked examples.
    pub(crate) fn seal_with_nonce(key: &SealingKey, nonce: u8, ad: &[u8], plain: &[u8]) -> Vec<u8> {
        key.seal_with([nonce; NONCE_LEN], ad, plain)
    }

    proptest! {
        #[test]
        fn what_was_sealed_opens_and_no_changed_or_shortened_form_does(
            plain in proptest::collection::vec(any::<u8>(), 0..100),
            bit in any::<prop::sample::Index>(),
            cut in any::<prop::sample::Index>(),
        ) {
            let key = SealingKey::new(&[1; 32]);
            let sealed = key.seal(b"here", &plain);
            prop_assert_eq!(sealed.len(), plain.len() + OVERHEAD);
            prop_assert_eq!(&**key.open(b"here", &sealed).unwrap(), &plain[..]);
            prop_assert!(key.open(b"there", &sealed).is_err());
            prop_assert!(key.open(b"here", &sealed[..cut.index(sealed.len())]).is_err());
            let mut changed = sealed.clone();
            let bit = bit.index(sealed.len() * 8);
            changed[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(key.open(b"here", &changed).is_err());
        }
    }
}
