//! Key sigs, as the kernel's eCryptfs has them: they identify; they sign nothing.

use std::fmt;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use claviger_pki::key::PublicKey;
use data_encoding::HEXLOWER;

/// Identifies a public key in lower files, mount options and the keyring.
///
/// The first 8 bytes of its OpenPGP v4 fingerprint (RFC 4880 section 12.2) with creation time 0, as
/// ecryptfs-utils made it. 64 bits: enough to find a key, not to prove one.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeySig(pub [u8; 8]);

/// Public-key algorithm RSA, encrypt or sign (RFC 4880 section 9.1).
const RSA: u8 = 2;

impl KeySig {
    /// Of an RSA key; `None` for others, which eCryptfs knows nothing of.
    pub fn of(key: &PublicKey) -> Option<Self> {
        let (modulus, exponent) = key.rsa()?;
        let mut body = vec![4, 0, 0, 0, 0, RSA];
        for number in [modulus, exponent] {
            body.extend_from_slice(&bits(number)?.to_be_bytes());
            body.extend_from_slice(number);
        }
        let length = u16::try_from(body.len()).ok()?.to_be_bytes();
        let packet = [&[0x99], &length[..], &body].concat();
        let fingerprint = digest(&SHA1_FOR_LEGACY_USE_ONLY, &packet);
        let (sig, _) = fingerprint.as_ref().split_first_chunk()?;
        Some(Self(*sig))
    }

    /// Reads 16 lower-case hexadecimal digits.
    pub fn parse(digits: &[u8; 16]) -> Option<Self> {
        let bytes = HEXLOWER.decode(digits).ok()?;
        Some(Self(bytes.try_into().ok()?))
    }
}

/// Length of a number without leading zeros, in bits.
fn bits(number: &[u8]) -> Option<u16> {
    let unused = number.first()?.leading_zeros();
    u16::try_from(number.len() * 8)
        .ok()?
        .checked_sub(u16::try_from(unused).ok()?)
}

impl fmt::Display for KeySig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for KeySig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sigs_are_those_that_ecryptfs_utils_gives_the_same_keys() {
        let of = |pem| {
            KeySig::of(&PublicKey::from_pem(pem).unwrap())
                .unwrap()
                .to_string()
        };
        assert_eq!(
            of(include_str!("../../testdata/rsa2048.pub.pem")),
            "fd591e1468c3ea8a"
        );
        assert_eq!(
            of(include_str!("../../testdata/rsa4096.pub.pem")),
            "28b7228a9391d6e9"
        );
    }

    #[test]
    fn a_sig_reads_back_and_other_texts_are_none() {
        let sig = KeySig::parse(b"00112233445566aa").unwrap();
        assert_eq!(sig.to_string(), "00112233445566aa");
        assert_eq!(KeySig::parse(b"00112233445566AA"), None);
        assert_eq!(KeySig::parse(b"00112233445566g0"), None);
    }
}
