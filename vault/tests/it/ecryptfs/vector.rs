//! The folders in `tests/data/ecryptfs`.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use claviger_vault::ecryptfs::{
    EcryptfsError, Fek, Header, LowerFile, Packet, PassphraseKey, Salt,
};
use claviger_vault::native::Access;
use data_encoding::HEXLOWER;
use tempfile::TempDir;

/// A file of `tests/data/ecryptfs`.
pub fn data(name: &str) -> Vec<u8> {
    let path = folder().join(name);
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/ecryptfs")
}

/// One folder, unpacked.
pub struct Vector {
    lower: TempDir,
    name: String,
    conf: BTreeMap<String, String>,
}

/// What was seen through the kernel's mount.
#[derive(Debug)]
pub struct Seen {
    pub kind: String,
    pub path: String,
    /// Of a file.
    pub sha256: String,
    pub size: Option<u64>,
    /// Of a link.
    pub target: String,
}

impl Vector {
    pub fn unpack(name: &str) -> Self {
        let lower = TempDir::new().unwrap();
        let unpacked = Command::new("tar")
            .args([
                "--no-same-owner",
                "--xattrs",
                "--xattrs-include=user.*",
                "-xzf",
            ])
            .arg(folder().join(name).join("lower.tar.gz"))
            .arg("-C")
            .arg(lower.path())
            .status()
            .unwrap();
        assert!(unpacked.success());
        let conf = String::from_utf8(data(&format!("{name}/conf.txt"))).unwrap();
        let conf = conf.lines().filter_map(|line| line.split_once('='));
        Self {
            lower,
            name: name.into(),
            conf: conf
                .map(|(key, value)| (key.into(), value.into()))
                .collect(),
        }
    }

    pub fn lower(&self) -> &Path {
        self.lower.path()
    }

    /// What the configuration says of `key`.
    pub fn conf(&self, key: &str) -> Option<&str> {
        self.conf.get(key).map(String::as_str)
    }

    /// The mount options.
    pub fn has_option(&self, option: &str) -> bool {
        self.conf("options").unwrap().contains(option)
    }

    pub fn seen(&self) -> Vec<Seen> {
        let plain = String::from_utf8(data(&format!("{}/plain.txt", self.name))).unwrap();
        let seen = plain.lines().map(|line| {
            let fields: Vec<&str> = line.split('\t').collect();
            let [kind, _, size, last, path] = fields[..] else {
                panic!("{line}")
            };
            Seen {
                kind: kind.into(),
                path: path.into(),
                sha256: last.into(),
                size: size.parse().ok(),
                target: last.into(),
            }
        });
        seen.collect()
    }

    /// The keys of its passphrases.
    pub fn passphrase_keys(&self) -> Vec<PassphraseKey> {
        let salt: Salt = self
            .conf("salt_hex")
            .unwrap_or("0011223344556677")
            .parse()
            .unwrap();
        let passphrases = ["passphrase1", "passphrase2"]
            .iter()
            .filter_map(|key| self.conf(key));
        passphrases
            .map(|passphrase| PassphraseKey::derive(passphrase.as_bytes(), salt).unwrap())
            .collect()
    }

    pub fn fnek(&self) -> Option<PassphraseKey> {
        let names = self.has_option("ecryptfs_fnek_sig");
        let passphrase = self.conf("passphrase1").filter(|_| names)?;
        Some(PassphraseKey::derive(passphrase.as_bytes(), Salt::NAMES).unwrap())
    }

    /// FEKs that a daemon unwrapped, by upper path.
    fn feks(&self) -> BTreeMap<String, String> {
        let path = folder().join(&self.name).join("decoded.json");
        let Ok(text) = fs::read_to_string(path) else {
            return BTreeMap::new();
        };
        let decoded: serde_json::Value = serde_json::from_str(&text).unwrap();
        let files = decoded.as_object().unwrap().iter();
        files
            .map(|(path, of)| (path.clone(), of["fek"].as_str().unwrap().into()))
            .collect()
    }

    /// Opens the lower file at `lower`, which is `upper` above.
    pub fn open(&self, lower: &Path, upper: &str) -> Result<LowerFile, EcryptfsError> {
        let file = File::options().read(true).write(true).open(lower)?;
        let header = Header::read(&file)?;
        let fek = self.fek(&header, upper)?;
        LowerFile::open(file.into(), &header, &fek, Access::ReadWrite)
    }

    /// The FEK of a file.
    pub fn fek(&self, header: &Header, upper: &str) -> Result<Fek, EcryptfsError> {
        let keys = self.passphrase_keys();
        let feks = self.feks();
        header.unwrap(|packet| match packet {
            Packet::Passphrase(packet) => {
                let key = keys.iter().find(|key| key.sig() == packet.key_sig)?;
                Some(packet.unwrap(key))
            }
            // A code for AES-256, the FEK, its checksum: as a daemon would hand it in.
            Packet::PublicKey(_) => {
                let fek = HEXLOWER.decode(feks.get(upper)?.as_bytes()).unwrap();
                let sum: u16 = fek.iter().map(|byte| u16::from(*byte)).sum();
                Some(Fek::from_session_key(
                    &[&[9], &fek[..], &sum.to_be_bytes()].concat(),
                ))
            }
        })
    }
}

/// All of a file, in pieces that are no multiple of anything.
pub fn read(file: &LowerFile) -> Result<Vec<u8>, EcryptfsError> {
    let mut content = Vec::new();
    let mut piece = [0; 9001];
    loop {
        match file.read_at(content.len() as u64, &mut piece)? {
            0 => return Ok(content),
            read => content.extend(&piece[..read]),
        }
    }
}
