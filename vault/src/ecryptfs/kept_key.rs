//! Keys of passphrases that are kept for as long as a folder is open.

use core::fmt;

use zeroize::Zeroizing;

use super::key_sig::KeySig;
use super::passphrase::{PassphraseKey, Salt};
use crate::locked::{LockedKey, LockedMemoryError};

/// A [`PassphraseKey`] in memory that is locked, left out of core dumps and wiped on drop.
///
/// No `Clone`, no `PartialEq`, no `Serialize`; `Debug` prints its sig only.
pub struct KeptKey {
    halves: [LockedKey; 2],
    sig: KeySig,
    salt: Salt,
}

impl KeptKey {
    /// Takes `key` over.
    ///
    /// # Errors
    /// [`LockedMemoryError`] if no memory can be locked.
    pub fn new(key: PassphraseKey) -> Result<Self, LockedMemoryError> {
        let mut halves = Zeroizing::new([[0; HALF]; 2]);
        halves.as_flattened_mut().copy_from_slice(key.expose());
        let [first, second] = &mut *halves;
        Ok(Self {
            halves: [LockedKey::new(first)?, LockedKey::new(second)?],
            sig: key.sig(),
            salt: key.salt(),
        })
    }

    /// What names it.
    pub fn sig(&self) -> KeySig {
        self.sig
    }

    /// A copy for one use, in ordinary memory that is wiped when it is dropped.
    pub fn lend(&self) -> PassphraseKey {
        let mut key = Zeroizing::new([0; 2 * HALF]);
        for (place, half) in key.chunks_exact_mut(HALF).zip(&self.halves) {
            place.copy_from_slice(half.expose());
        }
        PassphraseKey::kept(&mut key, self.sig, self.salt)
    }
}

const HALF: usize = 32;

impl fmt::Debug for KeptKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeptKey({})", self.sig)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lent_is_what_was_kept() {
        let key = || PassphraseKey::derive(b"golden passphrase one", Salt::DEFAULT).unwrap();
        let lent = KeptKey::new(key()).unwrap().lend();
        assert_eq!(lent.expose(), key().expose());
        assert_eq!((lent.sig(), lent.salt()), (key().sig(), Salt::DEFAULT));
    }

    #[test]
    fn a_key_that_is_handed_on_names_itself() {
        let key = PassphraseKey::derive(b"golden passphrase one", Salt::DEFAULT).unwrap();
        let mut bytes = *key.expose();
        let handed_on = PassphraseKey::handed_on(&mut bytes, Salt::DEFAULT);
        assert_eq!(handed_on.sig().to_string(), "f2291ce4c3069633");
        assert_eq!(bytes, [0; 64]);
    }

    #[test]
    fn nothing_prints_a_key() {
        let key = PassphraseKey::handed_on(&mut [0xab; 64], Salt::DEFAULT);
        let text = format!("{:?}", KeptKey::new(key).unwrap());
        assert!(!text.contains("171") && text.len() < 32, "{text}");
    }
}
