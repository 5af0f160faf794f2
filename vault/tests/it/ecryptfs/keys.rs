//! Keys, and where they are kept.

use claviger_vault::ecryptfs::{
    AuthTok, EcryptfsError, KeySig, PassphraseKey, PrivateKeyTok, Salt, WrapVersion,
    WrappedPassphrase,
};
use claviger_vault::ecryptfs::{Fek, KeyLen, Tag1};
use data_encoding::{BASE64, HEXLOWER};

use super::vector::data;

const PASSPHRASE: &[u8] = b"golden passphrase one";
const LOGIN: &str = "login pässwörd";

fn sig(passphrase: &str, salt: &str) -> String {
    let key = PassphraseKey::derive(passphrase.as_bytes(), salt.parse().unwrap());
    key.unwrap().sig().to_string()
}

#[test]
fn passphrases_give_the_sigs_that_ecryptfs_utils_gives() {
    assert_eq!(
        sig("golden passphrase one", "0011223344556677"),
        "f2291ce4c3069633"
    );
    assert_eq!(
        sig("second: pässwörd/2", "0011223344556677"),
        "f84a2048a4c40079"
    );
    // What `ecryptfs-add-passphrase --fnek` gives, and what it was meant to.
    assert_eq!(Salt::NAMES.to_string(), "3939383837373636");
    assert_eq!(
        sig("golden passphrase one", "3939383837373636"),
        "9e677d297b65a19b"
    );
    assert_eq!(
        sig("golden passphrase one", "9988776655443322"),
        "ba784fd076be5294"
    );
}

#[test]
fn a_passphrase_of_no_or_too_many_bytes_is_refused() {
    for len in [0, 65] {
        let refused = PassphraseKey::derive(&vec![b'x'; len], Salt::DEFAULT).unwrap_err();
        assert!(matches!(refused, EcryptfsError::PassphraseLen(n) if n == len));
    }
    PassphraseKey::derive(&[b'x'; 64], Salt::DEFAULT).unwrap();
}

#[test]
fn wrapped_passphrases_of_both_versions_unwrap() {
    for (name, version) in [("wrapped-passphrase-1", 1), ("wrapped-passphrase-2", 2)] {
        let bytes = data(name);
        let wrapped = WrappedPassphrase::parse(&bytes).unwrap();
        assert_eq!(
            matches!(wrapped.version(), WrapVersion::Two(_)),
            version == 2
        );
        let passphrase = wrapped.unwrap(LOGIN.as_bytes(), Salt::DEFAULT).unwrap();
        assert_eq!(passphrase.as_slice(), PASSPHRASE);
        assert_eq!(wrapped.write(), bytes);
        let wrong = wrapped.unwrap(b"another", Salt::DEFAULT).unwrap_err();
        assert!(matches!(wrong, EcryptfsError::WrongPassphrase(_)));
    }
}

#[test]
fn what_is_wrapped_here_unwraps_here_and_has_a_salt_of_its_own() {
    for passphrase in [&PASSPHRASE[..1], &PASSPHRASE[..16], &[b'p'; 64]] {
        let wrapped = WrappedPassphrase::wrap(passphrase, b"login").unwrap();
        let again = WrappedPassphrase::wrap(passphrase, b"login").unwrap();
        assert_ne!(wrapped.write(), again.write());
        let wrapped = WrappedPassphrase::parse(&wrapped.write()).unwrap();
        let unwrapped = wrapped.unwrap(b"login", Salt::DEFAULT).unwrap();
        assert_eq!(unwrapped.as_slice(), passphrase);
    }
}

#[test]
fn every_truncation_of_a_wrapped_passphrase_is_refused_or_other() {
    for name in ["wrapped-passphrase-1", "wrapped-passphrase-2"] {
        let whole = data(name);
        for len in 0..whole.len() {
            if let Ok(wrapped) = WrappedPassphrase::parse(&whole[..len]) {
                assert_eq!(wrapped.write(), whole[..len]);
            }
        }
    }
}

#[test]
fn auth_toks_of_passphrases_are_those_of_ecryptfs_utils() {
    for (passphrase, salt, sig) in [
        ("golden passphrase one", Salt::DEFAULT, "f2291ce4c3069633"),
        ("golden passphrase one", Salt::NAMES, "9e677d297b65a19b"),
        ("second: pässwörd/2", Salt::DEFAULT, "f84a2048a4c40079"),
    ] {
        let golden = data(&format!("authtok.{sig}.bin"));
        let AuthTok::Passphrase(kept) = AuthTok::parse(&golden).unwrap() else {
            panic!("{sig}")
        };
        let key = PassphraseKey::derive(passphrase.as_bytes(), salt).unwrap();
        assert_eq!(kept.expose(), key.expose());
        assert_eq!((kept.sig(), kept.salt()), (key.sig(), salt));
        assert_eq!(*AuthTok::Passphrase(key).write().unwrap(), golden);
    }
}

#[test]
fn auth_toks_of_rsa_keys_are_those_of_ecryptfs_utils() {
    for sig in ["fd591e1468c3ea8a", "28b7228a9391d6e9"] {
        let golden = data(&format!("authtok.{sig}.bin"));
        let parsed = AuthTok::parse(&golden).unwrap();
        let AuthTok::PrivateKey(key) = &parsed else {
            panic!("{parsed:?}")
        };
        assert_eq!(key.key_sig.to_string(), sig);
        assert_eq!(key.module, "openssl");
        assert!(key.blob.ends_with(b"keypass\0"));
        let mut written = parsed.write().unwrap();
        // The kernel counts there what it has encrypted.
        written[12..16].copy_from_slice(&golden[12..16]);
        assert_eq!(*written, golden);
    }
}

#[test]
fn an_auth_tok_that_says_anything_parses_or_is_refused() {
    for sig in ["f2291ce4c3069633", "fd591e1468c3ea8a"] {
        let golden = data(&format!("authtok.{sig}.bin"));
        for len in 0..golden.len() {
            let _ = AuthTok::parse(&golden[..len]);
        }
        for at in 0..golden.len() {
            for value in [0, 1, 0x7f, 0x80, 0xff, !golden[at]] {
                let mut changed = golden.clone();
                changed[at] = value;
                let _ = AuthTok::parse(&changed);
            }
        }
    }
}

#[test]
fn a_module_name_that_does_not_fit_is_refused() {
    let tok = |module: &str| {
        AuthTok::PrivateKey(PrivateKeyTok {
            key_sig: KeySig([1; 8]),
            key_size: 0,
            module: module.into(),
            blob: vec![0; 3].into(),
        })
    };
    assert!(tok("sixteen--letters").write().is_ok());
    assert!(tok("seventeen-letters").write().is_err());
}

/// n and e of the public half of `rsa2048.pem`.
#[test]
fn an_rsa_key_has_the_sig_that_ecryptfs_utils_gives_it() {
    let modulus = BASE64.decode(include_bytes!("rsa2048.modulus")).unwrap();
    let sig = KeySig::of_rsa(&modulus, &[1, 0, 1]);
    assert_eq!(sig.to_string(), "fd591e1468c3ea8a");
}

/// From the kernel's requests to its daemon.
#[test]
fn what_a_public_key_wraps_is_the_kernels_session_key() {
    let bytes = HEXLOWER
        .decode(b"07ea99826984d9a985ef11cfda2c4265fa096f")
        .unwrap();
    let fek = Fek::from_session_key(&bytes).unwrap();
    assert_eq!(fek.key_len(), KeyLen::Aes128);
    assert_eq!(fek.expose(), &bytes[1..17]);
    assert_eq!(*fek.session_key(), bytes);
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        assert!(Fek::from_session_key(&changed).is_err(), "byte {at}");
        assert!(Fek::from_session_key(&bytes[..at]).is_err(), "cut to {at}");
    }
}

#[test]
fn a_wrapped_fek_beyond_what_the_kernel_takes_is_refused() {
    assert!(Tag1::new(KeySig([1; 8]), &[0; 512]).is_ok());
    assert!(Tag1::new(KeySig([1; 8]), &[0; 513]).is_err());
    assert!(Tag1::new(KeySig([1; 8]), &[]).is_err());
}
