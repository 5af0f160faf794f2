//! `struct ecryptfs_auth_tok`: what the kernel finds of a key in its keyring.

use core::fmt;

use zeroize::Zeroizing;

use super::error::{EcryptfsError, Part};
use super::key_sig::{HEX_LEN, KeySig};
use super::passphrase::{KEY_LEN, PassphraseKey, Salt};
use crate::native::octets::Octets;

/// The payload of a key of type `user` whose description is the sig. Packed, in native byte order.
///
/// ```text
///   0  u16       version, 4                 628  passphrase:       private key:
///   2  u16       0 passphrase, 1 private      0  u32  0              0  u32       key size
///   4  u32       flags                        4  s32  10 (SHA-512)   4  u32       length of the blob
///   8  u32[3]    session key, used by         8  u32  0              8  char[17]  sig
///  20  u8[512]   the kernel only             12  u32  64            25  char[17]  module
/// 532  u8[64]                                16  u32  2 (key set)   42  u8[]      blob
/// 596  u8[32]    reserved                    20  u8[64]  key
/// 628  u8[112]   of either kind              84  char[17]  sig
/// 740                                       101  u8[8]   salt
/// ```
///
/// With a blob the payload is 740 bytes longer than the blob, though the blob begins at 670. Source:
/// `include/ecryptfs.h` of ecryptfs-utils.
#[derive(Debug)]
pub enum AuthTok {
    /// A key from a passphrase.
    Passphrase(PassphraseKey),
    /// A private key that a daemon uses.
    PrivateKey(PrivateKeyTok),
}

/// What the kernel and its daemon know of a private key.
pub struct PrivateKeyTok {
    /// Which key.
    pub key_sig: KeySig,
    /// Size of the key as the tools write it. Nobody reads it.
    pub key_size: u32,
    /// Name of the daemon's module; at most 16 bytes.
    pub module: String,
    /// What the module needs to find the key. That of openssl holds the passphrase of a PEM file, in
    /// clear.
    pub blob: Zeroizing<Vec<u8>>,
}

impl AuthTok {
    /// Which key it is for.
    pub fn key_sig(&self) -> KeySig {
        match self {
            Self::Passphrase(key) => key.sig(),
            Self::PrivateKey(key) => key.key_sig,
        }
    }

    /// Parses a payload.
    ///
    /// # Errors
    /// [`EcryptfsError::Malformed`].
    pub fn parse(bytes: &[u8]) -> Result<Self, EcryptfsError> {
        let parse = || {
            let mut rest = Octets(bytes);
            if u16::from_ne_bytes(*rest.array()?) != VERSION {
                return None;
            }
            let kind = u16::from_ne_bytes(*rest.array()?);
            let _session_key = rest.slice(UNION - 4)?;
            match kind {
                PASSWORD => Self::parse_passphrase(rest),
                PRIVATE_KEY => Self::parse_private_key(rest),
                _ => None,
            }
        };
        parse().ok_or(EcryptfsError::Malformed(Part::AuthTok))
    }

    fn parse_passphrase(mut rest: Octets<'_>) -> Option<Self> {
        let _password_bytes_hash_and_iterations: &[u8; 12] = rest.array()?;
        let key_len = u32::from_ne_bytes(*rest.array()?);
        let flags = u32::from_ne_bytes(*rest.array()?);
        if key_len as usize > KEY_LEN || flags & KEY_SET == 0 {
            return None;
        }
        let mut key = Zeroizing::new(*rest.array::<KEY_LEN>()?);
        let sig = parse_sig(&mut rest)?;
        let salt = Salt(*rest.array()?);
        let _padding: &[u8; 3] = rest.array()?;
        Some(Self::Passphrase(PassphraseKey::kept(&mut key, sig, salt)))
    }

    fn parse_private_key(mut rest: Octets<'_>) -> Option<Self> {
        let key_size = u32::from_ne_bytes(*rest.array()?);
        let blob_len = u32::from_ne_bytes(*rest.array()?);
        let key_sig = parse_sig(&mut rest)?;
        let module = rest.slice(MODULE_LEN)?.split(|&byte| byte == 0).next()?;
        let module = str::from_utf8(module).ok()?.to_owned();
        let blob = rest.slice(usize::try_from(blob_len).ok()?)?;
        Some(Self::PrivateKey(PrivateKeyTok {
            key_sig,
            key_size,
            module,
            blob: Zeroizing::new(blob.to_vec()),
        }))
    }

    /// The payload.
    ///
    /// # Errors
    /// [`EcryptfsError::Malformed`] if the module's name has more than 16 bytes or the blob more than a
    /// key of the keyring.
    pub fn write(&self) -> Result<Zeroizing<Vec<u8>>, EcryptfsError> {
        let (kind, extra) = match self {
            Self::Passphrase(_) => (PASSWORD, 0),
            Self::PrivateKey(key) => (PRIVATE_KEY, key.blob.len()),
        };
        if LEN + extra > MAX_PAYLOAD_LEN {
            return Err(EcryptfsError::Malformed(Part::AuthTok));
        }
        // Whole from the start, so that no part of a key stays in a buffer that was too small.
        let mut bytes = Zeroizing::new(Vec::with_capacity(LEN + extra));
        bytes.extend(VERSION.to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.resize(UNION, 0);
        match self {
            Self::Passphrase(key) => {
                for number in [0, SHA_512, 0, KEY_LEN as u32, KEY_SET] {
                    bytes.extend(number.to_ne_bytes());
                }
                bytes.extend(key.expose());
                bytes.extend(key.sig().to_hex());
                bytes.push(0);
                bytes.extend(key.salt().0);
            }
            Self::PrivateKey(key) => {
                if key.module.len() >= MODULE_LEN {
                    return Err(EcryptfsError::Malformed(Part::AuthTok));
                }
                bytes.extend(key.key_size.to_ne_bytes());
                bytes.extend((key.blob.len() as u32).to_ne_bytes());
                bytes.extend(key.key_sig.to_hex());
                bytes.push(0);
                bytes.extend(key.module.as_bytes());
                bytes.resize(UNION + BLOB, 0);
                bytes.extend(key.blob.iter());
            }
        }
        bytes.resize(LEN + extra, 0);
        Ok(bytes)
    }
}

const VERSION: u16 = 4;
const PASSWORD: u16 = 0;
const PRIVATE_KEY: u16 = 1;
const SHA_512: u32 = 10;
const KEY_SET: u32 = 2;

/// Offset of the part that depends on the kind of key.
const UNION: usize = 628;

/// Offset of the blob in that part.
const BLOB: usize = 42;

/// The module's name and a terminating zero.
const MODULE_LEN: usize = 17;
const LEN: usize = 740;

/// What a key of type `user` can hold (keyctl(2)).
const MAX_PAYLOAD_LEN: usize = 32767;

fn parse_sig(rest: &mut Octets<'_>) -> Option<KeySig> {
    let hex: &[u8; HEX_LEN] = rest.array()?;
    let _terminator = rest.u8()?;
    KeySig::from_hex(hex)
}

impl fmt::Debug for PrivateKeyTok {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKeyTok({}, {})", self.key_sig, self.module)
    }
}
