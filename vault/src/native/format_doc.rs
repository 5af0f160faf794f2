//! The worked examples of `docs/format.md`, and a second reader of them.
//!
//! `CLAVIGER_BLESS=1 cargo nextest run -p claviger-vault format_doc` writes them into the document.

mod second_reader;

use core::fmt::Write;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::AtomicU64;

use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::HEXLOWER;

use super::aead::Random;
use super::feks::Feks;
use super::file::NativeFile;
use super::head::{self, Layer};
use super::layout::{self, Layout};
use super::place::{Links, PlaceKeys, PlaceSeal};
use super::{PAGE, Packet};
use crate::epoch::EpochKey;
use crate::ids::{DirId, Epoch, FileId, VolumeId};
use crate::secret::{Fek, FileKey};

const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/format.md");

const VOLUME: VolumeId = VolumeId(*b"volume 012345678");
const FILE: FileId = FileId(*b"file 0123456789a");
const EPOCH_KEY: [u8; 32] = [0xE1; 32];
const FEK: [u8; 32] = [0xF0; 32];
const FILE_KEY: [u8; 32] = [0xF1; 32];
const NAME: &[u8] = b"lower-name";

/// What the recipients of the example in file scope get.
fn packets() -> Vec<Packet> {
    vec![
        Packet {
            key_sig: *b"alice-id",
            algorithm: 100,
            body: (0..121).collect(),
        },
        Packet {
            key_sig: *b"bob's-id",
            algorithm: 103,
            body: vec![0xB0; 184],
        },
    ]
}

fn epoch_key() -> EpochKey {
    EpochKey::new(&mut EPOCH_KEY.clone()).unwrap()
}

fn feks() -> Feks {
    Feks::first(Fek::new(&mut FEK.clone()))
}

/// The lower file that `write` makes.
fn example(layer: &Layer<'_>, write: impl FnOnce(&NativeFile)) -> Vec<u8> {
    let random = Random::Counting(AtomicU64::new(0));
    let key = epoch_key();
    let head = head::write(VOLUME, FILE, (Epoch::FIRST, &key), layer, &feks(), &random).unwrap();
    let keys = PlaceKeys::new(key.names_key(VOLUME));
    let place = PlaceSeal::new(
        (Epoch::FIRST, &keys),
        &FILE.0,
        &DirId::ROOT,
        NAME,
        Links::One,
    );
    let lower: File = tempfile::tempfile().unwrap();
    let fd = lower.try_clone().unwrap().into();
    let file = NativeFile::create_with(fd, &head, &feks(), &place, random).unwrap();
    write(&file);
    let mut bytes = vec![0; lower.metadata().unwrap().len() as usize];
    lower.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

fn data(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at % 251) as u8).collect()
}

fn empty() -> Vec<u8> {
    example(&Layer::Volume, |_| {})
}

fn one() -> Vec<u8> {
    example(&Layer::Volume, |file| file.write_at(0, &data(1)).unwrap())
}

fn synced(len: usize) -> Vec<u8> {
    example(&Layer::Volume, |file| {
        file.write_at(0, &data(len)).unwrap();
        file.sync().unwrap();
    })
}

fn block_and_one() -> Vec<u8> {
    example(&Layer::Volume, |file| {
        file.write_at(0, &data(4096)).unwrap();
        file.sync().unwrap();
        file.append(&data(4097)[4096..]).unwrap();
        file.sync().unwrap();
    })
}

fn holes() -> Vec<u8> {
    example(&Layer::Volume, |file| {
        file.write_at(0, &data(1)).unwrap();
        file.write_at(12288, &data(12289)[12288..]).unwrap();
        file.sync().unwrap();
        file.write_at(0, &data(1)).unwrap();
        file.sync().unwrap();
    })
}

fn file_scope() -> Vec<u8> {
    let file_key = FileKey::new(&mut FILE_KEY.clone());
    example(
        &Layer::File {
            file_key: &file_key,
            packets: &packets(),
        },
        |_| {},
    )
}

const FIXED: &[(usize, &str)] = &[
    (8, "magic"),
    (2, "version"),
    (2, "suite"),
    (1, "scope"),
    (1, "header pages"),
    (1, "log2 of the block size"),
    (1, "log2 of the blocks in a segment"),
    (4, "critical flags"),
    (4, "other flags"),
    (8, "reserved"),
    (16, "volume id"),
    (16, "file id"),
];
const KEY_RECORD: &[(usize, &str)] = &[
    (4, "epoch"),
    (1, "number of FEKs"),
    (1, "newest FEK"),
    (2, "reserved"),
    (12, "nonce"),
    (128, "sealed FEKs"),
    (16, "tag"),
    (12, "inner nonce"),
    (16, "inner tag"),
];
const SHAPE: &[(usize, &str)] = &[
    (8, "seq"),
    (8, "size"),
    (8, "solid"),
    (4, "flags"),
    (4, "reserved"),
    (32, "whole-file tag"),
    (32, "reserved"),
    (32, "HMAC"),
];
const PLACE: &[(usize, &str)] = &[
    (8, "seq"),
    (4, "names epoch"),
    (4, "flags"),
    (16, "here"),
    (16, "next"),
    (48, "reserved"),
    (32, "HMAC"),
];
const HALF: &[(usize, &str)] = &[
    (12, "nonce"),
    (16, "tag"),
    (2, "length"),
    (1, "seq"),
    (1, "FEK number"),
];
const PACKETS: &[(usize, &str)] = &[
    (4, "epoch"),
    (2, "length"),
    (2, "copy seq"),
    (12, "nonce"),
    (2012, "sealed packets and zeros"),
    (16, "tag"),
];

/// A listing of lower bytes.
struct Listing<'a> {
    bytes: &'a [u8],
    text: String,
}

impl<'a> Listing<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        let mut listing = Self {
            bytes,
            text: String::from("```text\n"),
        };
        let sum = HEXLOWER.encode(digest(&SHA256, bytes).as_ref());
        writeln!(listing.text, "{} bytes, SHA-256 {sum}", bytes.len()).unwrap();
        listing
    }

    /// One record, field by field.
    fn record(mut self, name: &str, offset: usize, fields: &[(usize, &str)]) -> Self {
        writeln!(self.text, "\n{name}").unwrap();
        let mut at = offset;
        for (len, field) in fields {
            self.field(at, *len, field);
            at += len;
        }
        self
    }

    /// One field, of a long one the beginning.
    fn field(&mut self, offset: usize, len: usize, name: &str) {
        let bytes = &self.bytes[offset..offset + len];
        let zero = len > 16 && bytes.iter().all(|&byte| byte == 0);
        let shown = if zero { 0 } else { len.min(32) };
        let mut name = name.to_owned();
        if zero {
            writeln!(
                self.text,
                "{offset:06x}  {:47}  {name}",
                format!("00 × {len}")
            )
            .unwrap();
            return;
        }
        for (index, line) in bytes[..shown].chunks(16).enumerate() {
            let hex: Vec<String> = line.iter().map(|byte| format!("{byte:02x}")).collect();
            let hex = hex.join(" ");
            let line = format!("{:06x}  {hex:47}  {name}", offset + index * 16);
            writeln!(self.text, "{}", line.trim_end()).unwrap();
            name.clear();
        }
        if shown < len {
            writeln!(self.text, "        … {len} bytes").unwrap();
        }
    }

    fn header(self) -> Self {
        self.record("Fixed part", 0, FIXED)
            .record("Key record, copy A", 64, KEY_RECORD)
            .record("Key record, copy B", 256, &[(192, "absent")])
            .record("Zero", 448, &[(64, "zero")])
            .shapes()
            .record("Place, copy A", 768, PLACE)
            .record("Place, copy B", 896, &[(128, "absent")])
    }

    fn shapes(self) -> Self {
        let listing = self.record("Shape, copy A", 512, SHAPE);
        match listing.bytes[640..768].iter().all(|&byte| byte == 0) {
            true => listing.record("Shape, copy B", 640, &[(128, "absent")]),
            false => listing.record("Shape, copy B", 640, SHAPE),
        }
    }

    /// The slot of a block, and the block.
    fn block(self, block: u64) -> Self {
        let layout = Layout::new(1);
        let segment = layout::segment_of(block);
        let slot = layout.slots(segment) as usize + 64 * layout::index_in_segment(block);
        let mut listing = self;
        for (half, at) in [("A", slot), ("B", slot + 32)] {
            let name = format!("Slot of block {block}, half {half}");
            listing = match listing.bytes[at..at + 32].iter().all(|&byte| byte == 0) {
                true => listing.record(&name, at, &[(32, "nothing was ever written")]),
                false => listing.record(&name, at, HALF),
            };
        }
        let at = layout.block(block) as usize;
        let len = listing.bytes.len().saturating_sub(at).min(PAGE);
        match listing.bytes[at..at + len].iter().all(|&byte| byte == 0) {
            true => listing.record(&format!("Block {block}"), at, &[(len, "nothing is stored")]),
            false => listing.record(&format!("Block {block}"), at, &[(len, "ciphertext")]),
        }
    }

    /// What the packets of the example in file scope are before they are sealed.
    fn packets(mut self) -> Self {
        writeln!(self.text, "\nThe packets, before they are sealed").unwrap();
        for packet in packets() {
            let bytes = packet.write().unwrap();
            let (head, _) = bytes.split_at(bytes.len() - packet.body.len());
            let hex: Vec<String> = head.iter().map(|byte| format!("{byte:02x}")).collect();
            let (hex, body) = (hex.join(" "), packet.body.len());
            writeln!(self.text, "        {hex} and a body of {body} bytes").unwrap();
        }
        self
    }

    fn end(self) -> String {
        self.text + "```\n"
    }
}

/// The content of one generated part.
fn generated(name: &str) -> String {
    match name {
        "keys" => second_reader::key_listing(),
        "empty" => Listing::new(&empty())
            .header()
            .record(
                "Slots of segment 0",
                1024,
                &[(3072, "nothing was ever written")],
            )
            .end(),
        "one" => Listing::new(&one()).shapes().block(0).end(),
        "block" => Listing::new(&synced(4096)).shapes().block(0).end(),
        "block-and-one" => Listing::new(&block_and_one())
            .shapes()
            .block(0)
            .block(1)
            .end(),
        "large" => Listing::new(&synced(300_000))
            .shapes()
            .block(47)
            .block(48)
            .block(73)
            .end(),
        "holes" => Listing::new(&holes())
            .shapes()
            .block(0)
            .block(1)
            .block(2)
            .block(3)
            .end(),
        "file-scope" => Listing::new(&file_scope())
            .record("Fixed part", 0, FIXED)
            .record("Key record, copy A", 64, KEY_RECORD)
            .record("Packets, copy A", 4096, PACKETS)
            .record("Packets, copy B", 6144, &[(2048, "absent")])
            .packets()
            .end(),
        _ => panic!("no example {name}"),
    }
}

/// The document with its generated parts made anew.
fn regenerated(document: &str) -> String {
    const BEGIN: &str = "<!-- generated: ";
    const END: &str = "<!-- end -->";
    let mut parts = document.split(BEGIN);
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (name, rest) = part.split_once(" -->").unwrap();
        let (_, after) = rest.split_once(END).unwrap();
        write!(text, "{BEGIN}{name} -->\n{}{END}{after}", generated(name)).unwrap();
    }
    text
}

#[test]
fn the_document_is_what_the_code_does() {
    let document = std::fs::read_to_string(DOCUMENT).unwrap();
    let expected = regenerated(&document);
    if std::env::var_os("CLAVIGER_BLESS").is_some() {
        std::fs::write(DOCUMENT, &expected).unwrap();
        return;
    }
    assert!(document.matches("<!-- generated: ").count() >= 8);
    for (line, (is, should)) in document.lines().zip(expected.lines()).enumerate() {
        assert_eq!(is, should, "docs/format.md:{}", line + 1);
    }
    assert_eq!(document.lines().count(), expected.lines().count());
}
