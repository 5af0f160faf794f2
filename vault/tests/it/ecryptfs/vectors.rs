//! Everything in the vectors reads as the kernel showed it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;

use aws_lc_rs::digest::{SHA256, digest};
use claviger_vault::ecryptfs::name::{self, EncryptedName};
use claviger_vault::ecryptfs::{
    EcryptfsError, Flags, Header, KeyLen, LowerFile, MetadataPlace, Packet, PassphraseKey,
};
use data_encoding::HEXLOWER;

use super::vector::{Vector, read};

/// Decodes every name, target and file of a folder, and expects what the kernel showed.
#[track_caller]
fn reads_as_the_kernel_showed(vector: &str) {
    let vector = Vector::unpack(vector);
    let fnek = vector.fnek();
    let mut seen: BTreeMap<String, _> = vector
        .seen()
        .into_iter()
        .map(|one| (one.path.clone(), one))
        .collect();
    seen.remove(".").expect("the root itself");
    walk(vector.lower(), ".", fnek.as_ref(), &mut |lower, upper| {
        let one = seen
            .remove(upper)
            .unwrap_or_else(|| panic!("{upper} is not there above"));
        let kind = fs::symlink_metadata(lower).unwrap().file_type();
        match one.kind.as_str() {
            "dir" => assert!(kind.is_dir()),
            "file" => {
                let file = vector.open(lower, upper).unwrap();
                let content = read(&file).unwrap();
                let sha256 = digest(&SHA256, &content);
                assert_eq!(Some(file.size()), one.size, "{upper}");
                assert_eq!(HEXLOWER.encode(sha256.as_ref()), one.sha256, "{upper}");
            }
            "link" => {
                let target = fs::read_link(lower).unwrap();
                let target = plain_target(target.as_os_str().as_bytes(), fnek.as_ref());
                assert_eq!(String::from_utf8(target).unwrap(), one.target);
            }
            _ => assert!(!kind.is_file()),
        }
    });
    assert!(seen.is_empty(), "not found below: {seen:?}");
}

fn walk(
    lower: &Path,
    upper: &str,
    fnek: Option<&PassphraseKey>,
    visit: &mut impl FnMut(&Path, &str),
) {
    for entry in fs::read_dir(lower).unwrap() {
        let entry = entry.unwrap();
        let name = match EncryptedName::parse(entry.file_name().as_bytes()) {
            Some(name) => {
                let (name, fnek) = (name.unwrap(), fnek.expect("names are encrypted"));
                let plain = name.decrypt(fnek).unwrap();
                let len = KeyLen::from_code(name.cipher()).unwrap();
                let again = name::encrypt(&plain, fnek, len).unwrap();
                assert_eq!(again.as_bytes(), entry.file_name().as_bytes());
                plain
            }
            None => {
                assert!(fnek.is_none(), "a plain name among encrypted ones");
                entry.file_name().as_bytes().to_vec()
            }
        };
        let upper = format!("{upper}/{}", String::from_utf8(name).unwrap());
        visit(&entry.path(), &upper);
        if entry.file_type().unwrap().is_dir() {
            walk(&entry.path(), &upper, fnek, visit);
        }
    }
}

fn plain_target(lower: &[u8], fnek: Option<&PassphraseKey>) -> Vec<u8> {
    match (EncryptedName::parse(lower), fnek) {
        (Some(target), Some(fnek)) => {
            let target = target.unwrap();
            let plain = target.decrypt_target(fnek).unwrap();
            let len = KeyLen::from_code(target.cipher()).unwrap();
            assert_eq!(
                name::encrypt_target(&plain, fnek, len).unwrap().as_bytes(),
                lower
            );
            plain
        }
        (None, None) => lower.to_vec(),
        (encrypted, _) => panic!("{encrypted:?}"),
    }
}

/// Writes every file of a folder anew, under its FEK, and expects the bytes that the kernel wrote: the
/// format leaves nothing to chance but the FEK and the random number in the header.
#[track_caller]
fn is_written_as_the_kernel_wrote_it(vector: &str) {
    let vector = Vector::unpack(vector);
    let keys = vector.passphrase_keys();
    let mut files = 0;
    walk(
        vector.lower(),
        ".",
        vector.fnek().as_ref(),
        &mut |lower, upper| {
            if !fs::symlink_metadata(lower).unwrap().is_file() {
                return;
            }
            let kernels = fs::File::open(lower).unwrap();
            let header = Header::read(&kernels).unwrap();
            let fek = vector.fek(&header, upper).unwrap();
            let content = read(&vector.open(lower, upper).unwrap()).unwrap();
            for packet in &header.packets {
                let key = keys.iter().find(|key| key.sig() == packet.key_sig());
                assert!(
                    key.is_none_or(|key| Packet::wrap(&fek, key) == *packet),
                    "{upper}"
                );
            }
            let ours = tempfile::tempfile().unwrap();
            let mut empty = header.clone();
            empty.size = 0;
            let file = LowerFile::create(ours.try_clone().unwrap().into(), &empty, &fek).unwrap();
            for piece in content.chunks(5000) {
                file.append(piece).unwrap();
            }
            assert_eq!(Header::read(&ours).unwrap(), header, "{upper}");
            let mut written = vec![0; ours.metadata().unwrap().len() as usize];
            ours.read_exact_at(&mut written, 0).unwrap();
            assert!(written == fs::read(lower).unwrap(), "{upper} differs");
            files += 1;
        },
    );
    assert!(files > 2, "hardly a file");
}

#[test]
fn files_with_aes_128_are_written_as_the_kernel_wrote_them() {
    is_written_as_the_kernel_wrote_it("aes16");
}

#[test]
fn files_with_aes_192_and_256_are_written_as_the_kernel_wrote_them() {
    is_written_as_the_kernel_wrote_it("aes24-fnek");
    is_written_as_the_kernel_wrote_it("aes32-two-keys");
}

#[test]
fn files_with_headers_in_extended_attributes_are_written_as_the_kernel_wrote_them() {
    is_written_as_the_kernel_wrote_it("aes16-xattr-fnek");
}

#[test]
fn files_of_rsa_keys_are_written_as_the_kernel_wrote_them() {
    is_written_as_the_kernel_wrote_it("rsa2048-aes32-plus-passphrase");
    is_written_as_the_kernel_wrote_it("rsa4096-aes32");
}

#[test]
fn a_folder_with_aes_128_reads_as_the_kernel_showed_it() {
    reads_as_the_kernel_showed("aes16");
}

#[test]
fn a_folder_with_aes_192_and_encrypted_names_reads_as_the_kernel_showed_it() {
    reads_as_the_kernel_showed("aes24-fnek");
}

#[test]
fn a_folder_with_aes_256_and_encrypted_names_reads_as_the_kernel_showed_it() {
    reads_as_the_kernel_showed("aes32-fnek");
}

#[test]
fn a_folder_with_headers_in_extended_attributes_reads_as_the_kernel_showed_it() {
    reads_as_the_kernel_showed("aes16-xattr-fnek");
}

#[test]
fn a_folder_of_two_passphrases_reads_as_the_kernel_showed_it() {
    reads_as_the_kernel_showed("aes32-two-keys");
}

#[test]
fn folders_of_rsa_keys_read_as_the_kernel_showed_them() {
    for vector in ["rsa2048-aes32", "rsa2048-aes32-fnek", "rsa4096-aes32"] {
        reads_as_the_kernel_showed(vector);
    }
}

#[test]
fn a_folder_of_an_rsa_key_and_a_passphrase_reads_as_the_kernel_showed_it() {
    reads_as_the_kernel_showed("rsa2048-aes32-plus-passphrase");
}

#[test]
fn other_ciphers_are_refused_by_name() {
    let vector = Vector::unpack("blowfish-16");
    let refused = vector
        .open(&vector.lower().join("size1"), "./size1")
        .unwrap_err();
    assert_eq!(refused.to_string(), "cipher blowfish is not supported");
}

/// "The last packet is tried first."
#[test]
fn keys_are_tried_in_the_kernels_order() {
    let vector = Vector::unpack("rsa2048-aes32-plus-passphrase");
    let header = Header::read(fs::File::open(vector.lower().join("size1")).unwrap()).unwrap();
    let mut tried = Vec::new();
    let refused = header.unwrap(|packet| {
        tried.push(packet.key_sig().to_string());
        None::<Result<_, EcryptfsError>>
    });
    assert_eq!(tried, ["f2291ce4c3069633", "fd591e1468c3ea8a"]);
    assert_eq!(
        refused.unwrap_err().to_string(),
        "opens with key fd591e1468c3ea8a or key f2291ce4c3069633 only"
    );
}

#[test]
fn headers_say_what_the_mount_options_were() {
    let plain = Vector::unpack("aes16");
    let header = Header::read(fs::File::open(plain.lower().join("a")).unwrap()).unwrap();
    assert_eq!(
        (header.version, header.flags, header.size),
        (3, Flags(2), 3)
    );
    assert_eq!(
        (header.place, header.content_offset()),
        (MetadataPlace::Header, 8192)
    );
    let [Packet::Passphrase(packet)] = &header.packets[..] else {
        panic!("{header:?}")
    };
    assert_eq!(packet.cipher, KeyLen::Aes128.code());

    let xattr = Vector::unpack("aes16-xattr-fnek");
    let file = fs::read_dir(xattr.lower()).unwrap().find_map(|entry| {
        let entry = entry.unwrap();
        entry.file_type().unwrap().is_file().then(|| entry.path())
    });
    let header = Header::read(fs::File::open(file.unwrap()).unwrap()).unwrap();
    assert_eq!((header.version, header.flags), (3, Flags(14)));
    assert_eq!(
        (header.place, header.content_offset()),
        (MetadataPlace::Xattr, 0)
    );
}

/// "0 = ancient, without fields 20–25": as the kernel still reads it.
#[test]
fn a_header_of_version_0_has_its_packets_earlier() {
    let vector = Vector::unpack("aes16");
    let path = vector.lower().join("size4097");
    let mut lower = fs::read(&path).unwrap();
    lower[16] = 0;
    lower.copy_within(26..8192, 20);
    fs::write(&path, lower).unwrap();
    let header = Header::read(fs::File::open(&path).unwrap()).unwrap();
    assert_eq!((header.version, header.content_offset()), (0, 8192));
    let content = read(&vector.open(&path, "./size4097").unwrap()).unwrap();
    let seen = vector.seen();
    let seen = seen.iter().find(|one| one.path == "./size4097").unwrap();
    assert_eq!(
        HEXLOWER.encode(digest(&SHA256, &content).as_ref()),
        seen.sha256
    );
}
