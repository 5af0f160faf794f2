//! Deriving keys: HKDF-SHA256 (RFC 5869) without a salt.

use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use zeroize::Zeroizing;

/// HKDF(`key`, `label` ‖ `context`), `N` bytes.
///
/// No label is the beginning of another, and contexts have one length a label, so that no two uses
/// ever meet in one `info`.
pub(crate) fn derive<const N: usize>(
    key: &[u8; 32],
    label: &str,
    context: &[u8],
) -> Zeroizing<[u8; N]> {
    let mut derived = Zeroizing::new([0; N]);
    Salt::none(HKDF_SHA256)
        .extract(key)
        .expand(&[label.as_bytes(), context], Length(N))
        .and_then(|okm| okm.fill(derived.as_mut_slice()))
        .expect("HKDF-SHA256 gives up to 8160 bytes");
    derived
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
