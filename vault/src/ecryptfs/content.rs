//! Content: extents in CBC mode, with IVs from MD5.

use md5::{Digest, Md5};
use zeroize::Zeroizing;

use super::cipher::{Aes, BLOCK};
use super::fek::Fek;

/// Bytes of an extent, whatever the size of a page.
pub const EXTENT: usize = 4096;

/// Encrypts and decrypts the extents of one file.
pub(super) struct ContentCipher {
    aes: Aes,
    root_iv: Zeroizing<[u8; BLOCK]>,
}

impl ContentCipher {
    pub(super) fn new(fek: &Fek) -> Self {
        Self {
            aes: fek.cipher(),
            root_iv: Zeroizing::new(Md5::digest(fek.expose()).into()),
        }
    }

    /// Encrypts consecutive whole extents, of which the first is number `first`.
    pub(super) fn encrypt(&self, first: u64, extents: &mut [u8]) {
        for (index, extent) in (first..).zip(extents.chunks_exact_mut(EXTENT)) {
            self.aes.encrypt_cbc(&self.iv(index), extent);
        }
    }

    /// Undoes [`ContentCipher::encrypt`].
    pub(super) fn decrypt(&self, first: u64, extents: &mut [u8]) {
        for (index, extent) in (first..).zip(extents.chunks_exact_mut(EXTENT)) {
            self.aes.decrypt_cbc(&self.iv(index), extent);
        }
    }

    /// MD5 of the root IV and the number in decimal, zero-filled to 16 bytes.
    fn iv(&self, index: u64) -> [u8; BLOCK] {
        let mut number = [0; BLOCK];
        // The kernel's snprintf leaves room for a terminating zero; only sizes beyond 3 EiB have so many
        // digits.
        let (digits, _) = number.split_at_mut(BLOCK - 1);
        for (place, digit) in digits.iter_mut().zip(index.to_string().into_bytes()) {
            *place = digit;
        }
        let hash = Md5::new().chain_update(*self.root_iv).chain_update(number);
        hash.finalize().into()
    }
}
