//! The worked examples of `docs/format-volume.md`: made here, and the document held to them.
//!
//! After a change of the format, `CLAVIGER_WRITE_EXAMPLES=1 cargo test -p claviger-vault examples`
//! writes them anew.

use std::fmt::Write;
use std::path::Path;

use data_encoding::{BASE64URL_NOPAD, HEXLOWER};

use crate::epoch::{EpochKey, EpochKeys};
use crate::ids::{DirId, Epoch, FileId};
use crate::names::LowerName;
use crate::names::tests::{VOLUME, names_keys, names_of};
use crate::sealed::tests::seal_with_nonce;
use crate::xattr::{Attributes, Owner};
use crate::{dir, manifest, pin};

/// Its name in the document, and what makes it.
type Example = (&'static str, fn() -> String);

const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/format-volume.md");
const DIR: DirId = DirId([0x22; 16]);
const FILE: FileId = FileId([0x33; 16]);
/// Every byte of every nonce in the examples.
const NONCE: u8 = 7;

fn epoch_key(byte: u8) -> EpochKey {
    EpochKey::new(&mut [byte; 32]).unwrap()
}

fn keys() -> String {
    let key = epoch_key(1);
    let lines = [
        ("names key", HEXLOWER.encode(key.names_key(VOLUME).expose())),
        ("header key", HEXLOWER.encode(&*key.header_key(FILE))),
        ("commitment", key.commitment().to_string()),
    ];
    lines
        .iter()
        .map(|(name, value)| format!("{name:<12} {value}\n"))
        .collect()
}

fn names() -> String {
    let mut text = String::new();
    let (root, dir) = (names_of(DirId::ROOT), names_of(DIR));
    for (of, names) in [("root", &root), ("22…", &dir)] {
        let lower = names.encrypt(b"letter.txt").unwrap();
        writeln!(
            text,
            "letter.txt in {of:<5} {}",
            lower.as_os_str().display()
        )
        .unwrap();
    }
    let LowerName::Long {
        name,
        sidecar,
        content,
    } = dir.encrypt(&[b'n'; 200]).unwrap()
    else {
        panic!("200 bytes are long")
    };
    write!(
        text,
        "200 × \"n\" in 22…   {name}\n        sidecar    {sidecar}\n"
    )
    .unwrap();
    text + &hexdump(&content)
}

fn directory() -> String {
    let lower = names_of(DirId::ROOT).encrypt(b"letters").unwrap();
    let record = dir::tests::example(lower.as_bytes());
    format!(
        "lower name   {}\n{}",
        lower.as_os_str().display(),
        hexdump(&record)
    )
}

fn symlink() -> String {
    let names = names_of(DIR);
    let sealed = seal_with_nonce(&names.keys().symlinks, NONCE, &DIR.0, b"../letter.txt");
    format!("../letter.txt   {}\n", BASE64URL_NOPAD.encode(&sealed))
}

fn attribute() -> String {
    let keys = names_keys(Epoch(1), Epoch(1));
    let attributes = Attributes::new(&keys, Owner::File(FILE));
    let attribute = attributes.candidates(b"user.tag").unwrap().remove(0);
    let key = &keys.epoch(Epoch(1)).unwrap().attribute_values;
    let associated_data = [&[1][..], &FILE.0, b"user.tag"].concat();
    let sealed = seal_with_nonce(key, NONCE, &associated_data, b"draft");
    assert_eq!(attributes.open(&attribute, &sealed).unwrap(), b"draft");
    format!(
        "user.tag   {}\ndraft      {}\n",
        attribute.lower.escape_ascii(),
        HEXLOWER.encode(&sealed)
    )
}

fn volume_toml() -> String {
    manifest::tests::example([&epoch_key(1), &epoch_key(2)]).1
}

fn known_volumes() -> String {
    let (manifest, _) = manifest::tests::example([&epoch_key(1), &epoch_key(2)]);
    pin::tests::example(&manifest, &EpochKeys::new(Epoch(2), epoch_key(2)))
}

/// As `hexdump -C` prints it, without the text: `*` stands for lines like the one before.
fn hexdump(bytes: &[u8]) -> String {
    let mut text = String::new();
    let mut before = None;
    for (line, offset) in bytes.chunks(16).zip((0..).step_by(16)) {
        if before == Some(line) {
            if !text.ends_with("*\n") {
                text += "*\n";
            }
            continue;
        }
        let octets: Vec<_> = line.iter().map(|byte| format!("{byte:02x}")).collect();
        writeln!(text, "{offset:04x}  {}", octets.join(" ")).unwrap();
        before = Some(line);
    }
    text
}

/// `document` with the content of each example put into its place.
fn with_examples(document: &str) -> String {
    let examples: [Example; 7] = [
        ("keys", keys),
        ("names", names),
        ("directory", directory),
        ("symlink", symlink),
        ("attribute", attribute),
        ("manifest", volume_toml),
        ("known volumes", known_volumes),
    ];
    let mut document = document.to_owned();
    for (name, make) in examples {
        let start = format!("<!-- example: {name} -->\n```\n");
        let parts = document.split_once(&start);
        let (before, rest) = parts.unwrap_or_else(|| panic!("no place for example {name}"));
        let (_, after) = rest.split_once("```\n").expect("the example ends");
        document = format!("{before}{start}{}```\n{after}", make());
    }
    document
}

#[test]
fn the_examples_in_the_format_s_description_are_what_the_code_makes() {
    let written = std::fs::read_to_string(Path::new(DOCUMENT)).unwrap();
    let expected = with_examples(&written);
    if std::env::var_os("CLAVIGER_WRITE_EXAMPLES").is_some() {
        std::fs::write(DOCUMENT, &expected).unwrap();
        return;
    }
    assert_eq!(written, expected);
}
