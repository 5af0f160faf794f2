//! DHKEM of RFC 9180, cut where the token stands.
//!
//! The token gives the raw x-coordinate of the ECDH (`CKD_NULL`, `ECDH_ZGen`), everything around it
//! is done here: tokens disagree on KDFs, and some ignore the one that was asked for.

use aws_lc_rs::agreement::{self, ECDH_P256, ECDH_P384, PrivateKey, UnparsedPublicKey, agree};
use aws_lc_rs::hkdf::{self, HKDF_SHA256, HKDF_SHA384, Prk, Salt};
use zeroize::Zeroizing;

use crate::key::{BadKey, KeyType, PublicKey};

/// A DHKEM of RFC 9180 table 2.
#[derive(Clone, Copy)]
pub(crate) struct Dhkem {
    id: u16,
    key_type: KeyType,
    curve: &'static agreement::Algorithm,
    hash: hkdf::Algorithm,
    /// Length of a coordinate, of a private key and of the shared secret: Nsk = Nsecret here.
    len: usize,
}

impl Dhkem {
    pub(crate) const P256: Self = Self {
        id: 0x0010,
        key_type: KeyType::EcP256,
        curve: &ECDH_P256,
        hash: HKDF_SHA256,
        len: 32,
    };
    pub(crate) const P384: Self = Self {
        id: 0x0011,
        key_type: KeyType::EcP384,
        curve: &ECDH_P384,
        hash: HKDF_SHA384,
        len: 48,
    };

    pub(crate) fn key_type(self) -> KeyType {
        self.key_type
    }

    /// `Encap`: a fresh shared secret and the ephemeral point that carries it.
    pub(crate) fn encapsulate(
        self,
        recipient: &[u8],
    ) -> Result<(Zeroizing<Vec<u8>>, Vec<u8>), BadKey> {
        let ephemeral = PrivateKey::generate(self.curve).expect("key generation does not fail");
        self.encapsulate_with(&ephemeral, recipient)
    }

    fn encapsulate_with(
        self,
        ephemeral: &PrivateKey,
        recipient: &[u8],
    ) -> Result<(Zeroizing<Vec<u8>>, Vec<u8>), BadKey> {
        let enc = point_of(ephemeral);
        let dh = ecdh(ephemeral, recipient)?;
        let secret = self.shared_secret(&dh, &enc, recipient);
        let secret = secret.expect("ECDH gives a coordinate of the curve's length");
        Ok((secret, enc))
    }

    /// The half of `Decap` after the ECDH: `ExtractAndExpand(dh, enc ‖ recipient)`.
    ///
    /// `None` if `dh` has not the length of a coordinate.
    pub(crate) fn shared_secret(
        self,
        dh: &[u8],
        enc: &[u8],
        recipient: &[u8],
    ) -> Option<Zeroizing<Vec<u8>>> {
        if dh.len() != self.len {
            return None;
        }
        let prk = self.labeled_extract(b"eae_prk", dh);
        Some(self.labeled_expand(&prk, b"shared_secret", &[enc, recipient]))
    }

    /// `DeriveKeyPair`: the key pair of a seed of at least 32 bytes.
    pub(crate) fn derive_key_pair(self, seed: &[u8]) -> (PrivateKey, PublicKey) {
        let prk = self.labeled_extract(b"dkp_prk", seed);
        let private = (0..=u8::MAX)
            .find_map(|counter| {
                let candidate = self.labeled_expand(&prk, b"candidate", &[&[counter]]);
                PrivateKey::from_private_key(self.curve, &candidate).ok()
            })
            .expect("256 candidates in a row are out of range with probability under 2^-8000");
        let public = PublicKey::from_ec_point(self.key_type, &point_of(&private))
            .expect("a derived point is on its curve");
        (private, public)
    }

    fn labeled_extract(self, label: &[u8], secret: &[u8]) -> Prk {
        let suite = self.id.to_be_bytes();
        let parts = [VERSION, KEM, &suite, label, secret];
        // Sized by `concat` before it copies, so nothing of the secret is left in a smaller buffer.
        let input = Zeroizing::new(parts.concat());
        Salt::new(self.hash, &[]).extract(&input)
    }

    fn labeled_expand(self, prk: &Prk, label: &[u8], info: &[&[u8]]) -> Zeroizing<Vec<u8>> {
        let len = u16::try_from(self.len).expect("32 or 48").to_be_bytes();
        let suite = self.id.to_be_bytes();
        let info = [&[&len, VERSION, KEM, &suite, label], info].concat();
        let mut out = Zeroizing::new(vec![0; self.len]);
        prk.expand(&info, Length(self.len))
            .and_then(|okm| okm.fill(&mut out))
            .expect("HKDF gives up to 255 hashes of output");
        out
    }
}

/// The raw x-coordinate that both points of an ECDH give.
pub(crate) fn ecdh(private: &PrivateKey, point: &[u8]) -> Result<Zeroizing<Vec<u8>>, BadKey> {
    let peer = UnparsedPublicKey::new(private.algorithm(), point);
    agree(private, peer, BadKey::NotOnCurve, |dh| {
        Ok(Zeroizing::new(dh.to_vec()))
    })
}

fn point_of(private: &PrivateKey) -> Vec<u8> {
    let public = private.compute_public_key();
    public
        .expect("a valid private key has a public one")
        .as_ref()
        .to_vec()
}

/// Output length of HKDF, for aws-lc-rs.
pub(crate) struct Length(pub(crate) usize);

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

const VERSION: &[u8] = b"HPKE-v1";
const KEM: &[u8] = b"KEM";

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        data_encoding::HEXLOWER.decode(text.as_bytes()).unwrap()
    }

    /// RFC 9180 appendix A.3.1: DHKEM(P-256, HKDF-SHA256), base mode.
    #[test]
    fn the_vectors_of_rfc_9180_come_out() {
        let kem = Dhkem::P256;
        let (ephemeral, public) = kem.derive_key_pair(&hex(
            "4270e54ffd08d79d5928020af4686d8f6b7d35dbe470265f1f5aa22816ce860e",
        ));
        let enc = hex(
            "04a92719c6195d5085104f469a8b9814d5838ff72b60501e2c4466e5e67b325ac98536d7b61a1af4b78e5b7f951c0900be863c403ce65c9bfcb9382657222d18c4",
        );
        assert_eq!(public.ec_point().unwrap(), enc);
        let (private, recipient) = kem.derive_key_pair(&hex(
            "668b37171f1072f3cf12ea8a236a45df23fc13b82af3609ad1e354f6ef817550",
        ));
        let point = recipient.ec_point().unwrap();
        assert_eq!(
            point,
            hex(
                "04fe8c19ce0905191ebc298a9245792531f26f0cece2460639e8bc39cb7f706a826a779b4cf969b8a0e539c7f62fb3d30ad6aa8f80e30f1d128aafd68a2ce72ea0"
            )
        );

        let expected = hex("c0d26aeab536609a572b07695d933b589dcf363ff9d93c93adea537aeabb8cb8");
        let (secret, made) = kem.encapsulate_with(&ephemeral, point).unwrap();
        assert_eq!((&*secret, &made), (&expected, &enc));
        let dh = ecdh(&private, &enc).unwrap();
        assert_eq!(*kem.shared_secret(&dh, &enc, point).unwrap(), expected);
    }

    /// RFC 9180 has no vectors of DHKEM(P-384, HKDF-SHA384); these were computed by its formulas in
    /// Python, by a program that gives the RFC's values for P-256.
    #[test]
    fn p_384_gives_what_another_implementation_gives() {
        let kem = Dhkem::P384;
        let (ephemeral, public) = kem.derive_key_pair(&[8; 48]);
        let enc = hex(
            "045477446c62ee712162a1287cf17f91b8ecea7fc38c9f48e708e902e4defb8874b45d1646a541ac15c2f9684e67628182915f811c001f56fffec714434af7a5a2ff22ae94610ce4c4fde411db7eab2d80159f51121531449a29fa83b7cafaae9d",
        );
        assert_eq!(public.ec_point().unwrap(), enc);
        let (_, recipient) = kem.derive_key_pair(&[7; 48]);
        let (secret, _) = kem
            .encapsulate_with(&ephemeral, recipient.ec_point().unwrap())
            .unwrap();
        let expected = hex(
            "1e3109cf957a27ace3ac7c7e9e12a785b5d43cd6891c37299e6a1df8a2ccf4054176999258facbcccfa2ce454bedc99e",
        );
        assert_eq!(*secret, expected);
    }

    #[test]
    fn both_ends_get_the_same_secret_on_each_curve() {
        for kem in [Dhkem::P256, Dhkem::P384] {
            let (private, public) = kem.derive_key_pair(&[7; 48]);
            let point = public.ec_point().unwrap();
            let (secret, enc) = kem.encapsulate(point).unwrap();
            let dh = ecdh(&private, &enc).unwrap();
            assert_eq!(kem.shared_secret(&dh, &enc, point).unwrap(), secret);
            assert_eq!(kem.shared_secret(&dh[1..], &enc, point), None);
        }
    }
}
