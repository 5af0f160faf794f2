//! Volumes and what is in them.

use std::convert::Infallible;
use std::fs::{self, File};
use std::path::Path;

use aws_lc_rs::hmac;
use claviger_fuzz_targets::fixed::{
    DIRECTORY, FILE, VOLUME, epoch_key, file_key, names, names_key, names_keys, stream_key,
};
use claviger_fuzz_targets::pki::SPKI;
use claviger_vault::dir::{Location, Record};
use claviger_vault::epoch::{EpochKey, EpochKeys};
use claviger_vault::ids::{DirId, Epoch, Scope};
use claviger_vault::manifest::{self, Manifest, RecipientKind, ToWrap, Wrap};
use claviger_vault::names::LowerName;
use claviger_vault::native::head::{self, Layer};
use claviger_vault::native::{Feks, Links, NativeFile, Packet, PlaceKeys, PlaceSeal};
use claviger_vault::pin::{Pin, remember};
use claviger_vault::stream::{self, StreamHeader};
use claviger_vault::symlink;
use claviger_vault::xattr::{Attributes, Owner};

use crate::Corpus;

pub(crate) fn native_files(corpus: &Corpus) {
    let packets = [Packet {
        key_sig: [9; 8],
        algorithm: 102,
        body: vec![10; 113],
    }];
    let file_key = file_key();
    let in_file_scope = Layer::File {
        file_key: &file_key,
        packets: &packets,
    };
    for (name, layer) in [
        ("volume-scope", Layer::Volume),
        ("file-scope", in_file_scope),
    ] {
        let epoch_key = epoch_key();
        let (head, fek) = head::fresh(VOLUME, FILE, (Epoch::FIRST, &epoch_key), &layer).unwrap();
        corpus.seed("vault_head", name, &head);
        corpus.seed("vault_fixed_part", name, &head[..64]);
        corpus.seed("vault_key_record", name, &head[64..256]);
        if let Some(copy) = head.get(512..512 + 2048) {
            corpus.seed("vault_sealed_packets", name, copy);
        }

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lower");
        let lower = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .unwrap();
        let place = PlaceSeal::new(
            (Epoch::FIRST, &PlaceKeys::new(names_key())),
            &FILE.0,
            &DIRECTORY,
            b"name",
            Links::One,
        );
        corpus.seed(
            "vault_place",
            "here",
            [&place.write(0, &[])[..], &[0; 128]].concat(),
        );
        let file = NativeFile::create(lower.into(), &head, Feks::first(fek), place).unwrap();
        file.write_at(0, b"first block").unwrap();
        file.write_at(3 * 4096, b"behind a hole").unwrap();
        file.sync().unwrap();
        drop(file);
        let bytes = fs::read(&path).unwrap();
        corpus.seed("vault_slot", "data", &bytes[1024..1088]);
        corpus.seed("vault_slot", "hole", &bytes[1088..1152]);
        corpus.seed("vault_file", name, bytes);
    }
    let one = packets[0].write().unwrap();
    corpus.seed("vault_packet", "one", &one);
    corpus.seed("vault_packet", "two", [&one[..], &one[..]].concat());

    let key = hmac::Key::new(hmac::HMAC_SHA256, &[0; 32]);
    let mut shape = [0; 96];
    shape[..8].copy_from_slice(&1_u64.to_le_bytes());
    shape[8..16].copy_from_slice(&10_000_u64.to_le_bytes());
    shape[16..24].copy_from_slice(&3_u64.to_le_bytes());
    let tag = hmac::sign(&key, &shape);
    let shapes = [&shape[..], tag.as_ref(), &[0; 128]].concat();
    corpus.seed("vault_shapes", "settled", shapes);

    let header = StreamHeader {
        id: [11; 16],
        packets: packets.into(),
    };
    let mut sealed = Vec::new();
    stream::seal(&header, &stream_key(), &b"a short stream"[..], &mut sealed).unwrap();
    corpus.seed("vault_stream", "short", sealed);
}

pub(crate) fn volume(corpus: &Corpus) {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| {
        let path = folder.path().join(name);
        fs::create_dir(&path).unwrap();
        path
    };
    for (name, location) in [
        ("root", Location::ROOT),
        (
            "below",
            Location {
                parent: DirId::ROOT,
                lower_name: b"name",
            },
        ),
    ] {
        let dir = at(name);
        Record::create(File::open(&dir).unwrap(), &names_keys(), location).unwrap();
        let record = fs::read(dir.join(claviger_vault::names::RECORD)).unwrap();
        corpus.seed("vault_directory_record", name, record);
    }

    let recipient =
        |kind, label: &str, byte| manifest::Recipient::new(kind, label, [&[byte], SPKI].concat());
    let recipients = vec![
        recipient(RecipientKind::Token, "card", 1),
        recipient(RecipientKind::Recovery, "recovery key", 2),
    ];
    let wrap = |_: &manifest::Recipient, _: ToWrap<'_>| {
        Ok::<_, Infallible>(Wrap {
            algorithm: 102,
            body: vec![12; 113],
        })
    };
    let (mut manifest, first) = Manifest::create(Scope::Volume, recipients, wrap).unwrap();
    corpus.seed("vault_manifest", "one-epoch", authentic(&manifest));
    let last = manifest.recipients()[1].recipient.key_id();
    manifest.remove_recipient(&first, last, wrap).unwrap();
    corpus.seed("vault_manifest", "two-epochs", authentic(&manifest));

    let known = at("known");
    let keys = EpochKeys::new(manifest.epoch(), epoch_key());
    remember(
        &known,
        Pin::new(&manifest, keys.current(), Path::new("/home/a/my files")),
    )
    .unwrap();
    let text = fs::read(known.join(claviger_vault::pin::NAME)).unwrap();
    corpus.seed("vault_known_volumes", "one", text);
}

/// Under the fixed key, whatever key the manifest's epoch has.
fn authentic(manifest: &Manifest) -> Vec<u8> {
    let key: EpochKey = epoch_key();
    manifest.write(&key)
}

pub(crate) fn names_of(corpus: &Corpus) {
    let names = names();
    let lower = names.encrypt(b"a name").unwrap();
    corpus.seed("vault_name", "short", lower.as_bytes());
    let LowerName::Long { name, content, .. } = names.encrypt(&[b'x'; 200]).unwrap() else {
        panic!("200 bytes are a long name");
    };
    let long = [name.as_bytes(), b"/", &content].concat();
    corpus.seed("vault_long_name", "long", long);
    let target = symlink::seal(&names, b"../some/where").unwrap();
    corpus.seed("vault_symlink", "relative", target);
    let keys = names_keys();
    let attributes = Attributes::new(&keys, Owner::File(FILE));
    let attribute = attributes.candidates(b"user.colour").unwrap().remove(0);
    let value = attributes.seal(&attribute, b"red").unwrap();
    let both = [attribute.lower.as_slice(), b"\0", &value].concat();
    corpus.seed("vault_attribute", "user", both);
}
