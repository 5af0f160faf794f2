use aws_lc_rs::agreement::PrivateKey;
use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rsa::{KeySize, OaepPrivateDecryptingKey, PrivateDecryptingKey};
use proptest::prelude::*;

use super::*;
use crate::dhkem::ecdh;

const CONTEXT: Context = Context {
    volume: [1; 16],
    epoch: 7,
    purpose: Purpose::EpochKey,
    file: None,
};

/// A private key outside any token, to stand at the module's place.
enum Private {
    Rsa(Box<OaepPrivateDecryptingKey>),
    Ec(PrivateKey),
}

impl Private {
    fn rsa() -> (Self, PublicKey) {
        let key = PrivateDecryptingKey::generate(KeySize::Rsa2048).unwrap();
        let spki = key.public_key().as_der().unwrap();
        let public = PublicKey::from_spki(spki.as_ref()).unwrap();
        let private = OaepPrivateDecryptingKey::new(key).unwrap();
        (Self::Rsa(Box::new(private)), public)
    }

    fn ec(dhkem: Dhkem) -> (Self, PublicKey) {
        let (private, public) = dhkem.derive_key_pair(&[5; 48]);
        (Self::Ec(private), public)
    }

    fn decapsulate(&self, wrapped: &Wrapped) -> Zeroizing<Vec<u8>> {
        match (self, Scheme::of(wrapped.kem)) {
            (Self::Rsa(key), Scheme::Rsa(oaep)) => {
                let mut out = vec![0; key.min_output_size()];
                let secret = key.decrypt(oaep, &wrapped.encapsulation, &mut out, None);
                Zeroizing::new(secret.unwrap().to_vec())
            }
            (Self::Ec(key), Scheme::Ec(_)) => ecdh(key, &wrapped.encapsulation).unwrap(),
            _ => panic!("a KEM of the other kind"),
        }
    }
}

fn each_kem() -> Vec<(Private, PublicKey, Kem)> {
    let (rsa, rsa_key) = Private::rsa();
    let (rsa_1, rsa_1_key) = Private::rsa();
    let (p256, p256_key) = Private::ec(Dhkem::P256);
    let (p384, p384_key) = Private::ec(Dhkem::P384);
    vec![
        (rsa, rsa_key, Kem::RsaOaepSha256),
        (rsa_1, rsa_1_key, Kem::RsaOaepSha1),
        (p256, p256_key, Kem::DhkemP256),
        (p384, p384_key, Kem::DhkemP384),
    ]
}

fn wrap(key: &PublicKey, kem: Kem) -> Wrapped {
    let recipient = PublicKeyRecipient::new(key.clone(), kem).unwrap();
    recipient.wrap(&CONTEXT, b"payload").unwrap()
}

#[test]
fn what_is_wrapped_opens_by_every_kem() {
    for (private, key, kem) in each_kem() {
        let wrapped = wrap(&key, kem);
        let read = Wrapped::parse(wrapped.algorithm(), &wrapped.write(), &key).unwrap();
        assert_eq!(read, wrapped);
        check_encapsulation(&read, &key).unwrap();
        let secret = private.decapsulate(&read);
        let payload = open(&read, &key, &CONTEXT, &secret).unwrap();
        assert_eq!(payload.as_slice(), b"payload", "{kem}");
    }
}

#[test]
fn no_other_context_opens_it() {
    let others = [
        Context {
            volume: [2; 16],
            ..CONTEXT
        },
        Context {
            epoch: 8,
            ..CONTEXT
        },
        Context {
            purpose: Purpose::FileKey,
            ..CONTEXT
        },
        Context {
            file: Some([0; 16]),
            ..CONTEXT
        },
    ];
    for (private, key, kem) in each_kem() {
        let wrapped = wrap(&key, kem);
        let secret = private.decapsulate(&wrapped);
        for other in &others {
            assert_eq!(
                open(&wrapped, &key, other, &secret),
                Err(UnwrapError::NotDecryptable)
            );
        }
    }
}

#[test]
fn another_key_or_another_secret_opens_nothing() {
    let (_, other) = Dhkem::P256.derive_key_pair(&[6; 32]);
    let (private, key) = Private::ec(Dhkem::P256);
    let wrapped = wrap(&key, Kem::DhkemP256);
    let secret = private.decapsulate(&wrapped);
    let refused = Err(UnwrapError::NotDecryptable);
    assert_eq!(open(&wrapped, &other, &CONTEXT, &secret), refused);
    assert_eq!(open(&wrapped, &key, &CONTEXT, &[0; 32]), refused);
    assert_eq!(open(&wrapped, &key, &CONTEXT, &secret[1..]), refused);
}

#[test]
fn a_kem_of_another_kind_of_key_is_refused() {
    let (_, key) = Private::ec(Dhkem::P384);
    let refused = PublicKeyRecipient::new(key.clone(), Kem::DhkemP256).unwrap_err();
    let expected = format!("dhkem-p256 does not wrap to key {}", key.key_id());
    assert_eq!(refused.to_string(), expected);
    let wrapped = wrap(&key, Kem::DhkemP384);
    let body = wrapped.write();
    for other in [Kem::DhkemP256, Kem::RsaOaepSha1] {
        let refused = Wrapped::parse(other.number(), &body, &key);
        assert_eq!(refused, Err(UnwrapError::NotDecryptable));
    }
    let newer = Wrapped::parse(110, &body, &key).unwrap_err();
    assert_eq!(
        newer.to_string(),
        "unsupported algorithm 110 of a wrapped key"
    );
}

#[test]
fn a_point_off_the_curve_never_reaches_a_token() {
    let (_, key) = Private::ec(Dhkem::P256);
    let mut wrapped = wrap(&key, Kem::DhkemP256);
    wrapped.encapsulation[64] ^= 1;
    let locator = Locator("anything".into());
    assert_eq!(
        wrapped.step(&key, locator),
        Err(UnwrapError::NotDecryptable)
    );
}

/// Octets fixed for ever once the format is frozen: a second implementation must agree.
#[test]
fn the_context_has_one_encoding() {
    let context = Context {
        volume: [0xaa; 16],
        epoch: 0x0102_0304,
        purpose: Purpose::FileKey,
        file: Some([0xbb; 16]),
    };
    let expected = "a".repeat(32) + "04030201" + "02" + "01" + &"b".repeat(32);
    assert_eq!(
        data_encoding::HEXLOWER.encode(&context.canonical()),
        expected
    );
    let without = Context {
        file: None,
        ..context
    };
    let expected = "a".repeat(32) + "04030201" + "02" + "00" + &"0".repeat(32);
    assert_eq!(
        data_encoding::HEXLOWER.encode(&without.canonical()),
        expected
    );
}

/// Made apart from this code: the formulas at the head of the module and of RFC 9180 in Python, AES-GCM
/// by its cryptography package.
#[test]
fn what_another_implementation_wrapped_opens() {
    let hex = |text: &str| data_encoding::HEXLOWER.decode(text.as_bytes()).unwrap();
    let context = Context {
        volume: [0xaa; 16],
        epoch: 0x0102_0304,
        purpose: Purpose::FileKey,
        file: Some([0xbb; 16]),
    };
    let (private, key) = Dhkem::P256.derive_key_pair(&[0x11; 32]);
    let body = hex(
        "0449c42cadce500426240cb217c1974ca8e310937b2a7d6e43acce12b4b31d395ebc4a7bc8897b03be18aaa6b04c8b45e77641144cd44c3b0aaeab10eae1e6cc4138608dc5033b27bd4a1100aa54d2f617a3ecd2f75b6782ce79ab29e057029b1c5bfa3752370fa67ab99487472a55636f",
    );
    let wrapped = Wrapped::parse(102, &body, &key).unwrap();
    let secret = Private::Ec(private).decapsulate(&wrapped);
    let payload = open(&wrapped, &key, &context, &secret).unwrap();
    assert_eq!(payload.as_slice(), [0x5a; 32]);

    let mut modulus = vec![0x93; 256];
    modulus[255] = 1;
    let key = PublicKey::from_rsa(&modulus, &[1, 0, 1]).unwrap();
    for (algorithm, sealed) in [
        (
            100,
            "80bbe4caf5a78410320694bd30c8309f8e3776c7a5c52e2af2e4dcf7e60ada20de69c2223e5ca7ad8475cdc2366e04c0",
        ),
        (
            101,
            "3cbe1ae49a7a17509bc4015635df8bfaa411e9a74cecb7aea690c9add1cd53e20e5f521bee4c3a345a87d63681c38e84",
        ),
    ] {
        let body = [vec![0x44; 256], hex(sealed)].concat();
        let wrapped = Wrapped::parse(algorithm, &body, &key).unwrap();
        let payload = open(&wrapped, &key, &context, &[0x33; 32]).unwrap();
        assert_eq!(payload.as_slice(), [0x5a; 32]);
    }
}

#[test]
fn every_truncation_is_refused_without_a_panic() {
    let (private, key) = Private::ec(Dhkem::P256);
    let wrapped = wrap(&key, Kem::DhkemP256);
    let secret = private.decapsulate(&wrapped);
    let body = wrapped.write();
    for length in 0..body.len() {
        let opened = Wrapped::parse(wrapped.algorithm(), &body[..length], &key)
            .and_then(|read| open(&read, &key, &CONTEXT, &secret));
        assert_eq!(opened, Err(UnwrapError::NotDecryptable), "{length}");
    }
}

proptest! {
    #[test]
    fn a_changed_bit_anywhere_is_refused(at in 0_usize..88, bit in 0..8) {
        let (private, key) = Private::ec(Dhkem::P256);
        let wrapped = wrap(&key, Kem::DhkemP256);
        let mut body = wrapped.write();
        prop_assert_eq!(body.len(), 65 + 7 + 16);
        body[at] ^= 1_u8 << bit;
        let secret = private.decapsulate(&wrapped);
        let opened = Wrapped::parse(wrapped.algorithm(), &body, &key)
            .and_then(|read| open(&read, &key, &CONTEXT, &secret));
        prop_assert_eq!(opened, Err(UnwrapError::NotDecryptable));
    }
}
