//! RSA with PKCS#1 v1.5 padding, for FEKs of eCryptfs and nothing else.
//!
//! The padding is removed here, in time that does not depend on it: OpenSSL before 3.2 tells a bad one by
//! its error and its time, from which the key can be worked out (Bleichenbacher 1998). It is simple here,
//! because what is wrapped has one of three lengths.

use claviger_pki::module::ModuleError;
use openssl::encrypt::Decrypter;
use openssl::error::ErrorStack;
use openssl::pkey::{PKeyRef, Private};
use openssl::rsa::Padding;
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};
use zeroize::Zeroizing;

use crate::file::PrivateKey;

/// A cipher code, an AES key, a checksum (RFC 2440 section 5.1).
const LENGTHS: [u32; 3] = [1 + 16 + 2, 1 + 24 + 2, 1 + 32 + 2];

/// Decrypts. What fails because of the ciphertext is one error.
pub(crate) fn decrypt(
    key: &PrivateKey,
    ciphertext: &[u8],
) -> Result<Zeroizing<Vec<u8>>, ModuleError> {
    let block = decrypt_block(&key.key, ciphertext).map_err(|_| ModuleError::NotDecryptable)?;
    unpad(&block).ok_or(ModuleError::NotDecryptable)
}

/// The padded block: as long as the modulus.
fn decrypt_block(
    key: &PKeyRef<Private>,
    ciphertext: &[u8],
) -> Result<Zeroizing<Vec<u8>>, ErrorStack> {
    let mut decrypter = Decrypter::new(key)?;
    decrypter.set_rsa_padding(Padding::NONE)?;
    let mut block = Zeroizing::new(vec![0; decrypter.decrypt_len(ciphertext)?]);
    let len = decrypter.decrypt(ciphertext, &mut block)?;
    block.truncate(len);
    Ok(block)
}

/// The message in `00 02 | at least 8 bytes, none of them 00 | 00 | message`, if it has a length that a
/// FEK has.
fn unpad(block: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let mut found = 0;
    for len in LENGTHS {
        let (padding, _) = block.split_at_checked(block.len().checked_sub(len as usize)?)?;
        found.conditional_assign(&len, is_padding(padding));
    }
    // From here on it shows which it is; if none, all were looked at to their ends.
    let message = block.len().checked_sub(found as usize)?;
    let (_, message) = block.split_at_checked(message)?;
    (!message.is_empty()).then(|| Zeroizing::new(message.to_vec()))
}

fn is_padding(padding: &[u8]) -> Choice {
    // By length, which everybody knows.
    let [zero, two, filling @ .., end] = padding else {
        return Choice::from(0);
    };
    if filling.len() < 8 {
        return Choice::from(0);
    }
    let filled = filling
        .iter()
        .fold(Choice::from(1), |filled, byte| filled & !byte.ct_eq(&0));
    zero.ct_eq(&0) & two.ct_eq(&2) & filled & end.ct_eq(&0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(filling: &[u8], message: &[u8]) -> Vec<u8> {
        [&[0, 2], filling, &[0], message].concat()
    }

    #[test]
    fn messages_of_feks_are_found_and_no_others() {
        for len in 0..60_usize {
            let message = vec![7; len];
            let found = unpad(&block(&[1; 200], &message));
            assert_eq!(found.is_some(), [19, 27, 35].contains(&len), "{len}");
            assert!(found.is_none_or(|found| *found == message));
        }
    }

    #[test]
    fn every_flaw_of_the_padding_is_seen() {
        let good = block(&[1; 8], &[7; 35]);
        assert!(unpad(&good).is_some());
        for (place, wrong) in [(0, 1), (1, 1), (2, 0), (9, 0), (10, 1)] {
            let mut bad = good.clone();
            bad[place] = wrong;
            assert!(unpad(&bad).is_none(), "{place}");
        }
        assert!(unpad(&block(&[1; 7], &[7; 35])).is_none());
        assert!(unpad(&[]).is_none());
    }

    /// A zero in the message is no end of padding.
    #[test]
    fn a_message_may_hold_zeros() {
        let mut message = [0; 35];
        message[0] = 9;
        assert_eq!(*unpad(&block(&[1; 100], &message)).unwrap(), message);
    }
}
