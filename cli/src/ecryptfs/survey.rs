//! What a lower folder says of how it was mounted: its files name their recipients, its names their key.
//!
//! Nothing of it is authenticated. It decides what new files look like, and which of the caller's keys
//! are needed: a file that somebody planted can name none that is not here.

use std::collections::VecDeque;
use std::fs::{self, DirEntry, OpenOptions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use claviger_vault::ecryptfs::name::EncryptedName;
use claviger_vault::ecryptfs::{CipherCode, Flags, Header, KeySig, MetadataPlace, Packet};

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Survey {
    /// Recipients of its files, in the order of the packets; none if there is no file.
    pub(super) sigs: Vec<KeySig>,
    /// What the content of files is encrypted by; a Tag 1 packet does not say it.
    pub(super) cipher: Option<CipherCode>,
    /// Where headers are.
    pub(super) place: Option<MetadataPlace>,
    /// How names are.
    pub(super) names: Names,
}

/// How the names in a folder are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Names {
    /// There is none.
    Unknown,
    /// In clear.
    Plain,
    /// Encrypted.
    Encrypted {
        /// By which key.
        key_sig: KeySig,
        /// And cipher; unknown where only the key is on record.
        cipher: Option<CipherCode>,
    },
}

/// More entries than this are not looked at: something else than files of eCryptfs is in there.
const MOST: usize = 100_000;

/// The name of the lower folder of an encrypted home.
const PRIVATE: &str = ".Private";

/// Beside it: the sig of the content's key and that of names, a line each.
const RECORD: &str = ".ecryptfs/Private.sig";

impl Survey {
    /// Looks at the entries below `dir` until a file has said everything; where there is none, at
    /// what `ecryptfs-setup-private` put on record.
    pub(super) fn of(dir: &Path) -> Self {
        let mut survey = Self {
            sigs: Vec::new(),
            cipher: None,
            place: None,
            names: Names::Unknown,
        };
        let mut waiting = VecDeque::from([dir.to_owned()]);
        let mut seen = 0;
        while let Some(folder) = waiting.pop_front() {
            let mut entries: Vec<DirEntry> = fs::read_dir(folder)
                .into_iter()
                .flatten()
                .filter_map(Result::ok)
                .collect();
            // The same folder says the same every time.
            entries.sort_by_key(DirEntry::file_name);
            for entry in entries {
                seen += 1;
                survey.look_at_name(&entry);
                match entry.file_type() {
                    Ok(kind) if kind.is_dir() => waiting.push_back(entry.path()),
                    Ok(kind) if kind.is_file() && survey.look_at_file(&entry.path()) => {
                        return survey;
                    }
                    _ => {}
                }
                if seen >= MOST {
                    return survey;
                }
            }
        }
        if survey.sigs.is_empty() && survey.names == Names::Unknown {
            survey.look_at_record(dir);
        }
        survey
    }

    fn look_at_name(&mut self, entry: &DirEntry) {
        if matches!(self.names, Names::Encrypted { .. }) {
            return;
        }
        self.names = match EncryptedName::parse(entry.file_name().as_bytes()) {
            Some(Ok(name)) => Names::Encrypted {
                key_sig: name.key_sig(),
                cipher: Some(name.cipher()),
            },
            Some(Err(_)) | None => Names::Plain,
        };
    }

    /// Whether it is a file of eCryptfs, which says everything.
    fn look_at_file(&mut self, path: &Path) -> bool {
        let opened = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(path);
        let Some(header) = opened.ok().and_then(|file| Header::read(file).ok()) else {
            return false;
        };
        for packet in &header.packets {
            let sig = packet.key_sig();
            if !self.sigs.contains(&sig) {
                self.sigs.push(sig);
            }
            if let Packet::Passphrase(packet) = packet {
                self.cipher = self.cipher.or(Some(packet.cipher));
            }
        }
        self.place = Some(header.place);
        // One encrypted name among plain ones may have been put there by anybody, or left.
        let name = path.file_name().unwrap_or_default();
        if header.flags.contains(Flags::NAMES)
            && let Some(Ok(name)) = EncryptedName::parse(name.as_bytes())
        {
            self.names = Names::Encrypted {
                key_sig: name.key_sig(),
                cipher: Some(name.cipher()),
            };
        }
        true
    }

    fn look_at_record(&mut self, dir: &Path) {
        if dir.file_name().is_none_or(|name| name != PRIVATE) {
            return;
        }
        let text = fs::read_to_string(dir.with_file_name(RECORD)).unwrap_or_default();
        let mut sigs = text
            .lines()
            .map_while(|line| KeySig::from_hex(line.trim().as_bytes().try_into().ok()?));
        self.sigs.extend(sigs.next());
        if let Some(key_sig) = sigs.next() {
            let cipher = None;
            self.names = Names::Encrypted { key_sig, cipher };
        }
    }
}
