//! The lower format of the Linux kernel's eCryptfs, read and written. AES only.
//!
//! `docs/ecryptfs.md` says how a lower file reads and what is wrong with the format. In short: nothing
//! in it is authenticated, so whoever holds the lower folder can change what is read here without
//! being noticed. It is here to be compatible with, both ways, and to be left.
//!
//! A [`Header`] holds the [`Packet`]s that wrap the file's [`Fek`], to passphrases (Tag 3) and public
//! keys (Tag 1); [`LowerFile`] reads and writes the content. Names and the targets of symlinks are in
//! [`name`]. What users keep beside: [`WrappedPassphrase`] files and, in the kernel's keyring,
//! [`AuthTok`]s.
//!
//! Everything that parses takes any bytes and never panics.
//!
//! ```
//! use claviger_vault::ecryptfs::{
//!     EcryptfsError, Fek, Header, KeyLen, LowerFile, MetadataPlace, NamesAre, Packet, PassphraseKey,
//!     Salt,
//! };
//! use claviger_vault::native::Access;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let key = PassphraseKey::derive(b"mount passphrase", Salt::DEFAULT)?;
//! let fek = Fek::random(KeyLen::Aes128);
//! let packets = vec![Packet::wrap(&fek, &key)];
//! let header = Header::fresh(packets, MetadataPlace::Header, NamesAre::Plain)?;
//! let lower = tempfile::tempfile()?;
//! LowerFile::create(lower.try_clone()?.into(), &header, &fek)?.write_at(0, b"content")?;
//!
//! let header = Header::read(&lower)?;
//! let fek = header.unwrap(|packet| match packet {
//!     Packet::Passphrase(packet) => Some(packet.unwrap(&key)),
//!     Packet::PublicKey(_) => None,
//! })?;
//! let file = LowerFile::open(lower.into(), &header, &fek, Access::ReadOnly)?;
//! let mut content = [0; 7];
//! assert_eq!(file.read_at(0, &mut content)?, 7);
//! assert_eq!(&content, b"content");
//! # Ok(())
//! # }
//! ```

mod attributes;
mod auth_tok;
mod cipher;
mod clear;
mod content;
mod error;
mod fek;
mod file;
mod folder_id;
mod format;
mod header;
mod kept_key;
mod key_sig;
mod mount_options;
pub mod name;
mod packet;
mod passphrase;
mod sys;
mod wrapped_passphrase;

pub use auth_tok::{AuthTok, PrivateKeyTok};
pub use cipher::{CipherCode, KeyLen};
pub use content::EXTENT;
pub use error::{EcryptfsError, Part};
pub use fek::Fek;
pub use file::LowerFile;
pub use folder_id::folder_id;
pub use format::{EcryptfsFormat, EcryptfsKeys, EcryptfsTree, NewEcryptfs};
pub use header::{Flags, Header, MetadataPlace, NamesAre};
pub use kept_key::KeptKey;
pub use key_sig::KeySig;
pub use mount_options::{LowerOwner, MountOptionError, MountOptions, PlainFiles, View};
pub use packet::{Packet, Tag1, Tag3};
pub use passphrase::{BadSalt, PassphraseKey, Salt};
pub use wrapped_passphrase::{WrapVersion, WrappedPassphrase};
