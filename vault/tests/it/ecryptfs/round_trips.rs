//! What is written here reads back here, and has the sizes that the kernel gives.

use std::fs::File;
use std::sync::LazyLock;

use claviger_vault::ecryptfs::name::{self, EncryptedName};
use claviger_vault::ecryptfs::{
    EcryptfsError, Fek, Header, KeyLen, KeySig, LowerFile, MetadataPlace, NamesAre, Packet,
    PassphraseKey, Salt, Tag1,
};
use claviger_vault::native::Access;
use proptest::collection::vec;
use proptest::prelude::*;

use super::vector::read;

/// Derived once: it takes a while.
fn key() -> &'static PassphraseKey {
    static KEY: LazyLock<PassphraseKey> =
        LazyLock::new(|| PassphraseKey::derive(b"golden passphrase one", Salt::DEFAULT).unwrap());
    &KEY
}

fn create(len: KeyLen, place: MetadataPlace, key: &PassphraseKey) -> (File, LowerFile) {
    let lower = tempfile::tempfile().unwrap();
    let fek = Fek::random(len);
    let header = Header::fresh(vec![Packet::wrap(&fek, key)], place, NamesAre::Plain).unwrap();
    let file = LowerFile::create(lower.try_clone().unwrap().into(), &header, &fek).unwrap();
    (lower, file)
}

fn reopen(lower: &File, key: &PassphraseKey, access: Access) -> LowerFile {
    let header = Header::read(lower).unwrap();
    let fek = header.unwrap(|packet| match packet {
        Packet::Passphrase(packet) => Some(packet.unwrap(key)),
        Packet::PublicKey(_) => None,
    });
    LowerFile::open(
        lower.try_clone().unwrap().into(),
        &header,
        &fek.unwrap(),
        access,
    )
    .unwrap()
}

#[test]
fn every_key_length_reads_back_from_both_places_of_the_header() {
    let key = key();
    let content: Vec<u8> = (0..20_000_u32).map(|n| (n % 251) as u8).collect();
    for len in KeyLen::ALL {
        for place in [MetadataPlace::Header, MetadataPlace::Xattr] {
            let (lower, file) = create(len, place, key);
            file.write_at(0, &content).unwrap();
            file.sync().unwrap();
            drop(file);
            let header = Header::read(&lower).unwrap();
            assert_eq!((header.place, header.size), (place, 20_000));
            assert_eq!(
                read(&reopen(&lower, key, Access::ReadOnly)).unwrap(),
                content
            );
        }
    }
}

/// "Lower = 8192 + ceil(size/4096)·4096"; without the 8192 where the header is an attribute.
#[test]
fn lower_files_have_the_kernels_sizes() {
    let key = key();
    for (size, lower_len) in [
        (0, 8192),
        (1, 12288),
        (4096, 12288),
        (4097, 16384),
        (100_000, 110_592),
    ] {
        for (place, less) in [(MetadataPlace::Header, 0), (MetadataPlace::Xattr, 8192)] {
            let (lower, file) = create(KeyLen::Aes128, place, key);
            file.append(&vec![7; size]).unwrap();
            assert_eq!(lower.metadata().unwrap().len(), lower_len - less);
        }
    }
}

#[test]
fn shrinking_cuts_at_an_extent_and_growing_again_gives_zeros() {
    let key = key();
    let (lower, file) = create(KeyLen::Aes256, MetadataPlace::Header, key);
    file.write_at(0, &[9; 10_000]).unwrap();
    file.truncate(4100).unwrap();
    assert_eq!(lower.metadata().unwrap().len(), 8192 + 2 * 4096);
    file.truncate(9000).unwrap();
    assert_eq!(file.size(), 9000);
    let content = read(&reopen(&lower, key, Access::ReadOnly)).unwrap();
    assert_eq!(content, [vec![9; 4100], vec![0; 4900]].concat());
    file.truncate(0).unwrap();
    assert_eq!(lower.metadata().unwrap().len(), 8192);
}

/// "Holes become encrypted zeros": 70005 bytes of which all but a few are a hole.
#[test]
fn a_hole_is_encrypted_zeros() {
    let key = key();
    let (lower, file) = create(KeyLen::Aes128, MetadataPlace::Header, key);
    file.write_at(70_000, b"after").unwrap();
    assert_eq!(lower.metadata().unwrap().len(), 81_920);
    let content = read(&reopen(&lower, key, Access::ReadOnly)).unwrap();
    assert_eq!(content, [&vec![0; 70_000][..], b"after"].concat());
}

#[test]
fn any_of_several_keys_opens_and_no_other() {
    let (one, two) = (key(), PassphraseKey::derive(b"two", Salt::DEFAULT).unwrap());
    let fek = Fek::random(KeyLen::Aes192);
    let rsa = Tag1::new(KeySig([0xa1; 8]), &[0x55; 512]).unwrap();
    let packets = vec![
        Packet::wrap(&fek, one),
        Packet::PublicKey(rsa),
        Packet::wrap(&fek, &two),
    ];
    let header = Header::fresh(packets, MetadataPlace::Header, NamesAre::Encrypted).unwrap();
    let lower = tempfile::tempfile().unwrap();
    LowerFile::create(lower.try_clone().unwrap().into(), &header, &fek)
        .unwrap()
        .append(b"x")
        .unwrap();
    for key in [one, &two] {
        let file = Header::read(&lower).unwrap();
        let opened = file.unwrap(|packet| match packet {
            Packet::Passphrase(packet) if packet.key_sig == key.sig() => Some(packet.unwrap(key)),
            _ => None,
        });
        assert_eq!(opened.unwrap().expose(), fek.expose());
    }
}

/// "Readable recipients: 15 × RSA-2048, 7 × 4096."
#[test]
fn no_header_is_made_that_the_kernel_cannot_parse() {
    for (blob, most) in [(256, 15), (512, 7)] {
        let packet = Packet::PublicKey(Tag1::new(KeySig([1; 8]), &vec![1; blob]).unwrap());
        let fresh = |count| {
            Header::fresh(
                vec![packet.clone(); count],
                MetadataPlace::Header,
                NamesAre::Plain,
            )
        };
        assert!(fresh(most).is_ok());
        assert!(matches!(
            fresh(most + 1),
            Err(EcryptfsError::TooManyRecipients)
        ));
    }
}

#[test]
fn a_file_opened_for_reading_is_not_written() {
    let key = key();
    let (lower, file) = create(KeyLen::Aes128, MetadataPlace::Header, key);
    file.append(b"text").unwrap();
    let reader = reopen(&lower, key, Access::ReadOnly);
    assert!(matches!(reader.append(b"x"), Err(EcryptfsError::ReadOnly)));
    assert!(matches!(reader.truncate(0), Err(EcryptfsError::ReadOnly)));
    assert_eq!(read(&reader).unwrap(), b"text");
}

#[test]
fn the_longest_name_has_143_bytes() {
    let fnek = PassphraseKey::derive(b"golden passphrase one", Salt::NAMES).unwrap();
    for (len, lower_len) in [(1, 84), (15, 84), (16, 104), (143, 252)] {
        let lower = name::encrypt(&vec![b'n'; len], &fnek, KeyLen::Aes256).unwrap();
        assert_eq!(lower.len(), lower_len);
    }
    let refused = name::encrypt(&[b'n'; 144], &fnek, KeyLen::Aes256).unwrap_err();
    assert!(matches!(refused, EcryptfsError::NameTooLong));
    assert!(name::encrypt(b"", &fnek, KeyLen::Aes256).is_err());
    assert!(name::encrypt_target(&[b't'; 3000], &fnek, KeyLen::Aes256).is_ok());
    assert!(name::encrypt_target(&[b't'; 3100], &fnek, KeyLen::Aes256).is_err());
}

/// From the format's description; the kernel made it.
#[test]
fn a_name_is_encrypted_to_what_the_kernel_makes_of_it() {
    let fnek = PassphraseKey::derive(b"golden passphrase one", Salt::NAMES).unwrap();
    let lower = name::encrypt(b"size1", &fnek, KeyLen::Aes256).unwrap();
    assert_eq!(
        lower,
        "ECRYPTFS_FNEK_ENCRYPTED.FWaSNrodSqKVakYhee-bLd63bEURK2zhkHFk1143g58UDpxQuhGYEQXRF---"
    );
}

/// What a file system may be asked to do.
#[derive(Clone, Debug)]
enum Step {
    Write(u64, Vec<u8>),
    Append(Vec<u8>),
    Truncate(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let offset = prop_oneof![0..20_000_u64, (0..5_u64).prop_map(|n| n * 4096)];
    let data = prop_oneof![vec(any::<u8>(), 0..200), vec(any::<u8>(), 4000..9000)];
    prop_oneof![
        (offset.clone(), data.clone()).prop_map(|(offset, data)| Step::Write(offset, data)),
        data.prop_map(Step::Append),
        offset.prop_map(Step::Truncate),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Against a vector of bytes that the same is done to.
    #[test]
    fn a_file_is_what_was_done_to_it(steps in vec(step(), 1..12), xattr in any::<bool>()) {
        let place = if xattr { MetadataPlace::Xattr } else { MetadataPlace::Header };
        let key = key();
        let (lower, file) = create(KeyLen::Aes128, place, key);
        let mut model = Vec::new();
        for step in steps {
            match step {
                Step::Write(offset, data) => {
                    file.write_at(offset, &data).unwrap();
                    let end = offset as usize + data.len();
                    if !data.is_empty() && end > model.len() {
                        model.resize(end, 0);
                    }
                    if !data.is_empty() {
                        model[offset as usize..end].copy_from_slice(&data);
                    }
                }
                Step::Append(data) => {
                    prop_assert_eq!(file.append(&data).unwrap(), model.len() as u64);
                    model.extend(data);
                }
                Step::Truncate(size) => {
                    file.truncate(size).unwrap();
                    model.resize(size as usize, 0);
                }
            }
            prop_assert_eq!(file.size(), model.len() as u64);
        }
        prop_assert_eq!(&read(&file).unwrap(), &model);
        prop_assert_eq!(&read(&reopen(&lower, key, Access::ReadOnly)).unwrap(), &model);
        let content = model.len().next_multiple_of(4096) as u64;
        let header = if xattr { 0 } else { 8192 };
        prop_assert_eq!(lower.metadata().unwrap().len(), header + content);
    }

    #[test]
    fn any_name_decrypts_to_itself(name in "[^/\0]{1,35}", len in 0..3_usize) {
        prop_assume!(name != "." && name != "..");
        let fnek = key();
        let lower = name::encrypt(name.as_bytes(), fnek, KeyLen::ALL[len]).unwrap();
        prop_assert!(lower.len() <= 255);
        let parsed = EncryptedName::parse(lower.as_bytes()).unwrap().unwrap();
        prop_assert_eq!(parsed.key_sig(), fnek.sig());
        prop_assert_eq!(parsed.decrypt(fnek).unwrap(), name.as_bytes());
    }
}
