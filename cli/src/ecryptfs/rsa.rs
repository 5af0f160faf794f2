//! An RSA key of an eCryptfs folder, wherever it is.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use claviger_protocol::control::{Command, KeyRef, Needed, OtherKeys, Reply, UnlockEcryptfs};
use claviger_protocol::keys::{EcryptfsReply, EcryptfsRequest, KeyReply, KeyRequest};
use claviger_vault::ecryptfs::{Fek, KeySig, Packet, Tag1};
use claviger_vault::ids::VolumeId;

use super::pem::PemKey;
use super::tell_unlocked;
use crate::asking::Asking;
use crate::command::unexpected;
use crate::prompter::Prompter;
use crate::volume::key_deadline;
use crate::{Failed, daemon, key_ref, place};

/// What a key file begins with that only the TPM which made it can use.
const TPM_KEY: &[u8] = b"-----BEGIN TSS2 PRIVATE KEY-----";

/// An RSA key that can be used.
pub(super) enum RsaKey {
    /// In a PEM file, used by a module of this program's own.
    InFile(PemKey),
    /// In a token, or enrolled: used by the daemon.
    OfDaemon(DaemonKey),
}

impl RsaKey {
    /// Finds the key that `text` names, and asks for its passphrase or PIN.
    pub(super) fn open(text: &str, dir: &Path, mut prompter: Prompter) -> Result<Self, Failed> {
        match key_ref::parse(text)? {
            KeyRef::File(path) if !is_of_a_tpm(&path) => {
                PemKey::open(&path, &mut prompter).map(Self::InFile)
            }
            key => DaemonKey::unlock(key, dir, prompter).map(Self::OfDaemon),
        }
    }

    pub(super) fn sig(&self) -> KeySig {
        match self {
            Self::InFile(key) => key.sig(),
            Self::OfDaemon(key) => key.sig,
        }
    }

    /// The FEK in a packet that is wrapped to this key.
    pub(super) fn unwrap(&self, packet: &Tag1, path: &Path) -> Result<Fek, Failed> {
        match self {
            Self::InFile(key) => key.unwrap(packet, path),
            Self::OfDaemon(key) => key.unwrap(packet, path),
        }
    }
}

/// A key that the folder has been unlocked with. It stays unlocked, as a volume does.
pub(super) struct DaemonKey {
    folder: VolumeId,
    sig: KeySig,
    asking: Asking,
}

impl DaemonKey {
    fn unlock(key: KeyRef, dir: &Path, mut prompter: Prompter) -> Result<Self, Failed> {
        let dir = place::lower_folder(dir)?;
        // Whom other files of the folder are wrapped to does not matter for one.
        let order = UnlockEcryptfs {
            dir: dir.clone(),
            passwords: Vec::new(),
            keys: vec![key],
            sigs: Vec::new(),
            fnek: None,
            needed: Needed::One,
            others: OtherKeys::InKeyring,
        };
        let reply = daemon::run(Command::EcryptfsUnlock(order), &mut prompter)?;
        let Reply::EcryptfsUnlocked { folder, by, sigs } = reply else {
            return Err(unexpected());
        };
        tell_unlocked(&dir, &by);
        let sig = sigs.into_iter().next().map(KeySig);
        let about = BTreeMap::from([
            ("volume".to_owned(), folder.to_string()),
            ("lower".to_owned(), dir.to_string_lossy().into_owned()),
        ]);
        Ok(Self {
            folder,
            sig: sig.ok_or_else(unexpected)?,
            asking: Asking::start(about, prompter)?,
        })
    }

    fn unwrap(&self, packet: &Tag1, path: &Path) -> Result<Fek, Failed> {
        let request = KeyRequest::Ecryptfs {
            folder: self.folder,
            request: EcryptfsRequest::Fek {
                packets: Packet::PublicKey(packet.clone()).write(),
                lower_path: path.as_os_str().as_bytes().to_vec(),
                pid: std::process::id(),
            },
        };
        let KeyReply::Ecryptfs(EcryptfsReply::Fek(fek)) =
            self.asking.ask(&request, key_deadline())?
        else {
            return Err(unexpected());
        };
        Fek::of_bytes(fek.expose()).ok_or_else(unexpected)
    }
}

/// Whether a file holds a key of a TPM's: known by how it begins, so that no private key is read here.
fn is_of_a_tpm(path: &Path) -> bool {
    let mut begin = [0; TPM_KEY.len()];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut begin));
    read.is_ok() && begin == TPM_KEY
}
