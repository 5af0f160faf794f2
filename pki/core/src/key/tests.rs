use aws_lc_rs::agreement::PrivateKey;
use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rsa::{KeySize, PrivateDecryptingKey};
use proptest::prelude::*;

use super::*;

fn ec_spki(key_type: KeyType) -> Vec<u8> {
    let algorithm = if key_type == KeyType::EcP256 {
        &ECDH_P256
    } else {
        &ECDH_P384
    };
    let public = PrivateKey::generate(algorithm)
        .unwrap()
        .compute_public_key()
        .unwrap();
    let der: aws_lc_rs::encoding::PublicKeyX509Der<'_> = public.as_der().unwrap();
    der.as_ref().to_vec()
}

fn rsa_spki() -> Vec<u8> {
    let key = PrivateDecryptingKey::generate(KeySize::Rsa2048).unwrap();
    key.public_key().as_der().unwrap().as_ref().to_vec()
}

#[test]
fn keys_of_each_curve_are_read_and_rebuilt_from_their_point() {
    for key_type in [KeyType::EcP256, KeyType::EcP384] {
        let spki = ec_spki(key_type);
        let key = PublicKey::from_spki(&spki).unwrap();
        assert_eq!(key.key_type(), key_type);
        assert_eq!(key.spki(), spki);
        let point = key.ec_point().unwrap();
        assert_eq!(point.len(), key_type.encapsulation_len());
        assert_eq!(PublicKey::from_ec_point(key_type, point).unwrap(), key);
    }
}

#[test]
fn an_rsa_key_is_read_and_rebuilt_from_its_numbers() {
    let spki = rsa_spki();
    let key = PublicKey::from_spki(&spki).unwrap();
    assert_eq!(key.key_type(), KeyType::Rsa2048);
    let (modulus, exponent) = key.rsa().unwrap();
    assert_eq!((modulus.len(), exponent), (256, &[1, 0, 1][..]));
    assert_eq!(PublicKey::from_rsa(modulus, exponent).unwrap(), key);
    let padded = [&[0, 0], modulus].concat();
    assert_eq!(PublicKey::from_rsa(&padded, exponent).unwrap(), key);
}

#[test]
fn each_rsa_size_has_the_der_that_openssl_writes() {
    // Lengths of `openssl rsa -pubout -outform DER` with exponent 65537.
    for (bytes, length) in [(256, 294), (384, 422), (512, 550)] {
        let mut modulus = vec![0x80; bytes];
        modulus[bytes - 1] = 1;
        let key = PublicKey::from_rsa(&modulus, &[1, 0, 1]).unwrap();
        assert_eq!(key.spki().len(), length);
        assert_eq!(PublicKey::from_spki(key.spki()).unwrap(), key);
    }
}

/// The key of RFC 9180 appendix A.3; its id computed with Python's hashlib over the DER.
#[test]
fn a_key_id_is_the_hash_of_the_der() {
    let point = data_encoding::HEXLOWER
        .decode(
            b"04fe8c19ce0905191ebc298a9245792531f26f0cece2460639e8bc39cb7f706a82\
              6a779b4cf969b8a0e539c7f62fb3d30ad6aa8f80e30f1d128aafd68a2ce72ea0",
        )
        .unwrap();
    let key = PublicKey::from_ec_point(KeyType::EcP256, &point).unwrap();
    let id = "a27764dca633730528009f8d8b027286ac7eb22a1fa52de0abe73eb7c7183360";
    assert_eq!(key.key_id().to_string(), id);
    assert_eq!(id.parse(), Ok(key.key_id()));
    assert!(id[1..].parse::<KeyId>().is_err());
}

/// `openssl pkey -pubin -outform PEM` of the same key.
#[test]
fn pem_is_written_as_openssl_writes_it_and_read_with_text_around_it() {
    let pem = "-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE/owZzgkFGR68KYqSRXklMfJvDOzi
RgY56Lw5y39waoJqd5tM+Wm4oOU5x/Yvs9MK1qqPgOMPHRKKr9aKLOcuoA==
-----END PUBLIC KEY-----
";
    let around = format!("a key\n{pem}more\n").replace('\n', "\r\n");
    let key = PublicKey::from_pem(&around).unwrap();
    assert_eq!(key.to_pem(), pem);
    let rsa = PublicKey::from_spki(&rsa_spki()).unwrap();
    assert_eq!(PublicKey::from_pem(&rsa.to_pem()).unwrap(), rsa);
    for text in ["", pem.split_at(70).0, &pem.replace("PUBLIC", "PRIVATE")] {
        assert_eq!(PublicKey::from_pem(text), Err(BadKey::Malformed));
    }
}

#[test]
fn a_point_off_its_curve_is_refused() {
    let key = PublicKey::from_spki(&ec_spki(KeyType::EcP256)).unwrap();
    let mut point = key.ec_point().unwrap().to_vec();
    point[64] ^= 1;
    assert_eq!(
        PublicKey::from_ec_point(KeyType::EcP256, &point),
        Err(BadKey::NotOnCurve)
    );
    assert_eq!(
        PublicKey::from_ec_point(KeyType::EcP256, &[0]),
        Err(BadKey::Malformed)
    );
    let mut hybrid = key.ec_point().unwrap().to_vec();
    hybrid[0] = 6 | (hybrid[64] & 1);
    assert_eq!(
        PublicKey::from_ec_point(KeyType::EcP256, &hybrid),
        Err(BadKey::Malformed)
    );
}

#[test]
fn a_second_encoding_of_the_same_key_is_refused() {
    let spki = rsa_spki();
    let mut trailing = spki.clone();
    trailing.push(0);
    assert_eq!(PublicKey::from_spki(&trailing), Err(BadKey::Malformed));
    // The outer length in three bytes where two do.
    let long_form = [&[0x30, 0x83, 0x00], &spki[2..]].concat();
    assert_eq!(PublicKey::from_spki(&long_form), Err(BadKey::Malformed));
}

#[test]
fn other_algorithms_and_sizes_are_named() {
    let ed25519 = [
        &[
            0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0,
        ][..],
        &[9; 32],
    ]
    .concat();
    assert_eq!(
        PublicKey::from_spki(&ed25519).unwrap_err().to_string(),
        "unsupported public key: algorithm 1.3.101.112"
    );
    assert_eq!(
        PublicKey::from_rsa(&[0xff; 128], &[1, 0, 1])
            .unwrap_err()
            .to_string(),
        "unsupported public key: RSA of about 1024 bits"
    );
}

#[test]
fn every_truncation_is_refused() {
    for spki in [rsa_spki(), ec_spki(KeyType::EcP384)] {
        for length in 0..spki.len() {
            assert!(PublicKey::from_spki(&spki[..length]).is_err(), "{length}");
        }
    }
}

#[test]
fn every_name_is_read_back() {
    for (key_type, name) in KeyType::NAMES {
        assert_eq!(name.parse(), Ok(*key_type));
        assert_eq!(key_type.to_string(), *name);
    }
    for (kem, name) in Kem::NAMES {
        assert_eq!(name.parse(), Ok(*kem));
        assert_eq!(Kem::from_number(kem.number()), Some(*kem));
    }
    assert!("rsa1024".parse::<KeyType>().is_err());
    assert_eq!(Kem::from_number(99), None);
}

proptest! {
    #[test]
    fn no_input_panics_and_what_parses_is_canonical(der in proptest::collection::vec(any::<u8>(), 0..600)) {
        if let Ok(key) = PublicKey::from_spki(&der) {
            prop_assert_eq!(key.spki(), &der[..]);
        }
    }

    #[test]
    fn a_changed_rsa_key_is_refused_or_another_key(at in 0_usize..294, bit in 0..8) {
        let mut modulus = vec![0x93; 256];
        modulus[255] = 1;
        let key = PublicKey::from_rsa(&modulus, &[1, 0, 1]).unwrap();
        let mut changed = key.spki().to_vec();
        changed[at] ^= 1_u8 << bit;
        if let Ok(other) = PublicKey::from_spki(&changed) {
            prop_assert_eq!(other.spki(), &changed[..]);
            prop_assert_ne!(other.key_id(), key.key_id());
        }
    }
}
