//! What mounts of eCryptfs folders ask for.

use std::sync::Arc;
use std::time::Instant;

use claviger_callout::Call;
use claviger_protocol::keys::{EcryptfsReply, EcryptfsRequest, FreshFek, KeyReply};
use claviger_protocol::{Failure, Secret};
use claviger_vault::ecryptfs::{
    Fek, Header, KeyLen, KeySig, MetadataPlace, NamesAre, Packet, PassphraseKey, Tag1,
};
use claviger_vault::ids::VolumeId;

use super::token_job::{Asked, TokenJob};
use crate::audit::{Event, UsedKey};
use crate::daemon::Daemon;
use crate::ecryptfs::folder::FolderKeys;
use crate::ecryptfs::keys::RsaKey;
use crate::ecryptfs::{does_not_open, not_encrypted};
use crate::errand::{Errand, Program, Standing, VolumeName};
use crate::failure;
use crate::opener::first_that_opens;
use crate::tokens::Request;
use crate::volumes::Folder;

/// Most FEKs that one request gets.
const MOST: u16 = 64;

/// What came of a request.
pub(super) enum Answered {
    /// The end, and told in the audit log.
    Now(Result<KeyReply, Failure>),
    /// A token has to unwrap the FEK.
    ByToken(Box<NeedsToken>),
}

/// A file whose FEK no key of a passphrase unwraps.
pub(super) struct NeedsToken {
    folder: Arc<Folder>,
    /// In the order in which they are tried.
    candidates: Vec<Candidate>,
    errand: Errand,
    begun: Instant,
}

struct Candidate {
    sig: KeySig,
    key: RsaKey,
    wrapped_fek: Vec<u8>,
}

/// Answers `request` about the folder `id`.
pub(super) fn answer(daemon: &Daemon, id: VolumeId, request: EcryptfsRequest) -> Answered {
    let folder = daemon.volumes.folder(id);
    let reply = match request {
        EcryptfsRequest::Names { fnek } => {
            folder.and_then(|folder| folder.with_keys(|keys| names(keys, fnek.map(KeySig)))?)
        }
        EcryptfsRequest::Fresh {
            recipients,
            key_len,
            count,
        } => folder.and_then(|folder| {
            folder.with_keys(|keys| {
                let recipients = recipients.into_iter().map(KeySig);
                fresh(daemon, keys, recipients, key_len, count)
            })?
        }),
        EcryptfsRequest::Fek {
            packets,
            lower_path,
            pid,
        } => {
            let dir = folder.as_ref().map(|folder| folder.dir().to_owned());
            let errand = Errand {
                volume: Some(VolumeName {
                    id,
                    dir: dir.unwrap_or_default(),
                    standing: Standing::Ecryptfs,
                }),
                lower_path: Some(String::from_utf8_lossy(&lower_path).into_owned()),
                program: Program::of_pid(pid),
            };
            return fek(daemon, folder, &packets, errand);
        }
    };
    Answered::Now(reply.map(KeyReply::Ecryptfs))
}

fn names(keys: &FolderKeys, fnek: Option<KeySig>) -> Result<EcryptfsReply, Failure> {
    let Some(sig) = fnek else {
        return Ok(EcryptfsReply::Names(None));
    };
    let fnek = keys.password(sig).ok_or_else(|| {
        Failure::NotARecipient(format!(
            "names are encrypted by key {sig}, which is not here"
        ))
    })?;
    let key = Secret::new(fnek.expose().to_vec());
    Ok(EcryptfsReply::Names(Some(key)))
}

/// By what a FEK is wrapped to one recipient.
enum Recipient {
    Password(PassphraseKey),
    Rsa(KeySig, Box<RsaKey>),
}

impl Recipient {
    fn find(daemon: &Daemon, keys: &FolderKeys, sig: KeySig) -> Result<Self, Failure> {
        if let Some(key) = keys.password(sig) {
            return Ok(Self::Password(key));
        }
        match keys.rsa(daemon, sig)? {
            Some(key) => Ok(Self::Rsa(sig, Box::new(key))),
            None => Err(Failure::NotARecipient(format!(
                "new files are wrapped to key {sig} too, which is not here"
            ))),
        }
    }

    fn wrap(&self, fek: &Fek) -> Result<Packet, Failure> {
        match self {
            Self::Password(key) => Ok(Packet::wrap(fek, key)),
            Self::Rsa(sig, key) => {
                let wrapped = key.wrap(&fek.session_key()).ok_or_else(not_encrypted)?;
                let packet = Tag1::new(*sig, &wrapped);
                packet
                    .map(Packet::PublicKey)
                    .map_err(|error| failure::of_ecryptfs(&error))
            }
        }
    }
}

/// FEKs for new files. One recipient that is missing fails them all: a file that its owner takes for
/// readable by two keys must not be readable by one.
fn fresh(
    daemon: &Daemon,
    keys: &FolderKeys,
    recipients: impl Iterator<Item = KeySig>,
    key_len: u8,
    count: u16,
) -> Result<EcryptfsReply, Failure> {
    let mut lens = KeyLen::ALL.into_iter();
    let len = lens.find(|len| len.bytes() == usize::from(key_len));
    let len = len.ok_or_else(|| Failure::Usage(format!("no AES key has {key_len} bytes")))?;
    let recipients: Result<Vec<_>, Failure> = recipients
        .map(|sig| Recipient::find(daemon, keys, sig))
        .collect();
    let recipients = recipients?;
    let one = || {
        let fek = Fek::random(len);
        let packets: Result<Vec<_>, _> = recipients.iter().map(|by| by.wrap(&fek)).collect();
        // Refuses more than a reader would parse.
        let header = Header::fresh(packets?, MetadataPlace::Header, NamesAre::Plain);
        let packets = header
            .map_err(|error| failure::of_ecryptfs(&error))?
            .packets;
        Ok(FreshFek {
            packets: packets.iter().flat_map(Packet::write).collect(),
            fek: secret(&fek),
        })
    };
    let feks: Result<_, Failure> = (0..count.min(MOST)).map(|_| one()).collect();
    Ok(EcryptfsReply::Fresh(feks?))
}

/// The FEK of an existing file: by a key of a passphrase if one is here, the last packet first, as the
/// kernel does it.
fn fek(
    daemon: &Daemon,
    folder: Result<Arc<Folder>, Failure>,
    packets: &[u8],
    errand: Errand,
) -> Answered {
    let begun = Instant::now();
    let mut used = UsedKey::default();
    let result = folder.and_then(|folder| {
        let packets = Packet::parse_all(packets).map_err(|error| failure::of_ecryptfs(&error))?;
        folder.with_keys(|keys| match by_password(keys, &packets, &mut used) {
            Some(opened) => opened.map(Ok),
            None => candidates(daemon, keys, &packets)
                .map(|candidates| Err((folder.clone(), candidates))),
        })?
    });
    let result = match result {
        Ok(Ok(fek)) => Ok(reply_of(&fek)),
        Ok(Err((folder, candidates))) => {
            return Answered::ByToken(Box::new(NeedsToken {
                folder,
                candidates,
                errand,
                begun,
            }));
        }
        Err(failure) => Err(failure),
    };
    let took = begun.elapsed();
    daemon
        .audit
        .record(Event::Unwrap, &errand, &used, &result, took);
    Answered::Now(result)
}

/// `None` if no key of a passphrase is here that the file is wrapped to.
fn by_password(
    keys: &FolderKeys,
    packets: &[Packet],
    used: &mut UsedKey,
) -> Option<Result<Fek, Failure>> {
    let mut last = None;
    for packet in packets.iter().rev() {
        let Packet::Passphrase(packet) = packet else {
            continue;
        };
        let Some(key) = keys.password(packet.key_sig) else {
            continue;
        };
        *used = used_key(packet.key_sig, "passphrase");
        match packet.unwrap(&key) {
            Ok(fek) => return Some(Ok(fek)),
            Err(error) => last = Some(Err(failure::of_ecryptfs(&error))),
        }
    }
    last
}

/// The RSA keys that are here and that the file is wrapped to.
fn candidates(
    daemon: &Daemon,
    keys: &FolderKeys,
    packets: &[Packet],
) -> Result<Vec<Candidate>, Failure> {
    let mut candidates = Vec::new();
    for packet in packets.iter().rev() {
        let Packet::PublicKey(packet) = packet else {
            continue;
        };
        if let Some(key) = keys.rsa(daemon, packet.key_sig)? {
            candidates.push(Candidate {
                sig: packet.key_sig,
                key,
                wrapped_fek: packet.wrapped_fek.clone(),
            });
        }
    }
    if candidates.is_empty() {
        let sigs: Vec<String> = packets
            .iter()
            .map(|packet| format!("key {}", packet.key_sig()))
            .collect();
        return Err(Failure::NotARecipient(format!(
            "the file opens with {}",
            sigs.join(" or ")
        )));
    }
    Ok(candidates)
}

impl NeedsToken {
    pub(super) fn for_call(self: Box<Self>, call: Call) -> TokenJob {
        let asked = Asked::new((Event::Unwrap, self.errand.clone()), self.begun, call);
        let work = Box::new(
            move |daemon: &Daemon, used: &mut UsedKey, request: &Arc<Request>| {
                self.open(daemon, used, request)
            },
        );
        TokenJob::new(asked, work)
    }

    fn open(
        &self,
        daemon: &Daemon,
        used: &mut UsedKey,
        request: &Arc<Request>,
    ) -> Result<KeyReply, Failure> {
        let opened = first_that_opens(&self.candidates, request, |candidate, login| {
            let wrapped = candidate.wrapped_fek.clone();
            daemon.unwrap_session_key(&candidate.key, wrapped, login, request)
        });
        let number = opened.as_ref().map_or(0, |(number, _)| *number);
        if let Some(tried) = self.candidates.get(number) {
            *used = used_key(tried.sig, &tried.key.module);
        }
        let (_, session_key) = opened.map_err(|error| error.or(does_not_open))?;
        let fek = Fek::from_session_key(&session_key).map_err(|_| does_not_open())?;
        // Locked while the token was at it: nothing goes out any more.
        self.folder.with_keys(|_| ())?;
        Ok(reply_of(&fek))
    }
}

fn used_key(sig: KeySig, module: &str) -> UsedKey {
    UsedKey {
        key_id: Some(sig.to_string()),
        module: Some(module.into()),
    }
}

fn reply_of(fek: &Fek) -> KeyReply {
    KeyReply::Ecryptfs(EcryptfsReply::Fek(secret(fek)))
}

fn secret(fek: &Fek) -> Secret {
    Secret::new(fek.expose().to_vec())
}
