//! Deriving keys: HKDF-SHA256 (RFC 5869).

use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Prk};
use aws_lc_rs::hmac;
use zeroize::Zeroizing;

/// HKDF(`key`, `label` ‖ `context`) without a salt, `N` bytes.
///
/// No label is the beginning of another, and contexts have one length a label, so that no two uses
/// ever meet in one `info`.
pub(crate) fn derive<const N: usize>(
    key: &[u8; 32],
    label: &str,
    context: &[u8],
) -> Zeroizing<[u8; N]> {
    Extracted::unsalted(key).derive(label, context)
}

/// What HKDF-Extract made of a key that much is derived from.
///
/// `aws_lc_rs::hkdf::Salt::extract` only remembers its input, and extracts at each derivation.
pub(crate) struct Extracted(Prk);

impl Extracted {
    /// HKDF-Extract(`salt`, `key`), RFC 5869 section 2.2.
    pub(crate) fn new(salt: &[u8], key: &[u8; 32]) -> Self {
        let salt = hmac::Key::new(hmac::HMAC_SHA256, salt);
        let extracted = hmac::sign(&salt, key);
        Self(Prk::new_less_safe(HKDF_SHA256, extracted.as_ref()))
    }

    /// Without a salt, which stands for 32 zeros.
    pub(crate) fn unsalted(key: &[u8; 32]) -> Self {
        Self::new(&[0; 32], key)
    }

    /// HKDF-Expand of `label` ‖ `context` to `N` bytes, RFC 5869 section 2.3.
    pub(crate) fn derive<const N: usize>(
        &self,
        label: &str,
        context: &[u8],
    ) -> Zeroizing<[u8; N]> {
        let mut derived = Zeroizing::new([0; N]);
        self.0
            .expand(&[label.as_bytes(), context], Length(N))
            .and_then(|okm| okm.fill(derived.as_mut_slice()))
            .expect("HKDF-SHA256 gives up to 8160 bytes");
        derived
    }
}

#[derive(Clone, Copy)]
struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXLOWER;

    /// RFC 5869 test case 3: no salt, no info, 22 bytes of 0x0b. Our keys have 32 bytes, so the key
    /// here is made by the same construction and compared with HMAC done by hand.
    #[test]
    fn derivation_is_hkdf_sha256_without_salt() {
        use aws_lc_rs::hmac;
        let key = [0x0b; 32];
        let prk = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &[0; 32]), &key);
        let expand = hmac::Key::new(hmac::HMAC_SHA256, prk.as_ref());
        let first = hmac::sign(&expand, b"labelcontext\x01");
        let derived = super::derive::<32>(&key, "label", b"context");
        assert_eq!(HEXLOWER.encode(&*derived), HEXLOWER.encode(first.as_ref()));
    }
}
