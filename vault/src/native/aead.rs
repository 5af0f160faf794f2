//! AES-256-GCM with nonce and tag kept apart from the ciphertext, and where nonces come from.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
#[cfg(test)]
use std::sync::atomic::{AtomicU64, Ordering};

pub(super) const NONCE_LEN: usize = 12;
pub(super) const TAG_LEN: usize = 16;

/// A cipher under `key`.
pub(super) fn cipher(key: &[u8; 32]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).expect("AES-256 takes 32 bytes"))
}

/// Encrypts `text` in place and returns the tag.
pub(super) fn seal(
    key: &LessSafeKey,
    nonce: &[u8; NONCE_LEN],
    associated: &[u8],
    text: &mut [u8],
) -> [u8; TAG_LEN] {
    let tag = key
        .seal_in_place_separate_tag(
            Nonce::assume_unique_for_key(*nonce),
            Aad::from(associated),
            text,
        )
        .expect("AES-GCM seals anything shorter than 64 GiB");
    tag.as_ref()
        .try_into()
        .expect("an AES-GCM tag has 16 bytes")
}

/// Encrypts `plain` into `sealed`, which is as long, and returns the tag.
pub(super) fn seal_into(
    key: &LessSafeKey,
    nonce: &[u8; NONCE_LEN],
    associated: &[u8],
    plain: &[u8],
    sealed: &mut [u8],
) -> [u8; TAG_LEN] {
    let mut tag = [0; TAG_LEN];
    key.seal_out_of_place_scatter(
        Nonce::assume_unique_for_key(*nonce),
        Aad::from(associated),
        plain,
        sealed,
        &[],
        &mut tag,
    )
    .expect("AES-GCM seals anything shorter than 64 GiB into as many bytes");
    tag
}

/// What was sealed does not verify; what is in the buffer then is of no use.
#[derive(Clone, Copy, Debug)]
pub(super) struct Refused;

/// Decrypts `text` in place.
pub(super) fn open(
    key: &LessSafeKey,
    nonce: &[u8; NONCE_LEN],
    associated: &[u8],
    text: &mut [u8],
    tag: &[u8; TAG_LEN],
) -> Result<(), Refused> {
    let nonce = Nonce::assume_unique_for_key(*nonce);
    match key.open_in_place_separate_tag(nonce, Aad::from(associated), tag, text) {
        Ok(_) => Ok(()),
        Err(_) => Err(Refused),
    }
}

/// Decrypts `sealed` into `plain`, which is as long.
pub(super) fn open_into(
    key: &LessSafeKey,
    nonce: &[u8; NONCE_LEN],
    associated: &[u8],
    sealed: &[u8],
    tag: &[u8; TAG_LEN],
    plain: &mut [u8],
) -> Result<(), Refused> {
    let nonce = Nonce::assume_unique_for_key(*nonce);
    key.open_separate_gather(nonce, Aad::from(associated), sealed, tag, plain)
        .map_err(|_| Refused)
}

/// Where nonces and new FEKs come from.
///
/// Nothing drawn is kept for later: a nonce left in a buffer would be used twice by the two halves
/// of a fork, or by a snapshot of the machine that is resumed twice.
#[derive(Debug)]
pub(super) enum Random {
    /// getrandom(2), one call a request.
    Kernel,
    /// 1, 2, 3 … as 64-bit numbers: makes the worked examples of `docs/format.md`.
    #[cfg(test)]
    Counting(AtomicU64),
}

impl Random {
    pub(super) fn fill(&self, out: &mut [u8]) {
        match self {
            Self::Kernel => crate::secret::fill_random(out),
            #[cfg(test)]
            Self::Counting(last) => {
                for piece in out.chunks_mut(4) {
                    let next = last.fetch_add(1, Ordering::Relaxed) + 1;
                    piece.copy_from_slice(&next.to_be_bytes()[8 - piece.len()..]);
                }
            }
        }
    }

    pub(super) fn array<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        self.fill(&mut bytes);
        bytes
    }
}
