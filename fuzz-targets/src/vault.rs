//! What the lower folder holds.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};

use claviger_vault::ids::Epoch;
use claviger_vault::manifest::Unverified;
use claviger_vault::names::{Lower, classify};
use claviger_vault::native::head::{self, Opened};
use claviger_vault::native::{
    Access, Feks, FixedPart, NativeFile, PAGE, Packet, PlaceKeys, check_place, fuzzing,
    newest_place,
};
use claviger_vault::stream::{self, StreamHeader};
use claviger_vault::xattr::{Attributes, Owner};
use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::Reached;
use crate::fixed::{
    DIRECTORY, FILE, VOLUME, epoch_key, file_key, names, names_key, names_keys, stream_key,
};

/// Largest file whose content is read, bytes.
const FILE_MAX: u64 = 1 << 20;

/// The head of a native file, opened with the keys that it is sealed under.
pub fn head(data: &[u8]) -> Reached {
    open_head(data).is_some().into()
}

fn open_head(data: &[u8]) -> Option<Feks> {
    let key = epoch_key();
    let known = |epoch| (epoch == Epoch::FIRST).then_some(&key);
    match head::open(data, VOLUME, known).ok()? {
        Opened::Feks(feks, _) => Some(feks),
        Opened::FileScope(sealed) => sealed.open(&file_key()).ok(),
    }
}

/// A whole lower file: opened, checked and read.
pub fn file(data: &[u8]) -> Reached {
    read_file(data).is_some().into()
}

fn read_file(data: &[u8]) -> Option<()> {
    let mut lower = memory_file(data).expect("memory is there");
    lower.flush().ok()?;
    let head = NativeFile::read_head(lower.as_fd()).ok()?;
    let known = |epoch| (epoch == Epoch::FIRST).then(|| Box::new(PlaceKeys::new(names_key())));
    check_place(lower.as_fd(), known, &DIRECTORY, b"name").ok()?;
    let fd = OwnedFd::from(lower);
    let file = NativeFile::open(fd, &head, open_head(&head)?, Access::ReadOnly).ok()?;
    let size = file.size().min(FILE_MAX);
    let mut out = vec![0; size as usize];
    file.read_at(0, &mut out).ok()?;
    for block in 0..size.div_ceil(PAGE as u64) {
        let mut out = [0; 100];
        file.read_at(block * PAGE as u64 + 7, &mut out).ok()?;
    }
    file.verify(|_| {}, |_, _| {}).ok()
}

pub(crate) fn memory_file(data: &[u8]) -> io::Result<File> {
    let mut file = File::from(memfd_create("fuzz", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(data)?;
    Ok(file)
}

/// The fixed part of a native file.
pub fn fixed_part(data: &[u8]) -> Reached {
    let fixed = data.first_chunk().map(FixedPart::parse);
    fixed.is_some_and(|fixed| fixed.is_ok()).into()
}

/// A key record, sealed.
pub fn key_record(data: &[u8]) -> Reached {
    fuzzing::key_record(data).into()
}

/// A Tag 1 packet, or several.
pub fn packet(mut data: &[u8]) -> Reached {
    let mut reached = Reached::Refused;
    while let Ok((_, rest)) = Packet::parse(data) {
        assert!(rest.len() < data.len(), "a packet has octets");
        data = rest;
        reached = Reached::Success;
    }
    reached
}

/// A copy of a file's packets, sealed.
pub fn sealed_packets(data: &[u8]) -> Reached {
    fuzzing::sealed_packets(data).into()
}

/// Two copies of a shape.
pub fn shapes(data: &[u8]) -> Reached {
    fuzzing::shapes(data).into()
}

/// A slot.
pub fn slot(data: &[u8]) -> Reached {
    fuzzing::slot(data).into()
}

/// Two copies of a place record.
pub fn place(data: &[u8]) -> Reached {
    let key = |epoch| (epoch == Epoch::FIRST).then(|| PlaceKeys::new(names_key()).of(&FILE.0));
    let place = data
        .first_chunk()
        .and_then(|copies| newest_place(copies, key, &[]));
    place.is_some().into()
}

/// A directory's record.
pub fn directory_record(data: &[u8]) -> Reached {
    claviger_vault::fuzzing::directory_record(data, &names_keys()).into()
}

/// A manifest, authenticated.
pub fn manifest(data: &[u8]) -> Reached {
    let Ok(manifest) = Unverified::parse(data) else {
        return Reached::Refused;
    };
    manifest.verify(&epoch_key()).is_ok().into()
}

/// The file of known volumes.
pub fn known_volumes(data: &[u8]) -> Reached {
    claviger_vault::fuzzing::known_volumes(data).into()
}

/// A lower name.
pub fn name(data: &[u8]) -> Reached {
    let name = names().decrypt(data);
    if let Ok(name) = &name {
        assert_eq!(classify(data), Lower::Entry);
        let again = names().encrypt(name).expect("it is a name");
        assert_eq!(again.as_bytes(), data, "a name has one lower name");
    }
    name.is_ok().into()
}

/// A long lower name, a slash, and what its sidecar holds.
pub fn long_name(data: &[u8]) -> Reached {
    let Some((lower, sidecar)) = split(data, b'/') else {
        return Reached::Refused;
    };
    let name = names().decrypt_long(lower, sidecar);
    if name.is_ok() {
        assert_eq!(classify(lower), Lower::Long);
    }
    name.is_ok().into()
}

/// A symlink's lower target.
pub fn symlink(data: &[u8]) -> Reached {
    claviger_vault::symlink::open(&names(), data).is_ok().into()
}

/// An attribute's lower name, a NUL, and its lower value.
pub fn attribute(data: &[u8]) -> Reached {
    let Some((lower, value)) = split(data, 0) else {
        return Reached::Refused;
    };
    let keys = names_keys();
    let attributes = Attributes::new(&keys, Owner::File(FILE));
    let Ok(Some(attribute)) = attributes.parse(lower) else {
        return Reached::Refused;
    };
    attributes.open(&attribute, value).is_ok().into()
}

/// A sealed stream.
pub fn stream(mut data: &[u8]) -> Reached {
    let Ok(header) = StreamHeader::read(&mut data) else {
        return Reached::Refused;
    };
    stream::open(&header, &stream_key(), data, io::sink())
        .is_ok()
        .into()
}

fn split(data: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let at = data.iter().position(|byte| *byte == at)?;
    let (before, after) = data.split_at(at);
    Some((before, after.split_first()?.1))
}
