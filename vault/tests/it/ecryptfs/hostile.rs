//! Lower files that nobody sound has written.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;

use claviger_vault::ecryptfs::name::{EncryptedName, PREFIX, encrypt_target};
use claviger_vault::ecryptfs::{
    EcryptfsError, Fek, Header, KeyLen, LowerFile, MetadataPlace, NamesAre, Packet, Part,
    PassphraseKey, Salt, Tag3, WrappedPassphrase,
};
use claviger_vault::native::Access;
use proptest::collection::vec;
use proptest::prelude::*;

use super::vector::{Vector, read};

/// Opens whatever `header` says of the file `lower`, reads its ends and writes to it.
fn use_it(header: &Header, keys: &[PassphraseKey], lower: &File) {
    let fek = header.unwrap(|packet| match packet {
        Packet::Passphrase(packet) => {
            let key = keys.iter().find(|key| key.sig() == packet.key_sig)?;
            Some(packet.unwrap(key))
        }
        Packet::PublicKey(_) => Some(Ok(Fek::random(KeyLen::Aes256))),
    });
    let Ok(fek) = fek else { return };
    let lower = lower.try_clone().unwrap();
    let Ok(file) = LowerFile::open(lower.into(), header, &fek, Access::ReadWrite) else {
        return;
    };
    let mut out = [0; 20];
    for offset in [4090, u64::MAX] {
        if let Ok(read) = file.read_at(offset, &mut out) {
            assert!(read as u64 <= file.size().saturating_sub(offset));
        }
    }
    let _ = file.write_at(10, b"over");
    let _ = file.write_at(u64::MAX - 1, b"over");
    let _ = file.truncate(u64::MAX);
    let _ = file.truncate(100);
}

/// A header's bytes, at the size that the kernel parses, and a file with them before its content.
fn lower_of(header: &[u8], content: &[u8]) -> File {
    let mut lower = tempfile::tempfile().unwrap();
    lower.write_all(header).unwrap();
    lower.write_all(content).unwrap();
    lower
}

/// The headers of one file of each kind, with the keys that open it.
fn headers() -> Vec<(Vec<u8>, Vec<u8>, Vec<PassphraseKey>)> {
    let vectors = [
        "aes16",
        "aes32-two-keys",
        "rsa2048-aes32-plus-passphrase",
        "blowfish-16",
    ];
    let of = |name: &str| {
        let vector = Vector::unpack(name);
        let bytes = fs::read(vector.lower().join("size1")).unwrap();
        let (header, content) = bytes.split_at(8192);
        (header.to_vec(), content.to_vec(), vector.passphrase_keys())
    };
    vectors.into_iter().map(of).collect()
}

/// "Each byte flipped": every bit of the fields and packets, every byte of the zeros after them.
#[test]
fn a_header_with_any_byte_changed_is_refused_or_gives_something_else() {
    for (header, content, keys) in headers() {
        let end = header.iter().rposition(|&byte| byte != 0).unwrap() + 1;
        let lower = lower_of(&header, &content);
        for at in 0..end + 16 {
            for value in [0, 0xff, header[at] ^ 1, !header[at]] {
                let mut changed = header.clone();
                changed[at] = value;
                let _ = Header::parse(&changed, MetadataPlace::Xattr);
                let Ok(parsed) = Header::parse(&changed, MetadataPlace::Header) else {
                    continue;
                };
                lower.write_all_at(&changed, 0).unwrap();
                use_it(&parsed, &keys, &lower);
                lower.set_len(8192).unwrap();
                lower.write_all_at(&content, 8192).unwrap();
            }
        }
    }
}

#[test]
fn every_truncation_of_a_header_is_refused_or_has_fewer_packets() {
    for (header, _, _) in headers() {
        let whole = Header::parse(&header, MetadataPlace::Header).unwrap();
        let end = header.iter().rposition(|&byte| byte != 0).unwrap() + 1;
        for len in 0..end {
            for place in [MetadataPlace::Header, MetadataPlace::Xattr] {
                if let Ok(parsed) = Header::parse(&header[..len], place) {
                    assert!(parsed.packets.len() < whole.packets.len(), "cut to {len}");
                }
            }
        }
    }
}

/// Lengths of 0, of all that a length can say, and of one more and less than there is.
#[test]
fn packet_lengths_at_their_extremes_are_refused() {
    let (header, _, _) = headers().remove(0);
    let (fixed, packets) = header.split_at(26);
    // The Tag 3 packet has 29 bytes, the Tag 11 packet behind it 22.
    for (at, len) in [(1, 0x1d), (32, 0x16)] {
        assert_eq!(packets[at], len);
        for extreme in [
            &[0][..],
            &[len - 1],
            &[len + 1],
            &[191],
            &[192, 0],
            &[223, 255],
            &[224],
            &[255],
        ] {
            let changed = [fixed, &packets[..at], extreme, &packets[at + 1..]].concat();
            let refused = Header::parse(&changed, MetadataPlace::Header);
            let Err(EcryptfsError::Malformed(Part::Packet)) = refused else {
                // One byte of the wrapped FEK more or less is a packet still, of no use.
                let Ok(Header { packets, .. }) = refused else {
                    panic!("{extreme:?}: {refused:?}")
                };
                let [Packet::Passphrase(Tag3 { wrapped_fek, .. })] = &packets[..] else {
                    panic!("{packets:?}")
                };
                assert_ne!(wrapped_fek.len(), 16);
                continue;
            };
        }
    }
}

#[test]
fn sizes_beyond_any_file_are_refused() {
    let (mut header, _, _) = headers().remove(0);
    for size in [u64::MAX, i64::MAX as u64, 1 << 63] {
        header[..8].copy_from_slice(&size.to_be_bytes());
        let refused = Header::parse(&header, MetadataPlace::Header).unwrap_err();
        assert!(matches!(refused, EcryptfsError::Malformed(Part::Header)));
    }
}

/// The header claims more than there is: what is missing is an error, never bytes of no meaning.
#[test]
fn a_lower_file_that_is_cut_short_is_an_error() {
    let vector = Vector::unpack("aes16");
    let path = vector.lower().join("size8192");
    let lower = File::options().write(true).open(&path).unwrap();
    for (cut, missing) in [(8192, 0), (8192 + 4096, 1), (8192 + 8191, 1)] {
        lower.set_len(cut).unwrap();
        let file = vector.open(&path, "./size8192").unwrap();
        let refused = read(&file).unwrap_err();
        assert!(
            matches!(refused, EcryptfsError::CutShort(extent) if extent == missing),
            "{refused}"
        );
        lower.set_len(8192 + 8192).unwrap();
    }
}

#[test]
fn what_is_no_lower_file_says_so() {
    let read = |bytes: &[u8]| Header::read(lower_of(bytes, &[])).unwrap_err();
    assert!(matches!(read(b""), EcryptfsError::NeverWritten));
    assert!(matches!(read(b"text"), EcryptfsError::NotEcryptfs));
    assert!(matches!(read(&[0; 8192]), EcryptfsError::NotEcryptfs));
    let (header, _, _) = headers().remove(0);
    let with = |at: usize, value| {
        let mut changed = header.clone();
        changed[at] = value;
        read(&changed)
    };
    assert!(matches!(with(16, 4), EcryptfsError::Version(4)));
    assert!(matches!(with(19, 0), EcryptfsError::NotEncrypted));
    // In the file, and saying that it is in the attribute.
    assert!(matches!(
        with(19, 6),
        EcryptfsError::Malformed(Part::Header)
    ));
    // No packet.
    assert!(matches!(
        with(26, 0),
        EcryptfsError::Malformed(Part::Packet)
    ));
    // A header of 4096 bytes, into which the content would reach.
    assert!(matches!(
        with(25, 1),
        EcryptfsError::Malformed(Part::Header)
    ));
}

/// A name that leads out of its folder, made by one who knows the key.
#[test]
fn names_that_no_file_can_have_do_not_decrypt() {
    let fnek = PassphraseKey::derive(b"p", Salt::NAMES).unwrap();
    for name in ["..", ".", "a/b", "/"] {
        let lower = encrypt_target(name.as_bytes(), &fnek, KeyLen::Aes128).unwrap();
        let parsed = EncryptedName::parse(lower.as_bytes()).unwrap().unwrap();
        assert!(matches!(
            parsed.decrypt(&fnek),
            Err(EcryptfsError::Malformed(Part::Name))
        ));
        assert_eq!(parsed.decrypt_target(&fnek).unwrap(), name.as_bytes());
    }
}

#[test]
fn a_name_with_any_character_changed_is_refused_or_another() {
    let vector = Vector::unpack("aes24-fnek");
    let fnek = vector.fnek().unwrap();
    for entry in fs::read_dir(vector.lower()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let plain = EncryptedName::parse(name.as_bytes())
            .unwrap()
            .unwrap()
            .decrypt(&fnek)
            .unwrap();
        for at in PREFIX.len()..name.len() {
            for other in [b'-', b'z', b'/', 0, 0xff] {
                let mut changed = name.clone().into_bytes();
                changed[at] = other;
                let parsed = EncryptedName::parse(&changed).unwrap();
                let _ = parsed.and_then(|parsed| parsed.decrypt(&fnek));
            }
            let cut = EncryptedName::parse(&name.as_bytes()[..at]).unwrap();
            let cut = cut.and_then(|cut| cut.decrypt(&fnek));
            assert!(cut.is_err() || cut.unwrap() == plain, "cut to {at}");
        }
    }
}

proptest! {
    #[test]
    fn any_bytes_parse_or_are_refused(bytes in vec(any::<u8>(), 0..600)) {
        let marked = [&data_of("aes16")[..26], &bytes].concat();
        for place in [MetadataPlace::Header, MetadataPlace::Xattr] {
            let _ = Header::parse(&bytes, place);
            let _ = Header::parse(&marked, place);
        }
        let _ = WrappedPassphrase::parse(&bytes);
        let lower = [PREFIX.as_bytes(), &bytes].concat();
        let _ = EncryptedName::parse(&lower);
    }

}

proptest! {
    // Each derives a key.
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// Packets that parse are what is written, however the rest of the header was.
    #[test]
    fn packets_of_any_key_read_back(salt in any::<[u8; 8]>(), count in 1..5_usize) {
        let key = PassphraseKey::derive(b"p", Salt(salt)).unwrap();
        let fek = Fek::random(KeyLen::Aes192);
        let packets = vec![Packet::wrap(&fek, &key); count];
        let header = Header::fresh(packets, MetadataPlace::Xattr, NamesAre::Plain).unwrap();
        let lower = tempfile::tempfile().unwrap();
        LowerFile::create(lower.try_clone().unwrap().into(), &header, &fek).unwrap();
        prop_assert_eq!(Header::read(&lower).unwrap(), header);
    }
}

/// The first bytes of a header of a vector, read once.
fn data_of(name: &str) -> &'static [u8] {
    use std::sync::OnceLock;
    static HEADER: OnceLock<Vec<u8>> = OnceLock::new();
    HEADER.get_or_init(|| {
        let vector = Vector::unpack(name);
        fs::read(Path::new(vector.lower()).join("size1")).unwrap()
    })
}
