//! Recipients without a token: a passphrase, and the recovery key.
//!
//! Either gives 32 bytes, the seed of a DHKEM(P-256) key pair (`DeriveKeyPair`, RFC 9180 section
//! 7.1.3). Its public half is a recipient like any other, so that new epochs are wrapped to it while
//! the passphrase is not at hand. The private half exists in this process only while it unwraps
//! something; who needs it again keeps the seed, in locked memory.

use core::fmt;
use core::str::FromStr;

use argon2::{Algorithm, Argon2, Params, Version};
use aws_lc_rs::agreement::PrivateKey;
use aws_lc_rs::rand;
use bech32::primitives::decode::CheckedHrpstring;
use bech32::{Bech32m, Hrp};
use data_encoding::BASE64_NOPAD;
use zeroize::Zeroizing;

use crate::dhkem::{Dhkem, ecdh};
use crate::key::{Kem, PublicKey};
use crate::wrap::{Context, Identity, UnwrapError, Wrapped, check_encapsulation, open};

/// The KEM of seeded keys.
pub const KEM: Kem = Kem::DhkemP256;

/// The 32 bytes that a key pair is made of. Wiped on drop; no `Clone`, no `PartialEq`.
pub struct Seed(Zeroizing<[u8; 32]>);

impl Seed {
    /// A copy of `bytes`.
    pub fn new(bytes: &[u8; 32]) -> Self {
        Self(Zeroizing::new(*bytes))
    }

    /// The seed itself, to be kept.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    /// Its key pair, always the same one.
    pub fn derive(&self) -> SeededKey {
        let (private, public) = Dhkem::P256.derive_key_pair(&*self.0);
        SeededKey { private, public }
    }
}

impl fmt::Debug for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seed(32 bytes)")
    }
}

/// A key pair made of a seed, usable in this process.
#[derive(Debug)]
pub struct SeededKey {
    private: PrivateKey,
    public: PublicKey,
}

impl Identity for SeededKey {
    fn public_key(&self) -> &PublicKey {
        &self.public
    }

    fn unwrap(
        &self,
        wrapped: &Wrapped,
        context: &Context,
    ) -> Result<Zeroizing<Vec<u8>>, UnwrapError> {
        check_encapsulation(wrapped, &self.public)?;
        let secret =
            ecdh(&self.private, &wrapped.encapsulation).map_err(|_| UnwrapError::NotDecryptable)?;
        open(wrapped, &self.public, context, &secret)
    }
}

/// How a passphrase becomes a seed: Argon2id (RFC 9106), version 1.3.
///
/// As text, a PHC string without a hash: `$argon2id$v=19$m=65536,t=3,p=4$` and the salt in base64.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PassphraseKdf {
    salt: [u8; 16],
    memory_kib: u32,
    passes: u32,
    lanes: u32,
}

impl PassphraseKdf {
    /// A fresh salt, and the second recommended option of RFC 9106 section 4: 64 MiB, 3 passes, 4
    /// lanes.
    pub fn fresh() -> Self {
        let mut salt = [0; 16];
        rand::fill(&mut salt).expect("the system gives random bytes");
        Self {
            salt,
            memory_kib: 1 << 16,
            passes: 3,
            lanes: 4,
        }
    }

    /// The seed of `passphrase`. Another passphrase gives another one: compare the key id.
    ///
    /// Takes some tenths of a second and the memory that the parameters say.
    pub fn seed(&self, passphrase: &[u8]) -> Seed {
        let params = Params::new(self.memory_kib, self.passes, self.lanes, Some(32))
            .expect("the limits checked when it was read are narrower");
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        let mut seed = Zeroizing::new([0; 32]);
        argon2
            .hash_password_into(passphrase, &self.salt, &mut *seed)
            .expect("lengths are in range: a salt of 16 bytes, a seed of 32");
        Seed(seed)
    }
}

impl fmt::Display for PassphraseKdf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            memory_kib: m,
            passes: t,
            lanes: p,
            salt,
        } = self;
        let salt = BASE64_NOPAD.encode(salt);
        write!(f, "{PHC_PREFIX}m={m},t={t},p={p}${salt}")
    }
}

/// Not the parameters of a passphrase, or such that they would be a trap: whoever holds the lower
/// folder writes them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadKdf {
    /// Not a PHC string of Argon2id version 1.3.
    #[error("malformed passphrase parameters")]
    Malformed,
    /// Too weak to keep a passphrase, or too much to be asked of this machine.
    #[error("passphrase parameters out of range: {0}")]
    OutOfRange(String),
}

impl FromStr for PassphraseKdf {
    type Err = BadKdf;

    /// Reads what `Display` writes; memory from 19 MiB to 2 GiB, 1 to 16 passes, 1 to 16 lanes, and no
    /// more work than two passes over 2 GiB: it cannot be called off midway.
    fn from_str(text: &str) -> Result<Self, BadKdf> {
        let parse = || {
            let (costs, salt) = text.strip_prefix(PHC_PREFIX)?.split_once('$')?;
            let (m, costs) = costs.strip_prefix("m=")?.split_once(",t=")?;
            let (t, p) = costs.split_once(",p=")?;
            Some(Self {
                salt: BASE64_NOPAD.decode(salt.as_bytes()).ok()?.try_into().ok()?,
                memory_kib: m.parse().ok()?,
                passes: t.parse().ok()?,
                lanes: p.parse().ok()?,
            })
        };
        let kdf = parse().ok_or(BadKdf::Malformed)?;
        // The lower memory limit is what OWASP asks for at least (with two passes).
        let in_range = (19 << 10..=2 << 20).contains(&kdf.memory_kib)
            && (1..=16).contains(&kdf.passes)
            && (1..=16).contains(&kdf.lanes)
            && kdf.memory_kib * kdf.passes <= 4 << 20;
        if !in_range {
            return Err(BadKdf::OutOfRange(text.into()));
        }
        Ok(kdf)
    }
}

/// 32 random bytes that open a volume, to be kept on paper.
///
/// As text, bech32m (BIP-350) with `claviger` before its separator: 67 characters, `claviger1…`.
pub struct RecoveryKey(Seed);

impl RecoveryKey {
    /// A fresh one.
    pub fn generate() -> Self {
        let mut seed = Zeroizing::new([0; 32]);
        rand::fill(&mut *seed).expect("the system gives random bytes");
        Self(Seed(seed))
    }

    /// Reads one that a person typed: in either case, with spaces anywhere.
    ///
    /// # Errors
    /// [`BadRecoveryKey`].
    pub fn parse(text: &str) -> Result<Self, BadRecoveryKey> {
        // Sized first, so that no part is left in a buffer that was too small.
        let mut joined = Zeroizing::new(String::with_capacity(text.len()));
        joined.extend(text.split_whitespace());
        let checked = CheckedHrpstring::new::<Bech32m>(&joined).map_err(|_| BadRecoveryKey)?;
        if checked.hrp() != HRP {
            return Err(BadRecoveryKey);
        }
        let mut seed = Zeroizing::new([0; 32]);
        let mut bytes = checked.byte_iter();
        for byte in seed.iter_mut() {
            *byte = bytes.next().ok_or(BadRecoveryKey)?;
        }
        let key = Self(Seed(seed));
        // There is one text a key: 32 bytes leave 4 bits of padding that must be zero.
        if bytes.next().is_some() || !key.expose_text().eq_ignore_ascii_case(&joined) {
            return Err(BadRecoveryKey);
        }
        Ok(key)
    }

    /// Its text.
    pub fn expose_text(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(TEXT_LEN));
        bech32::encode_lower_to_fmt::<Bech32m, _>(&mut *text, HRP, self.0.expose())
            .expect("32 bytes are a short bech32 text");
        text
    }

    /// Its key pair.
    pub fn derive(&self) -> SeededKey {
        self.0.derive()
    }

    /// Its bytes.
    pub fn into_seed(self) -> Seed {
        self.0
    }
}

impl fmt::Debug for RecoveryKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RecoveryKey")
    }
}

/// Not a recovery key, or mistyped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a recovery key, or mistyped: it starts with 'claviger1' and has 67 characters")]
pub struct BadRecoveryKey;

const HRP: Hrp = Hrp::parse_unchecked("claviger");
/// Prefix 8, separator 1, data 52, checksum 6.
const TEXT_LEN: usize = 67;
const PHC_PREFIX: &str = "$argon2id$v=19$";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wrap::{PublicKeyRecipient, Purpose, Recipient};

    const CONTEXT: Context = Context {
        volume: [1; 16],
        epoch: 1,
        purpose: Purpose::EpochKey,
        file: None,
    };

    fn cheap() -> PassphraseKdf {
        format!(
            "{PHC_PREFIX}m=19456,t=1,p=1${}",
            BASE64_NOPAD.encode(&[3; 16])
        )
        .parse()
        .unwrap()
    }

    #[test]
    fn a_passphrase_opens_what_was_wrapped_to_its_public_half() {
        let kdf = cheap();
        let public = kdf.seed(b"correct horse").derive().public_key().clone();
        let recipient = PublicKeyRecipient::new(public.clone(), KEM).unwrap();
        let wrapped = recipient.wrap(&CONTEXT, &[9; 32]).unwrap();

        let again: PassphraseKdf = kdf.to_string().parse().unwrap();
        let key = again.seed(b"correct horse").derive();
        assert_eq!(key.unwrap(&wrapped, &CONTEXT).unwrap().as_slice(), [9; 32]);
        let other = again.seed(b"correct horsf").derive();
        assert_ne!(other.public_key().key_id(), public.key_id());
        assert_eq!(
            other.unwrap(&wrapped, &CONTEXT),
            Err(UnwrapError::NotDecryptable)
        );
    }

    #[test]
    fn a_recovery_key_survives_paper() {
        let key = RecoveryKey::generate();
        let text = key.expose_text();
        assert_eq!(text.len(), TEXT_LEN);
        assert!(text.starts_with("claviger1"));
        let public = key.derive().public_key().key_id();
        let spaced = format!(" {} {}\n", &text[..20], &text[20..]).to_uppercase();
        for typed in [text.as_str(), &spaced] {
            let read = RecoveryKey::parse(typed).unwrap();
            assert_eq!(read.derive().public_key().key_id(), public);
        }
    }

    #[test]
    fn a_mistyped_recovery_key_is_refused() {
        let text = RecoveryKey::generate().expose_text();
        for at in 0..TEXT_LEN {
            let mut mistyped: Vec<char> = text.chars().collect();
            mistyped[at] = if mistyped[at] == 'q' { 'p' } else { 'q' };
            let mistyped: String = mistyped.iter().collect();
            assert!(RecoveryKey::parse(&mistyped).is_err(), "{at}");
            assert!(RecoveryKey::parse(&text[..at]).is_err(), "{at}");
        }
        let other = bech32::encode::<Bech32m>(Hrp::parse("age").unwrap(), &[1; 32]).unwrap();
        assert!(RecoveryKey::parse(&other).is_err());
        let long = bech32::encode::<Bech32m>(HRP, &[1; 33]).unwrap();
        assert!(RecoveryKey::parse(&long).is_err());
    }

    #[test]
    fn parameters_that_an_enemy_wrote_are_refused() {
        let salt = BASE64_NOPAD.encode(&[3; 16]);
        for costs in [
            "m=8,t=1,p=1",
            "m=4194304,t=1,p=1",
            "m=65536,t=0,p=1",
            "m=65536,t=3,p=99",
            "m=2097152,t=3,p=4",
        ] {
            let text = format!("{PHC_PREFIX}{costs}${salt}");
            let refused = text.parse::<PassphraseKdf>();
            assert_eq!(refused, Err(BadKdf::OutOfRange(text)));
        }
        let short = format!("{PHC_PREFIX}m=65536,t=3,p=4$AAAA");
        assert_eq!(short.parse::<PassphraseKdf>(), Err(BadKdf::Malformed));
        let valid = PassphraseKdf::fresh().to_string();
        for length in 0..valid.len() {
            assert!(valid[..length].parse::<PassphraseKdf>().is_err());
        }
    }

    /// Expected values computed apart from this code: HPKE's formulas in Python on hashlib and hmac,
    /// argon2-cffi, and BIP-350's reference bech32m.
    #[test]
    fn seeds_give_the_keys_that_other_implementations_give() {
        let recovery = RecoveryKey(Seed::new(&[0x11; 32]));
        assert_eq!(
            recovery.expose_text().as_str(),
            "claviger1zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zygs2mmdje"
        );
        assert_eq!(
            recovery.derive().public_key().key_id().to_string(),
            "452d17f6b1862f56c8a6dae9e539259350f2bc2741664e4f71169dcb180739d1"
        );
        assert_eq!(
            cheap()
                .seed(b"passphrase")
                .derive()
                .public_key()
                .key_id()
                .to_string(),
            "2002fdece9dcd75922b0ad7b49e5e01d64edbbfb65740a6da09be9305cb13f80"
        );
    }
}
