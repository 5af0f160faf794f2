//! eCryptfs: what lower folders, keyrings and the kernel hold and say.

use std::os::fd::OwnedFd;

use claviger_callout::miscdev::packet::parse_request;
use claviger_vault::ecryptfs::name::EncryptedName;
use claviger_vault::ecryptfs::{
    AuthTok, Fek, Header, LowerFile, MetadataPlace, Packet, WrappedPassphrase,
};
use claviger_vault::native::Access;
use clavigerd::ecryptfs::message::Question;

use crate::Reached;
use crate::fixed::passphrase_key;
use crate::vault::memory_file;

/// Most that is read of a file, whatever its header says of its size.
const FILE_MAX: u64 = 1 << 20;

/// A lower file: its header, the FEK that a passphrase opens, its content, and a change of that.
pub fn file(data: &[u8]) -> Reached {
    read_file(data).is_some().into()
}

fn read_file(data: &[u8]) -> Option<()> {
    let lower = memory_file(data).expect("memory is there");
    let header = Header::read(&lower).ok()?;
    let key = passphrase_key();
    let fek = header.unwrap(|packet| match packet {
        Packet::Passphrase(packet) => Some(packet.unwrap(&key)),
        Packet::PublicKey(_) => None,
    });
    let file =
        LowerFile::open(OwnedFd::from(lower), &header, &fek.ok()?, Access::ReadWrite).ok()?;
    let size = file.size().min(FILE_MAX);
    let mut out = vec![0; size as usize];
    file.read_at(0, &mut out).ok()?;
    file.read_at(size / 2, &mut [0; 100]).ok()?;
    file.write_at(size / 2, b"changed").ok()?;
    file.truncate(size / 3).ok()
}

/// A header at the start of a file.
pub fn header(data: &[u8]) -> Reached {
    Header::parse(data, MetadataPlace::Header).is_ok().into()
}

/// A header in an extended attribute.
pub fn xattr_header(data: &[u8]) -> Reached {
    Header::parse(data, MetadataPlace::Xattr).is_ok().into()
}

/// Tag 1, 3 and 11 packets; what parses is written as it was read, but for bytes that mean nothing.
pub fn packets(data: &[u8]) -> Reached {
    let Ok(packets) = Packet::parse_all(data) else {
        return Reached::Refused;
    };
    let written: Vec<u8> = packets.iter().flat_map(Packet::write).collect();
    assert_eq!(Packet::parse_all(&written).ok(), Some(packets));
    Reached::Success
}

/// An encrypted name (Tag 70).
pub fn name(data: &[u8]) -> Reached {
    decrypted(data, |name| name.decrypt(&passphrase_key()).is_ok())
}

/// An encrypted target of a symlink.
pub fn target(data: &[u8]) -> Reached {
    decrypted(data, |name| name.decrypt_target(&passphrase_key()).is_ok())
}

fn decrypted(data: &[u8], decrypts: impl FnOnce(&EncryptedName) -> bool) -> Reached {
    match EncryptedName::parse(data) {
        Some(Ok(name)) => decrypts(&name).into(),
        Some(Err(_)) | None => Reached::Refused,
    }
}

/// A wrapped-passphrase file.
pub fn wrapped_passphrase(data: &[u8]) -> Reached {
    WrappedPassphrase::parse(data).is_ok().into()
}

/// `struct ecryptfs_auth_tok`, as the keyring has it.
pub fn auth_tok(data: &[u8]) -> Reached {
    AuthTok::parse(data).is_ok().into()
}

/// What a public key wraps: cipher, FEK and checksum. Both ways of reading it agree on what is good.
pub fn session_key(data: &[u8]) -> Reached {
    let read = Fek::from_session_key(data).is_ok();
    let doubtful = Fek::from_doubtful_session_key(data).is_some();
    assert_eq!(read, doubtful);
    read.into()
}

/// A packet of `/dev/ecryptfs`, and the question in it.
pub fn device(data: &[u8]) -> Reached {
    match parse_request(data) {
        Ok((_, body)) => Question::parse(body).is_ok().into(),
        Err(_) => Reached::Refused,
    }
}

/// The journal of a migration.
pub fn journal(data: &[u8]) -> Reached {
    let file = memory_file(data).expect("memory is there");
    claviger_cli::fuzzing::migration_journal(file).into()
}
