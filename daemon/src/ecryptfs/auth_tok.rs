//! `struct ecryptfs_auth_tok`: what makes the kernel's eCryptfs ask for a key.
//!
//! ```text
//! at    size
//!   0   2     version: 4 (major 0, minor 4)
//!   2   2     token type: 1, private key
//!   4   624   flags and session key: all 0; the kernel writes here
//! 628   4     key size: not looked at
//! 632   4     length of the module's blob
//! 636   17    key sig, 16 hexadecimal digits and NUL
//! 653   17    module, at most 16 characters and NUL
//! 670         the module's blob: ours is the key id
//! ```
//!
//! Host byte order, packed; 740 bytes and the blob's length altogether, as ecryptfs-utils allocates it, the
//! last ones 0. Source: `include/linux/ecryptfs.h`. It holds no secret.

use claviger_pki::key::KeyId;
use claviger_protocol::Failure;
use linux_keyutils::{KeyError, KeyRing, KeyRingIdentifier};

use super::KeySig;

/// Who answers for the key; the kernel passes it on to nobody.
const MODULE: &[u8; 17] = b"claviger\0\0\0\0\0\0\0\0\0";

const VERSION: u16 = 4;
const PRIVATE_KEY: u16 = 1;
const ARM: usize = 628;
const STRUCT_LEN: usize = 740;

/// Puts the auth tok of a key into the user keyring, in place of one that was there.
///
/// # Errors
/// [`Failure`].
pub fn put(sig: KeySig, key_id: KeyId) -> Result<(), Failure> {
    let ring = user_keyring().map_err(refused)?;
    let added = ring.add_key(&sig.to_string(), write(sig, key_id).as_slice());
    added.map(drop).map_err(refused)
}

/// Whether the kernel would find an auth tok for it.
pub fn is_put(sig: KeySig) -> bool {
    user_keyring().is_ok_and(|ring| ring.search(&sig.to_string()).is_ok())
}

fn user_keyring() -> Result<KeyRing, KeyError> {
    KeyRing::from_special_id(KeyRingIdentifier::User, false)
}

fn refused(error: KeyError) -> Failure {
    Failure::Permission(format!(
        "the user keyring takes no auth tok for the kernel: {error}"
    ))
}

fn write(sig: KeySig, key_id: KeyId) -> Vec<u8> {
    let blob = &key_id.0;
    let mut tok = Vec::with_capacity(STRUCT_LEN + blob.len());
    tok.extend_from_slice(&VERSION.to_ne_bytes());
    tok.extend_from_slice(&PRIVATE_KEY.to_ne_bytes());
    tok.resize(ARM, 0);
    let bits_unknown = 0_u32;
    tok.extend_from_slice(&bits_unknown.to_ne_bytes());
    let blob_len = u32::try_from(blob.len()).expect("a key id has 32 bytes");
    tok.extend_from_slice(&blob_len.to_ne_bytes());
    tok.extend_from_slice(sig.to_string().as_bytes());
    tok.push(0);
    tok.extend_from_slice(MODULE);
    tok.extend_from_slice(blob);
    tok.resize(STRUCT_LEN + blob.len(), 0);
    tok
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_is_that_of_an_auth_tok_that_a_kernel_took() {
        // Made by ecryptfs-utils, taken by Linux 6.1: the arm's beginning, blob length 31.
        let sig = KeySig::parse(b"fd591e1468c3ea8a").unwrap();
        let tok = write(sig, KeyId([0xab; 32]));
        assert_eq!(tok.len(), 772);
        assert_eq!(tok[..4], [4, 0, 1, 0].map(|byte: u8| byte.to_le()));
        assert!(tok[4..ARM].iter().all(|byte| *byte == 0));
        assert_eq!(&tok[632..636], &32_u32.to_ne_bytes());
        assert_eq!(&tok[636..653], b"fd591e1468c3ea8a\0");
        assert_eq!(&tok[653..670], b"claviger\0\0\0\0\0\0\0\0\0");
        assert_eq!(&tok[670..702], &[0xab; 32]);
    }
}
