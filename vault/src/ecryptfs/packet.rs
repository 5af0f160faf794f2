//! Packets: each wraps the file's FEK to one key.
//!
//! They resemble those of RFC 2440 and are not OpenPGP's: tags and versions differ.

use super::cipher::{BLOCK, CipherCode, KeyLen};
use super::error::{EcryptfsError, Part};
use super::fek::Fek;
use super::key_sig::KeySig;
use super::passphrase::{PassphraseKey, Salt};
use crate::native::octets::Octets;

/// A FEK, wrapped to one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet {
    /// To a passphrase: a Tag 3 packet, and the Tag 11 packet that names the key.
    Passphrase(Tag3),
    /// To a public key: a Tag 1 packet.
    PublicKey(Tag1),
}

/// A FEK, wrapped to a passphrase.
///
/// ```text
/// Tag 3    8c | length 1-2 B | 04 | cipher 1 B | 03 01 | salt 8 B | 60 | wrapped FEK, rest
/// Tag 11   ed | length 1-2 B | 62 | 08 "_CONSOLE" | 00000000 | key sig 8 B
/// ```
///
/// The salt is for show: the key is found by its sig. So are the hash (MD5) and its count (60).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tag3 {
    /// Cipher of the content and of the wrapping.
    pub cipher: CipherCode,
    /// What the passphrase was hashed with, it says.
    pub salt: Salt,
    /// The FEK, zero-filled to whole blocks, in ECB mode.
    pub wrapped_fek: Vec<u8>,
    /// Which key wraps it.
    pub key_sig: KeySig,
}

/// A FEK, wrapped to a public key.
///
/// ```text
/// 01 | length 1-2 B | 03 | key sig 8 B | algorithm 1 B | wrapped FEK, rest
/// ```
///
/// How it is wrapped is between the daemons that wrap and unwrap. That of ecryptfs-utils has RSA-OAEP
/// with SHA-1 of [`Fek::session_key`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tag1 {
    /// Which key wraps it.
    pub key_sig: KeySig,
    /// At most 512 bytes.
    pub wrapped_fek: Vec<u8>,
}

impl Packet {
    /// Wraps to a passphrase.
    pub fn wrap(fek: &Fek, key: &PassphraseKey) -> Self {
        let mut wrapped_fek = fek.expose().to_vec();
        wrapped_fek.resize(wrapped_len(fek.key_len()), 0);
        key.cipher(fek.key_len()).encrypt_ecb(&mut wrapped_fek);
        Self::Passphrase(Tag3 {
            cipher: fek.key_len().code(),
            salt: key.salt(),
            wrapped_fek,
            key_sig: key.sig(),
        })
    }

    /// Whose it is.
    pub fn key_sig(&self) -> KeySig {
        match self {
            Self::Passphrase(packet) => packet.key_sig,
            Self::PublicKey(packet) => packet.key_sig,
        }
    }

    /// Parses packets up to the first byte that begins none.
    ///
    /// # Errors
    /// [`EcryptfsError::Malformed`], also if there is not one.
    pub fn parse_all(input: &[u8]) -> Result<Vec<Self>, EcryptfsError> {
        let mut rest = Octets(input);
        let mut packets = Vec::new();
        while let Some(&tag) = rest.0.first() {
            let packet = match tag {
                TAG_3 => Tag3::parse(&mut rest).map(Self::Passphrase),
                TAG_1 => Tag1::parse(&mut rest).map(Self::PublicKey),
                _ => break,
            };
            packets.push(packet.ok_or(EcryptfsError::Malformed(Part::Packet))?);
        }
        match packets.is_empty() {
            true => Err(EcryptfsError::Malformed(Part::Packet)),
            false => Ok(packets),
        }
    }

    /// Its bytes, as in a header.
    pub fn write(&self) -> Vec<u8> {
        match self {
            Self::Passphrase(packet) => packet.write(),
            Self::PublicKey(packet) => packet.write(),
        }
    }
}

impl Tag3 {
    /// Unwraps the FEK. The format has no way to tell that it is the right one.
    ///
    /// # Errors
    /// [`EcryptfsError::WrongPassphrase`] if it is wrapped to another key; [`EcryptfsError::Cipher`];
    /// [`EcryptfsError::Malformed`].
    pub fn unwrap(&self, key: &PassphraseKey) -> Result<Fek, EcryptfsError> {
        if self.key_sig != key.sig() {
            return Err(EcryptfsError::WrongPassphrase(self.key_sig));
        }
        let len = KeyLen::from_code(self.cipher)?;
        if self.wrapped_fek.len() != wrapped_len(len) {
            return Err(EcryptfsError::Malformed(Part::Packet));
        }
        let mut fek = zeroize::Zeroizing::new(self.wrapped_fek.clone());
        key.cipher(len).decrypt_ecb(&mut fek);
        Fek::from_prefix(&fek, len).ok_or(EcryptfsError::Malformed(Part::Packet))
    }

    fn parse(rest: &mut Octets<'_>) -> Option<Self> {
        let mut body = Octets(take(rest, TAG_3)?);
        let &[TAG_3_VERSION, cipher, SALTED_AND_ITERATED, MD5] = body.array()? else {
            return None;
        };
        let salt = Salt(*body.array()?);
        let _iterations = body.u8()?;
        Some(Self {
            cipher: CipherCode(cipher),
            salt,
            wrapped_fek: at_most(body.0, MAX_WRAPPED_FEK)?.to_vec(),
            key_sig: parse_tag_11(rest)?,
        })
    }

    fn write(&self) -> Vec<u8> {
        let mut body = vec![TAG_3_VERSION, self.cipher.0, SALTED_AND_ITERATED, MD5];
        body.extend(self.salt.0);
        body.push(ITERATIONS);
        body.extend(&self.wrapped_fek);
        let mut literal = vec![BINARY, CONSOLE.len() as u8];
        literal.extend(CONSOLE);
        literal.extend([0; 4]);
        literal.extend(self.key_sig.0);
        [framed(TAG_3, &body), framed(TAG_11, &literal)].concat()
    }
}

impl Tag1 {
    /// Frames what the daemon of a public key has wrapped.
    ///
    /// # Errors
    /// [`EcryptfsError::Malformed`] if it is empty or has more than 512 bytes.
    pub fn new(key_sig: KeySig, wrapped_fek: &[u8]) -> Result<Self, EcryptfsError> {
        let wrapped_fek = at_most(wrapped_fek, MAX_WRAPPED_FEK).map(<[u8]>::to_vec);
        let wrapped_fek = wrapped_fek.ok_or(EcryptfsError::Malformed(Part::Packet))?;
        Ok(Self {
            key_sig,
            wrapped_fek,
        })
    }

    fn parse(rest: &mut Octets<'_>) -> Option<Self> {
        let mut body = Octets(take(rest, TAG_1)?);
        if body.u8()? != TAG_1_VERSION {
            return None;
        }
        let key_sig = KeySig(*body.array()?);
        // The kernel does not look at it either.
        let _algorithm = body.u8()?;
        Some(Self {
            key_sig,
            wrapped_fek: at_most(body.0, MAX_WRAPPED_FEK)?.to_vec(),
        })
    }

    fn write(&self) -> Vec<u8> {
        let mut body = vec![TAG_1_VERSION];
        body.extend(self.key_sig.0);
        body.push(RSA);
        body.extend(&self.wrapped_fek);
        framed(TAG_1, &body)
    }
}

const TAG_1: u8 = 0x01;
const TAG_3: u8 = 0x8c;
const TAG_11: u8 = 0xed;
const TAG_1_VERSION: u8 = 3;
const TAG_3_VERSION: u8 = 4;
const RSA: u8 = 1;
const SALTED_AND_ITERATED: u8 = 3;
const MD5: u8 = 1;
const ITERATIONS: u8 = 0x60;
const BINARY: u8 = 0x62;
const CONSOLE: &[u8; 8] = b"_CONSOLE";
const MAX_WRAPPED_FEK: usize = 512;

/// The kernel wraps whole blocks: a FEK of 24 bytes is wrapped with 8 zeros after it.
fn wrapped_len(len: KeyLen) -> usize {
    len.bytes().next_multiple_of(BLOCK)
}

fn parse_tag_11(rest: &mut Octets<'_>) -> Option<KeySig> {
    let mut body = Octets(take(rest, TAG_11)?);
    if body.array()? != &[BINARY, CONSOLE.len() as u8] {
        return None;
    }
    // The kernel takes any file name and date.
    let _console: &[u8; 8] = body.array()?;
    let _date: &[u8; 4] = body.array()?;
    body.0.try_into().ok().map(KeySig)
}

/// `bytes` unless they are none or more than `limit`.
fn at_most(bytes: &[u8], limit: usize) -> Option<&[u8]> {
    (1..=limit).contains(&bytes.len()).then_some(bytes)
}

/// Takes a packet of `tag`; its body.
pub(super) fn take<'a>(rest: &mut Octets<'a>, tag: u8) -> Option<&'a [u8]> {
    if rest.u8()? != tag {
        return None;
    }
    // RFC 2440 section 4.2.2, without its 4-byte and partial lengths, which the kernel refuses.
    let len = match rest.u8()? {
        short @ ..192 => usize::from(short),
        first @ 192..224 => (usize::from(first - 192) << 8) + usize::from(rest.u8()?) + 192,
        224.. => return None,
    };
    rest.slice(len)
}

/// A packet of `tag`.
///
/// # Panics
/// If `body` has more than 8383 bytes, which none here has.
pub(super) fn framed(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![tag];
    match body.len() {
        short @ ..192 => packet.push(short as u8),
        long => {
            assert!(long <= 8383, "longer than a packet can be");
            packet.extend(((long - 192 + (192 << 8)) as u16).to_be_bytes());
        }
    }
    packet.extend(body);
    packet
}
