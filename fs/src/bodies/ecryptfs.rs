//! Folders of eCryptfs: the key of names, FEKs, and packets of new files.

use std::sync::Arc;

use claviger_callout::BODY_MAX;
use claviger_protocol::keys::{EcryptfsReply, EcryptfsRequest, FreshFek, KeyReply, KeyRequest};
use claviger_protocol::{Failure, Secret};
use claviger_vault::ecryptfs::{
    EcryptfsKeys, EcryptfsTree, Fek, KeySig, MountOptions, NamesAre, NewEcryptfs, Packet,
    PassphraseKey, Salt,
};
use claviger_vault::format::{FileKeys, NewFile, Tree};
use claviger_vault::ids::VolumeId;
use zeroize::Zeroizing;

use super::{Bodies, unexpected};
use crate::keys::Unwrap;
use crate::pool;

/// What a mount of an eCryptfs folder asks.
#[derive(Clone, Debug)]
pub struct EcryptfsBodies {
    folder: VolumeId,
    options: MountOptions,
}

impl EcryptfsBodies {
    /// Of the folder called `folder`, mounted by `options`.
    pub fn new(folder: VolumeId, options: MountOptions) -> Self {
        Self { folder, options }
    }

    fn ask(&self, request: EcryptfsRequest) -> KeyRequest {
        let folder = self.folder;
        KeyRequest::Ecryptfs { folder, request }
    }
}

impl Bodies for EcryptfsBodies {
    fn ask_tree(&self) -> KeyRequest {
        let fnek = self.options.fnek.map(|sig| sig.0);
        self.ask(EcryptfsRequest::Names { fnek })
    }

    /// A key of names counts only if it is the one that the mount options name: its sig is its hash.
    fn tree(&self, reply: KeyReply) -> Result<Arc<dyn Tree>, Failure> {
        let KeyReply::Ecryptfs(EcryptfsReply::Names(key)) = reply else {
            return Err(unexpected());
        };
        let fnek = key.as_ref().map(fnek).transpose()?;
        let tree = EcryptfsTree::new(self.options.clone(), fnek).map_err(|_| unexpected())?;
        Ok(Arc::new(tree))
    }

    fn ask_file(&self, unwrap: &Unwrap) -> KeyRequest {
        self.ask(EcryptfsRequest::Fek {
            packets: unwrap.head.clone(),
            lower_path: unwrap.lower_path.clone(),
            pid: unwrap.pid,
        })
    }

    fn file(&self, _head: Vec<u8>, reply: KeyReply) -> Result<Box<dyn FileKeys>, Failure> {
        let KeyReply::Ecryptfs(EcryptfsReply::Fek(fek)) = reply else {
            return Err(unexpected());
        };
        Ok(Box::new(EcryptfsKeys(fek_of(&fek)?)))
    }

    fn ask_new_files(&self, count: u16) -> KeyRequest {
        self.ask(EcryptfsRequest::Fresh {
            recipients: self.options.sigs.iter().map(|sig| sig.0).collect(),
            key_len: self.options.key_len.bytes() as u8,
            count,
        })
    }

    fn new_files(&self, reply: KeyReply) -> Result<Vec<Box<dyn NewFile>>, Failure> {
        let KeyReply::Ecryptfs(EcryptfsReply::Fresh(files)) = reply else {
            return Err(unexpected());
        };
        let new = |file: &FreshFek| Ok(Box::new(self.new_file(file)?) as _);
        files.iter().map(new).collect()
    }

    fn new_files_at_most(&self) -> u16 {
        // The FEK and the lengths, and for each recipient a packet of at most 512 bytes and its head.
        let file = 64 + self.options.sigs.len() * (512 + 16);
        u16::try_from(BODY_MAX / file).unwrap_or(pool::FULL)
    }
}

impl EcryptfsBodies {
    /// Refuses one that the mount options' recipients could not all open.
    fn new_file(&self, file: &FreshFek) -> Result<NewEcryptfs, Failure> {
        let fek = fek_of(&file.fek)?;
        let packets = Packet::parse_all(&file.packets).map_err(|_| unexpected())?;
        let recipients: Vec<KeySig> = packets.iter().map(Packet::key_sig).collect();
        if fek.key_len() != self.options.key_len || recipients != self.options.sigs {
            return Err(unexpected());
        }
        Ok(NewEcryptfs {
            fek,
            packets,
            place: self.options.place,
            names: match self.options.fnek {
                Some(_) => NamesAre::Encrypted,
                None => NamesAre::Plain,
            },
        })
    }
}

fn fek_of(secret: &Secret) -> Result<Fek, Failure> {
    Fek::of_bytes(secret.expose()).ok_or_else(unexpected)
}

fn fnek(secret: &Secret) -> Result<PassphraseKey, Failure> {
    let mut bytes: Zeroizing<[u8; 64]> = Zeroizing::new(secret.to_array().ok_or_else(unexpected)?);
    Ok(PassphraseKey::handed_on(&mut bytes, Salt::NAMES))
}

#[cfg(test)]
mod tests {
    use claviger_vault::ecryptfs::KeyLen;

    use super::super::tests::is_internal;
    use super::*;

    fn key(passphrase: &str) -> PassphraseKey {
        PassphraseKey::derive(passphrase.as_bytes(), Salt::DEFAULT).unwrap()
    }

    fn secret(bytes: &[u8]) -> Secret {
        Secret::new(bytes.to_vec())
    }

    fn bodies(sigs: Vec<KeySig>, fnek: Option<KeySig>) -> EcryptfsBodies {
        let options = MountOptions {
            sigs,
            fnek,
            ..MountOptions::default()
        };
        EcryptfsBodies::new(VolumeId::random(), options)
    }

    #[test]
    fn no_key_of_names_counts_but_the_one_that_the_mount_options_name() {
        let (named, other) = (key("golden passphrase one"), key("another"));
        let reply = |key: Option<&PassphraseKey>| {
            let key = key.map(|key| secret(key.expose()));
            KeyReply::Ecryptfs(EcryptfsReply::Names(key))
        };
        let encrypted = bodies(Vec::new(), Some(named.sig()));
        assert!(encrypted.tree(reply(Some(&named))).is_ok());
        assert!(is_internal(encrypted.tree(reply(Some(&other)))));
        assert!(is_internal(encrypted.tree(reply(None))));
        let plain = bodies(Vec::new(), None);
        assert!(plain.tree(reply(None)).is_ok());
        assert!(is_internal(plain.tree(reply(Some(&named)))));
    }

    #[test]
    fn a_new_file_that_another_than_the_recipients_opens_is_refused() {
        let (ours, theirs) = (key("golden passphrase one"), key("another"));
        let reply = |keys: &[&PassphraseKey], len| {
            let fek = Fek::random(len);
            let packets = keys.iter().flat_map(|key| Packet::wrap(&fek, key).write());
            KeyReply::Ecryptfs(EcryptfsReply::Fresh(vec![FreshFek {
                packets: packets.collect(),
                fek: secret(fek.expose()),
            }]))
        };
        let bodies = bodies(vec![ours.sig()], None);
        let new = |keys: &[&PassphraseKey], len| bodies.new_files(reply(keys, len));
        assert_eq!(new(&[&ours], KeyLen::Aes128).unwrap().len(), 1);
        assert!(is_internal(new(&[&theirs], KeyLen::Aes128)));
        assert!(is_internal(new(&[&ours, &theirs], KeyLen::Aes128)));
        assert!(is_internal(new(&[], KeyLen::Aes128)));
        assert!(is_internal(new(&[&ours], KeyLen::Aes256)));
    }

    #[test]
    fn a_fek_of_no_possible_length_and_a_reply_to_another_request_are_refused() {
        let bodies = bodies(Vec::new(), None);
        let fek = |len| KeyReply::Ecryptfs(EcryptfsReply::Fek(secret(&vec![7; len])));
        assert!(bodies.file(Vec::new(), fek(32)).is_ok());
        assert!(is_internal(bodies.file(Vec::new(), fek(31))));
        assert!(is_internal(bodies.file(Vec::new(), KeyReply::Done)));
        assert!(is_internal(bodies.tree(fek(16))));
        assert!(is_internal(bodies.new_files(KeyReply::Done)));
    }
}
