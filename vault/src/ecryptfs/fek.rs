//! FEKs, whose length is the file's.

use core::fmt;

use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::cipher::{Aes, CipherCode, KeyLen};
use super::error::{EcryptfsError, Part};
use crate::native::octets::Octets;
use crate::secret::fill_random;

/// File encryption key (FEK): encrypts the extents of one lower file.
///
/// Wiped on drop. No `Clone`, no `PartialEq`, no `Serialize`; `Debug` prints the length only.
pub struct Fek {
    bytes: Zeroizing<Vec<u8>>,
    len: KeyLen,
}

impl Fek {
    /// Draws a fresh one from getrandom(2).
    pub fn random(len: KeyLen) -> Self {
        let mut bytes = Zeroizing::new(vec![0; len.bytes()]);
        fill_random(&mut bytes);
        Self { bytes, len }
    }

    /// Takes a copy of the key itself; `None` unless it has 16, 24 or 32 bytes.
    pub fn of_bytes(bytes: &[u8]) -> Option<Self> {
        let mut lens = KeyLen::ALL.into_iter();
        let len = lens.find(|len| len.bytes() == bytes.len())?;
        Self::from_prefix(bytes, len)
    }

    /// The first bytes of `source`; `None` if there are too few.
    pub(super) fn from_prefix(source: &[u8], len: KeyLen) -> Option<Self> {
        let (bytes, _) = source.split_at_checked(len.bytes())?;
        Some(Self {
            bytes: Zeroizing::new(bytes.to_vec()),
            len,
        })
    }

    /// Reads what a public key wraps, in Tag 1 packets and in what the kernel asks of a daemon:
    ///
    /// ```text
    /// cipher 1 B | FEK | sum of its bytes modulo 65536, big-endian 2 B
    /// ```
    ///
    /// Source: RFC 2440 section 5.1.
    ///
    /// # Errors
    /// [`EcryptfsError::Cipher`]; [`EcryptfsError::Malformed`] for all else.
    pub fn from_session_key(bytes: &[u8]) -> Result<Self, EcryptfsError> {
        let malformed = || EcryptfsError::Malformed(Part::SessionKey);
        let mut rest = Octets(bytes);
        let code = rest.u8().ok_or_else(malformed)?;
        let len = KeyLen::from_code(CipherCode(code))?;
        let key = rest.slice(len.bytes()).ok_or_else(malformed)?;
        if rest.0 != checksum(key) {
            return Err(malformed());
        }
        Self::from_prefix(key, len).ok_or_else(malformed)
    }

    /// Reads the same where nothing may tell by time what is wrong with it: what PKCS#1 v1.5 gave, whose
    /// padding proves little. Only the length is no secret.
    pub fn from_doubtful_session_key(bytes: &[u8]) -> Option<Self> {
        let mut lens = KeyLen::ALL.into_iter();
        let len = lens.find(|len| 1 + len.bytes() + 2 == bytes.len())?;
        let mut rest = Octets(bytes);
        let code = rest.u8()?;
        let key = rest.slice(len.bytes())?;
        let whole = code.ct_eq(&len.code().0) & rest.0.ct_eq(&checksum(key));
        if !bool::from(whole) {
            return None;
        }
        Self::from_prefix(key, len)
    }

    /// What a public key wraps: undoes [`Fek::from_session_key`].
    pub fn session_key(&self) -> Zeroizing<Vec<u8>> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(1 + self.bytes.len() + 2));
        bytes.push(self.len.code().0);
        bytes.extend_from_slice(&self.bytes);
        bytes.extend(checksum(&self.bytes));
        bytes
    }

    /// The key itself.
    pub fn expose(&self) -> &[u8] {
        &self.bytes
    }

    /// How long it is.
    pub fn key_len(&self) -> KeyLen {
        self.len
    }

    pub(super) fn cipher(&self) -> Aes {
        Aes::new(&self.bytes, self.len)
    }
}

fn checksum(key: &[u8]) -> [u8; 2] {
    let sum: u16 = key.iter().map(|&byte| u16::from(byte)).sum();
    sum.to_be_bytes()
}

impl fmt::Debug for Fek {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fek({} bytes)", self.len.bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_doubtful_session_key_is_believed_only_if_all_of_it_fits() {
        for len in KeyLen::ALL {
            let fek = Fek::random(len);
            let good = fek.session_key();
            let read = Fek::from_doubtful_session_key(&good).unwrap();
            assert_eq!(read.expose(), fek.expose());
            for place in 0..good.len() {
                let mut bad = good.clone();
                bad[place] ^= 1;
                assert!(Fek::from_doubtful_session_key(&bad).is_none(), "{place}");
                assert!(Fek::from_doubtful_session_key(&good[..place]).is_none());
            }
        }
    }
}
