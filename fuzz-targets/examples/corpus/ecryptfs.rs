//! Folders of eCryptfs. What keyrings and wrapped-passphrase files hold, a real kernel and ecryptfs-utils
//! wrote.

use std::fs::{self, File};
use std::path::Path;

use claviger_fuzz_targets::fixed::passphrase_key;
use claviger_vault::ecryptfs::{self, KeyLen, LowerFile, MetadataPlace, NamesAre};

use crate::Corpus;

pub(crate) fn seeds(corpus: &Corpus) {
    let key = passphrase_key();
    for (name, place) in [
        ("header", MetadataPlace::Header),
        ("xattr", MetadataPlace::Xattr),
    ] {
        let fek = ecryptfs::Fek::random(KeyLen::Aes256);
        let rsa = ecryptfs::Packet::PublicKey(ecryptfs::Tag1 {
            key_sig: ecryptfs::KeySig([9; 8]),
            wrapped_fek: vec![10; 256],
        });
        let packets = vec![ecryptfs::Packet::wrap(&fek, &key), rsa];
        let written: Vec<u8> = packets.iter().flat_map(ecryptfs::Packet::write).collect();
        corpus.seed("ecryptfs_packets", name, written);
        corpus.seed("ecryptfs_session_key", name, fek.session_key());
        let header = ecryptfs::Header::fresh(packets, place, NamesAre::Encrypted).unwrap();
        let folder = tempfile::tempdir_in("/dev/shm").unwrap();
        let path = folder.path().join("lower");
        let lower = File::create_new(&path).unwrap();
        drop(lower);
        let lower = File::options().read(true).write(true).open(&path).unwrap();
        let file = LowerFile::create(lower.into(), &header, &fek).unwrap();
        file.write_at(0, &[b'x'; 5000]).unwrap();
        if place == MetadataPlace::Header {
            let whole = fs::read(&path).unwrap();
            corpus.seed("ecryptfs_header", name, &whole[..4096]);
            corpus.seed("ecryptfs_file", name, whole);
        } else {
            let value = std::process::Command::new("getfattr")
                .args(["--only-values", "--absolute-names", "-n", "user.ecryptfs"])
                .arg(&path)
                .output();
            corpus.seed("ecryptfs_xattr_header", name, value.unwrap().stdout);
        }
    }
    let name = ecryptfs::name::encrypt(b"letter.txt", &key, KeyLen::Aes128).unwrap();
    corpus.seed("ecryptfs_name", "letter", name);
    let target = ecryptfs::name::encrypt_target(b"../d/letter.txt", &key, KeyLen::Aes256).unwrap();
    corpus.seed("ecryptfs_target", "letter", target);
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../vault/tests/data/ecryptfs");
    for (target, name, from) in [
        (
            "ecryptfs_auth_tok",
            "passphrase",
            "authtok.f2291ce4c3069633.bin",
        ),
        ("ecryptfs_auth_tok", "rsa", "authtok.fd591e1468c3ea8a.bin"),
        (
            "ecryptfs_wrapped_passphrase",
            "version-1",
            "wrapped-passphrase-1",
        ),
        (
            "ecryptfs_wrapped_passphrase",
            "version-2",
            "wrapped-passphrase-2",
        ),
    ] {
        corpus.seed(target, name, fs::read(data.join(from)).unwrap());
    }
    // Tag 66, as Linux 6.1 sent it (`docs/protocol-ecryptfs.md`).
    let wrap = "66000000012e00000000260000004210303031313232333334343535363661611307ea99826984d9a985ef11cfda2c4265fa096f";
    let wrap = data_encoding::HEXLOWER.decode(wrap.as_bytes()).unwrap();
    corpus.seed("ecryptfs_device", "wrap", wrap);
}
