//! A reader written from `docs/format.md` alone: it shares no code with the other but the primitives.

use core::fmt::Write;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hmac::{HMAC_SHA256, Key, sign, verify};
use data_encoding::HEXLOWER;

use super::{EPOCH_KEY, FEK, FILE, FILE_KEY, NAME, VOLUME};

fn mac(key: &[u8], data: &[u8]) -> [u8; 32] {
    sign(&Key::new(HMAC_SHA256, key), data)
        .as_ref()
        .try_into()
        .unwrap()
}

/// RFC 5869 for 32 bytes: one block of output, counter 1.
fn hkdf(salt: &[u8], key: &[u8], info: &[&[u8]]) -> [u8; 32] {
    mac(&mac(salt, key), &[info.concat().as_slice(), &[1]].concat())
}

fn open(key: &[u8], nonce: &[u8], associated: &[u8], sealed: &[u8], tag: &[u8]) -> Option<Vec<u8>> {
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).unwrap());
    let nonce = Nonce::try_assume_unique_for_key(nonce).unwrap();
    let mut text = [sealed, tag].concat();
    let len = key
        .open_in_place(nonce, Aad::from(associated), &mut text)
        .ok()?
        .len();
    text.truncate(len);
    Some(text)
}

fn number(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .rev()
        .fold(0, |number, byte| number << 8 | u64::from(*byte))
}

struct Derived {
    names: [u8; 32],
    header: [u8; 32],
    packets: [u8; 32],
    inner: [u8; 32],
    shape: [u8; 32],
    place: [u8; 32],
    binding: [u8; 32],
}

fn derived() -> Derived {
    let names = hkdf(&[], &EPOCH_KEY, &[b"names", &VOLUME.0]);
    Derived {
        names,
        header: hkdf(&[], &EPOCH_KEY, &[b"header", &FILE.0]),
        packets: hkdf(&[], &EPOCH_KEY, &[b"packets", &FILE.0]),
        inner: hkdf(&[], &FILE_KEY, &[b"feks", &FILE.0]),
        shape: hkdf(&FILE.0, &FEK, &[b"shape"]),
        place: hkdf(&[], &names, &[b"place", &FILE.0]),
        binding: hkdf(&[], &names, &[b"binding"]),
    }
}

fn segment_key(segment: u64) -> [u8; 32] {
    hkdf(&FILE.0, &FEK, &[b"segment", &segment.to_le_bytes()])
}

/// Given and derived keys, as the document lists them.
pub(super) fn key_listing() -> String {
    let derived = derived();
    let mut text = String::from("```text\n");
    let keys = [
        ("volume id", VOLUME.0.as_slice()),
        ("file id", &FILE.0),
        ("epoch key E1", &EPOCH_KEY),
        ("FEK 0", &FEK),
        ("file key (file scope)", &FILE_KEY),
        ("id of the parent directory", &[0; 16]),
        ("lower name", NAME),
        ("names key", &derived.names),
        ("header key", &derived.header),
        ("packets key", &derived.packets),
        ("inner key", &derived.inner),
        ("segment key 0", &segment_key(0)),
        ("segment key 1", &segment_key(1)),
        ("shape key", &derived.shape),
        ("place key", &derived.place),
        ("binding key", &derived.binding),
    ];
    for (name, key) in keys {
        writeln!(text, "{name:27} {}", HEXLOWER.encode(key)).unwrap();
    }
    text + "```\n"
}

/// Reads an example of volume scope by the reader's rules.
fn read(file: &[u8]) -> Vec<u8> {
    let keys = derived();
    let (fixed, record) = (&file[..64], &file[64..256]);
    let associated = [fixed, &record[..8], &record[164..]].concat();
    let feks = open(
        &keys.header,
        &record[8..20],
        &associated,
        &record[20..148],
        &record[148..164],
    );
    assert_eq!(feks.unwrap(), [FEK.as_slice(), &[0; 96]].concat());

    let shape_key = Key::new(HMAC_SHA256, &keys.shape);
    let shapes = [&file[512..640], &file[640..768]];
    let shape = shapes
        .into_iter()
        .filter(|copy| verify(&shape_key, &copy[..96], &copy[96..]).is_ok())
        .max_by_key(|copy| number(&copy[..8]))
        .unwrap();
    let (size, solid) = (number(&shape[8..16]) as usize, number(&shape[16..24]));
    let unsettled = number(&shape[24..28]) == 1;

    let mut out = Vec::new();
    for block in 0..size.div_ceil(4096) {
        let (segment, slot, data) = match block.checked_sub(48) {
            None => (0, 1024 + 64 * block, 4096 * (1 + block)),
            Some(after) => {
                let page = 1 + 48 + 65 * (after / 64);
                let data = 4096 * (page + 1 + after % 64);
                (after / 64 + 1, 4096 * page + 64 * (after % 64), data)
            }
        };
        let [a, b] = [&file[slot..slot + 32], &file[slot + 32..slot + 64]];
        let ahead = b[30].wrapping_sub(a[30]);
        let halves = if (1..128).contains(&ahead) {
            [b, a]
        } else {
            [a, b]
        };
        let used = halves
            .into_iter()
            .filter(|half| half.iter().any(|&byte| byte != 0));
        let mut versions = used.filter_map(|half| {
            let len = number(&half[28..30]) as usize;
            let kind = if len == 0 { 2 } else { 1 };
            let associated = [&(block as u64).to_le_bytes()[..], &[kind], &half[28..32]].concat();
            let key = segment_key(segment as u64);
            open(
                &key,
                &half[..12],
                &associated,
                file.get(data..data + len)?,
                &half[12..28],
            )
        });
        let mut text = versions.next().unwrap_or_else(|| {
            assert!(block as u64 >= solid);
            assert!(unsettled || [a, b].concat() == [0; 64]);
            Vec::new()
        });
        text.resize((size - block * 4096).min(4096), 0);
        out.extend(text);
    }
    out
}

#[test]
fn a_reader_written_from_the_document_reads_the_examples() {
    for size in [0, 4096, 4097, 300_000] {
        assert_eq!(
            read(&super::synced(size)),
            super::data(size),
            "{size} bytes"
        );
    }
    assert_eq!(read(&super::empty()), []);
    assert_eq!(read(&super::one()), super::data(1));
    assert_eq!(read(&super::block_and_one()), super::data(4097));
    let mut holes = vec![0; 12289];
    holes[12288] = super::data(12289)[12288];
    assert_eq!(read(&super::holes()), holes);
}

#[test]
fn a_reader_written_from_the_document_finds_the_place_of_an_example() {
    let file = super::empty();
    let keys = derived();
    let place = &file[768..896];
    assert_eq!(mac(&keys.place, &place[..96]), place[96..]);
    let binding = mac(&keys.binding, &[FILE.0.as_slice(), &[0; 16], NAME].concat());
    assert_eq!(place[16..32], binding[..16]);
}

#[test]
fn a_reader_written_from_the_document_opens_the_example_in_file_scope() {
    let file = super::file_scope();
    let keys = derived();
    let (fixed, record, packets) = (&file[..64], &file[64..256], &file[4096..6144]);
    let associated = [fixed, &packets[..8]].concat();
    let plain = open(
        &keys.packets,
        &packets[8..20],
        &associated,
        &packets[20..2032],
        &packets[2032..],
    )
    .unwrap();
    let len = number(&packets[4..6]) as usize;
    assert_eq!(len, 133 + 197);
    assert!(plain[len..].iter().all(|&byte| byte == 0));
    assert_eq!(plain[..3], [0xC1, 131, 3]);
    assert_eq!(plain[133..137], [0xC1, 192, 2, 3]);

    let associated = [fixed, &record[..8], &record[164..]].concat();
    let inner = open(
        &keys.header,
        &record[8..20],
        &associated,
        &record[20..148],
        &record[148..164],
    )
    .unwrap();
    let associated = [fixed, &record[4..6]].concat();
    let feks = open(
        &keys.inner,
        &record[164..176],
        &associated,
        &inner,
        &record[176..],
    )
    .unwrap();
    assert_eq!(feks[..32], FEK);
}
