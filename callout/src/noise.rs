//! Noise on aws-lc: the resolver that gives `snow` its X25519, AES-256-GCM and SHA-256.
//!
//! `snow` without default features brings no cryptography of its own, so that the workspace keeps
//! one generation of primitives (`docs/decisions/021`).

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::agreement::{self, PrivateKey, UnparsedPublicKey, X25519};
use aws_lc_rs::digest::{Context, SHA256};
use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use snow::params::{CipherChoice, DHChoice, HashChoice};
use snow::resolvers::CryptoResolver;
use snow::types::{Cipher, Dh, Hash, Random};

/// The one protocol spoken.
pub(crate) const PROTOCOL: &str = "Noise_NN_25519_AESGCM_SHA256";

/// Bytes AES-GCM adds to a message.
pub(crate) const TAG_LEN: usize = 16;

/// Resolves [`PROTOCOL`]'s primitives and no others.
pub(crate) struct AwsLc;

impl CryptoResolver for AwsLc {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(Rng(SystemRandom::new())))
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        match choice {
            DHChoice::Curve25519 => Some(Box::new(Ephemeral::default())),
            _ => None,
        }
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        match choice {
            HashChoice::SHA256 => Some(Box::new(Sha256(Context::new(&SHA256)))),
            _ => None,
        }
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        match choice {
            CipherChoice::AESGCM => Some(Box::new(AesGcm(None))),
            _ => None,
        }
    }
}

struct Rng(SystemRandom);

impl Random for Rng {
    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), snow::Error> {
        self.0.fill(dest).map_err(|_| snow::Error::Rng)
    }
}

/// An X25519 key pair that never leaves aws-lc: NN has ephemeral keys only.
#[derive(Default)]
struct Ephemeral {
    private: Option<PrivateKey>,
    public: Vec<u8>,
}

impl Ephemeral {
    fn keep(&mut self, private: PrivateKey) -> Result<(), snow::Error> {
        let public = private.compute_public_key().map_err(|_| snow::Error::Dh)?;
        self.public = public.as_ref().to_vec();
        self.private = Some(private);
        Ok(())
    }
}

impl Dh for Ephemeral {
    fn name(&self) -> &'static str {
        "25519"
    }

    fn pub_len(&self) -> usize {
        32
    }

    fn priv_len(&self) -> usize {
        32
    }

    // snow calls this for static and for fixed test keys. A key that does not parse leaves the pair
    // without a private half, and `dh` then fails.
    fn set(&mut self, privkey: &[u8]) {
        self.private = None;
        if let Ok(private) = PrivateKey::from_private_key(&X25519, privkey) {
            let _ = self.keep(private);
        }
    }

    fn generate(&mut self, _: &mut dyn Random) -> Result<(), snow::Error> {
        self.keep(PrivateKey::generate(&X25519).map_err(|_| snow::Error::Rng)?)
    }

    fn pubkey(&self) -> &[u8] {
        &self.public
    }

    // Asked for by `Builder::generate_keypair` only, which makes the static keys NN does not have.
    fn privkey(&self) -> &[u8] {
        &[]
    }

    fn dh(&self, pubkey: &[u8], out: &mut [u8]) -> Result<(), snow::Error> {
        let private = self.private.as_ref().ok_or(snow::Error::Dh)?;
        let (public, _) = pubkey.split_at_checked(32).ok_or(snow::Error::Dh)?;
        let out = out.get_mut(..32).ok_or(snow::Error::Dh)?;
        // aws-lc refuses a peer key that yields the all-zero secret (RFC 7748, section 6.1).
        agreement::agree(
            private,
            UnparsedPublicKey::new(&X25519, public),
            snow::Error::Dh,
            |secret| {
                out.copy_from_slice(secret);
                Ok(())
            },
        )
    }
}

struct Sha256(Context);

impl Hash for Sha256 {
    fn name(&self) -> &'static str {
        "SHA256"
    }

    fn block_len(&self) -> usize {
        64
    }

    fn hash_len(&self) -> usize {
        32
    }

    fn reset(&mut self) {
        self.0 = Context::new(&SHA256);
    }

    fn input(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    fn result(&mut self, out: &mut [u8]) {
        let digest = self.0.clone().finish();
        out.iter_mut()
            .zip(digest.as_ref())
            .for_each(|(out, byte)| *out = *byte);
    }
}

/// `None` until Noise has derived a key; snow never uses a cipher before that.
struct AesGcm(Option<LessSafeKey>);

/// Noise's nonce for AESGCM: four zero bytes, then the counter, big-endian (Noise 34, section 12.4).
fn nonce(counter: u64) -> Nonce {
    let [a, b, c, d, e, f, g, h] = counter.to_be_bytes();
    Nonce::assume_unique_for_key([0, 0, 0, 0, a, b, c, d, e, f, g, h])
}

impl Cipher for AesGcm {
    fn name(&self) -> &'static str {
        "AESGCM"
    }

    fn set(&mut self, key: &[u8; 32]) {
        let key = UnboundKey::new(&AES_256_GCM, key).expect("AES-256 takes any 32 bytes");
        self.0 = Some(LessSafeKey::new(key));
    }

    // The trait has no way to fail. Both `expect`s see snow's own invariants: it checks that a key is
    // set and that `out` has room for the tag (`cipherstate.rs`, `statelesstransportstate.rs`).
    fn encrypt(&self, counter: u64, authtext: &[u8], plaintext: &[u8], out: &mut [u8]) -> usize {
        let key = self
            .0
            .as_ref()
            .expect("snow encrypts only once a key is set");
        let (ciphertext, rest) = out.split_at_mut(plaintext.len());
        let (tag, _) = rest.split_at_mut(TAG_LEN);
        key.seal_out_of_place_scatter(
            nonce(counter),
            Aad::from(authtext),
            plaintext,
            ciphertext,
            &[],
            tag,
        )
        .expect("AES-GCM seals any message below 64 GiB");
        plaintext.len() + TAG_LEN
    }

    fn decrypt(
        &self,
        counter: u64,
        authtext: &[u8],
        message: &[u8],
        out: &mut [u8],
    ) -> Result<usize, snow::Error> {
        let key = self.0.as_ref().ok_or(snow::Error::Decrypt)?;
        let (ciphertext, tag) = message
            .split_last_chunk::<TAG_LEN>()
            .ok_or(snow::Error::Decrypt)?;
        let out = out
            .get_mut(..ciphertext.len())
            .ok_or(snow::Error::Decrypt)?;
        key.open_separate_gather(nonce(counter), Aad::from(authtext), ciphertext, tag, out)
            .map_err(|_| snow::Error::Decrypt)?;
        Ok(ciphertext.len())
    }
}

#[cfg(test)]
mod tests {
    use snow::Builder;

    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<_> = hex
            .bytes()
            .map(|byte| (byte as char).to_digit(16).unwrap())
            .collect();
        digits
            .chunks(2)
            .map(|pair| (pair[0] * 16 + pair[1]) as u8)
            .collect()
    }

    /// The vector of cacophony, a Noise in Haskell (`vectors/cacophony.txt`), for this very protocol:
    /// payload and ciphertext of each message, both ends in turn.
    const MESSAGES: [(&str, &str); 6] = [
        (
            "4c756477696720766f6e204d69736573",
            "ca35def5ae56cec33dc2036731ab14896bc4c75dbb07a61f879f8e3afa4c7944\
             4c756477696720766f6e204d69736573",
        ),
        (
            "4d757272617920526f746862617264",
            "95ebc60d2b1fa672c1f46a8aa265ef51bfe38e7ccb39ec5be34069f144808843\
             934ff73eebb9d930ebf62b8e4db8133ca936872b5551efd7c9989c646d8cf0",
        ),
        (
            "462e20412e20486179656b",
            "8d372b94914e80018211a344b8b1c5a2869492a0db46990c0362f3",
        ),
        (
            "4361726c204d656e676572",
            "e183b0abd55550f9955fb05476d988c6f27628d7bbde111c39ccbc",
        ),
        (
            "4a65616e2d426170746973746520536179",
            "167293a79ad6a647114c4f4eb55bdf713a0d44ae48765c07fc4e57743100825021",
        ),
        (
            "457567656e2042f6686d20766f6e2042617765726b",
            "2b67a18ae246069c51687bee89141041d9d35a821f852975d169a4f80f75c735807a1fd157",
        ),
    ];
    const PROLOGUE: &str = "4a6f686e2047616c74";
    const INITIATOR: &str = "893e28b9dc6ca8d611ab664754b8ceb7bac5117349a4439a6b0569da977c464a";
    const RESPONDER: &str = "bbdb4cdbd309f1a1f2e1456967fe288cadd6f712d65dc7b7793d5e63da6b375b";

    #[test]
    fn speaks_the_same_noise_as_another_implementation() {
        let prologue = bytes(PROLOGUE);
        let keys = [bytes(INITIATOR), bytes(RESPONDER)];
        let builder = |key| {
            Builder::with_resolver(PROTOCOL.parse().unwrap(), Box::new(AwsLc))
                .prologue(&prologue)
                .unwrap()
                .fixed_ephemeral_key_for_testing_only(key)
        };
        let mut initiator = builder(&keys[0]).build_initiator().unwrap();
        let mut responder = builder(&keys[1]).build_responder().unwrap();
        let (mut sent, mut read) = ([0; 128], [0; 128]);
        let (handshake, transport) = MESSAGES.split_at(2);
        for (number, (payload, ciphertext)) in handshake.iter().enumerate() {
            let ends = match number {
                0 => (&mut initiator, &mut responder),
                _ => (&mut responder, &mut initiator),
            };
            let len = ends.0.write_message(&bytes(payload), &mut sent).unwrap();
            assert_eq!(sent[..len], bytes(ciphertext));
            let len = ends.1.read_message(&sent[..len], &mut read).unwrap();
            assert_eq!(read[..len], bytes(payload));
        }
        let initiator = initiator.into_stateless_transport_mode().unwrap();
        let responder = responder.into_stateless_transport_mode().unwrap();
        for (number, (payload, ciphertext)) in transport.iter().enumerate() {
            let (from, to) = match number % 2 {
                0 => (&initiator, &responder),
                _ => (&responder, &initiator),
            };
            let nonce = number as u64 / 2;
            let len = from
                .write_message(nonce, &bytes(payload), &mut sent)
                .unwrap();
            assert_eq!(sent[..len], bytes(ciphertext));
            let len = to.read_message(nonce, &sent[..len], &mut read).unwrap();
            assert_eq!(read[..len], bytes(payload));
        }
    }

    #[test]
    fn a_peer_key_of_small_order_is_refused() {
        let mut pair = Ephemeral::default();
        pair.generate(&mut Rng(SystemRandom::new())).unwrap();
        assert!(pair.dh(&[0; 32], &mut [0; 32]).is_err());
        let mut one = [0; 32];
        one[0] = 1;
        assert!(pair.dh(&one, &mut [0; 32]).is_err());
    }
}
