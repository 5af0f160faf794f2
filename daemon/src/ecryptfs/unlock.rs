//! Unlocking a folder: the keys that its files need are here, or it stays locked.

use std::sync::Arc;
use std::time::Instant;

use claviger_pki::module::Provenance;
use claviger_protocol::Failure;
use claviger_protocol::control::{Needed, PasswordKey, RecipientInfo, Reply, UnlockEcryptfs};
use claviger_vault::ecryptfs::{KeptKey, KeySig, PassphraseKey, Salt, folder_id};
use zeroize::Zeroizing;

use super::auth_tok;
use super::folder::{FolderKeys, Found};
use super::keys::RsaKey;
use crate::audit::{Event, UsedKey};
use crate::daemon::{Caller, Daemon};
use crate::errand::{Standing, VolumeName};
use crate::tokens::Request;
use crate::volumes::{Folder, open_lower};

/// A folder that would be open, and what to tell of it.
struct Ready {
    keys: FolderKeys,
    by: Vec<RecipientInfo>,
    sigs: Vec<KeySig>,
}

impl Daemon {
    /// Unlocks a folder of eCryptfs, or adds keys to one that is.
    ///
    /// # Errors
    /// [`Failure::NotARecipient`] if a key is missing, or one was given that opens nothing here.
    pub fn ecryptfs_unlock(
        self: &Arc<Self>,
        order: UnlockEcryptfs,
        caller: &Caller,
    ) -> Result<Reply, Failure> {
        let begun = Instant::now();
        let (_lower, dir) = open_lower(&order.dir)?;
        let id = folder_id(&dir);
        let request = caller.request(Some(VolumeName {
            id,
            dir: dir.clone(),
            standing: Standing::Ecryptfs,
        }));
        let open = self.volumes.folder(id).ok();
        let ready = self.prepare(order, open.as_deref(), &request);
        let first = ready.as_ref().ok().and_then(|ready| ready.by.first());
        let used = first.map(|by| UsedKey {
            key_id: Some(by.key_id.clone()),
            module: Some(by.kind.clone()),
        });
        if !matches!(&ready, Ok(ready) if ready.by.is_empty()) {
            let (errand, used) = (&request.errand, used.unwrap_or_default());
            self.audit
                .record(Event::Unlock, errand, &used, &ready, begun.elapsed());
        }
        let Ready { keys, by, sigs } = ready?;
        if let Some(opened_by) = by.first() {
            // A person may have taken a minute to say a PIN, and another have opened or locked it meanwhile.
            let turn = self.volumes.change(id, &caller.wait)?;
            let now = self.volumes.folder(id).ok();
            let is_that =
                |before: &Arc<Folder>| now.as_ref().is_some_and(|now| Arc::ptr_eq(before, now));
            if !open.as_ref().is_none_or(is_that) {
                // What it held may be part of what was found to open it.
                return Err(Failure::Locked);
            }
            match now {
                Some(now) => now.change_keys(|held| held.extend(keys))?,
                None => {
                    let folder = Folder::new(id, &dir, opened_by.clone(), keys);
                    self.volumes.insert_folder(folder)?;
                }
            }
            drop(turn);
            tracing::info!(folder = %dir.display(), by = %opened_by.label, "eCryptfs folder unlocked");
            self.tell_unlocked(id);
        }
        let sigs = sigs.into_iter().map(|sig| sig.0).collect();
        Ok(Reply::EcryptfsUnlocked {
            folder: id,
            by,
            sigs,
        })
    }

    /// Finds all keys; nobody `by` whom it is opened if it is `open` with all of them.
    fn prepare(
        &self,
        order: UnlockEcryptfs,
        open: Option<&Folder>,
        request: &Arc<Request>,
    ) -> Result<Ready, Failure> {
        let mut wanted = Wanted::new(&order);
        let mut keys = FolderKeys::new(order.others);
        for key in &order.passwords {
            let key = handed_in(key)?;
            wanted.accept(key.sig())?;
            keys.take(key);
        }
        let mut proved = Vec::new();
        for key in &order.keys {
            let (key, sig) = self.name_rsa(key, request)?;
            wanted.accept(sig)?;
            self.prove(&key, request)?;
            self.own_keys.add(&key)?;
            proved.push(sig);
        }
        let Wanted { sigs, fnek, .. } = wanted;
        if sigs.is_empty() {
            let text = "neither a key nor a sig says what opens the folder";
            return Err(Failure::Usage(text.into()));
        }
        sigs.iter().chain(&fnek).for_each(|&sig| keys.name(sig));
        let find = |sig| {
            let held = || open?.with_keys(|held| held.find_password(sig)).ok()?;
            keys.find_password(sig).or_else(held)
        };
        let by = self.found(&keys, find, &sigs, order.needed, (&proved, request))?;
        if let Some(fnek) = fnek.filter(|&fnek| find(fnek).is_none()) {
            refuse_kernel_only(&[fnek])?;
            return Err(Failure::NotARecipient(match self.rsa_key(fnek) {
                Ok(_) => format!("names are encrypted by keys of passphrases, and {fnek} is RSA"),
                Err(_) => format!("names are encrypted by key {fnek}, which is not here"),
            }));
        }
        let covered = open.and_then(|open| open.with_keys(|held| held.covers(&keys)).ok());
        let nothing_new = proved.is_empty() && covered == Some(true);
        Ok(Ready {
            keys,
            by: if nothing_new { Vec::new() } else { by },
            sigs,
        })
    }

    /// The keys of the recipients that are here; if none is of a passphrase, a token has to show now that
    /// it opens something, while there is somebody to enter its PIN.
    fn found(
        &self,
        keys: &FolderKeys,
        find: impl Fn(KeySig) -> Option<(PassphraseKey, Found)>,
        sigs: &[KeySig],
        needed: Needed,
        (proved, request): (&[KeySig], &Arc<Request>),
    ) -> Result<Vec<RecipientInfo>, Failure> {
        let mut by = Vec::new();
        let mut rsa = Vec::new();
        let mut missing = Vec::new();
        for &sig in sigs {
            if let Some((_, found)) = find(sig) {
                by.push(of_password(sig, found));
            } else if let Some(key) = keys.rsa(self, sig)? {
                rsa.push((sig, key));
            } else {
                missing.push(sig);
            }
        }
        if by.is_empty() && rsa.is_empty() || needed == Needed::All && !missing.is_empty() {
            refuse_kernel_only(&missing)?;
            return Err(Failure::NotARecipient(format!(
                "the folder's files are wrapped to {}, and {} is not here",
                listed(sigs),
                listed(&missing)
            )));
        }
        if by.is_empty() && proved.is_empty() {
            let mut failed = Ok(());
            for (_, key) in &rsa {
                failed = self.prove(&key.enrolled, request);
                if failed.is_ok() {
                    break;
                }
            }
            failed?;
        }
        by.extend(rsa.iter().map(|(sig, key)| of_rsa(*sig, key)));
        Ok(by)
    }
}

/// Says so if all that are missing are here, and of no use: they would be asked for in vain.
fn refuse_kernel_only(missing: &[KeySig]) -> Result<(), Failure> {
    let is_here = |&sig: &KeySig| auth_tok::is_for_the_kernel_only(sig);
    match missing.first().filter(|_| missing.iter().all(is_here)) {
        None => Ok(()),
        Some(sig) => Err(Failure::Unsupported(format!(
            "key {sig} is in the user keyring with the type 'encrypted', which the kernel alone decrypts: \
             mount the folder with the kernel's eCryptfs, and 'claviger ecryptfs migrate' what is shown there"
        ))),
    }
}

/// Whose keys are wanted.
struct Wanted {
    /// Recipients of files.
    sigs: Vec<KeySig>,
    fnek: Option<KeySig>,
    said: Said,
}

/// How it is known who the recipients are.
enum Said {
    /// They were named.
    Beforehand,
    /// Whoever's key is given is one.
    ByTheKeys,
}

impl Wanted {
    fn new(order: &UnlockEcryptfs) -> Self {
        Self {
            sigs: order.sigs.iter().copied().map(KeySig).collect(),
            fnek: order.fnek.map(KeySig),
            said: match order.sigs.is_empty() {
                true => Said::ByTheKeys,
                false => Said::Beforehand,
            },
        }
    }

    /// Takes a key that was given, or refuses one that is of no use.
    fn accept(&mut self, sig: KeySig) -> Result<(), Failure> {
        if self.sigs.contains(&sig) || self.fnek == Some(sig) {
            return Ok(());
        }
        match self.said {
            Said::Beforehand => Err(opens_nothing(sig, &self.sigs)),
            Said::ByTheKeys => {
                self.sigs.push(sig);
                Ok(())
            }
        }
    }
}

/// What a passphrase was hashed to, into locked memory.
fn handed_in(key: &PasswordKey) -> Result<KeptKey, Failure> {
    let bytes = key.key.to_array().map(Zeroizing::new);
    let mut bytes =
        bytes.ok_or_else(|| Failure::Usage("a key from a passphrase has 64 bytes".into()))?;
    let key = PassphraseKey::handed_on(&mut bytes, Salt(key.salt));
    KeptKey::new(key).map_err(|error| Failure::Internal(error.to_string()))
}

fn of_password(sig: KeySig, found: Found) -> RecipientInfo {
    let kind = match found {
        Found::HandedIn => "passphrase",
        Found::InKeyring => "keyring",
    };
    RecipientInfo {
        key_id: sig.to_string(),
        kind: kind.into(),
        label: format!("key {sig}"),
        key_type: "ecryptfs".into(),
    }
}

fn of_rsa(sig: KeySig, key: &RsaKey) -> RecipientInfo {
    let kind = match key.enrolled.provenance {
        Provenance::Software => "file",
        Provenance::InToken | Provenance::Imported | Provenance::Extractable => "token",
    };
    RecipientInfo {
        key_id: sig.to_string(),
        kind: kind.into(),
        label: key.enrolled.label.clone(),
        key_type: key.enrolled.public_key.key_type().to_string(),
    }
}

fn opens_nothing(sig: KeySig, sigs: &[KeySig]) -> Failure {
    Failure::NotARecipient(format!(
        "what was given is key {sig}, and the folder's files are wrapped to {}",
        listed(sigs)
    ))
}

/// Sigs, for people.
fn listed(sigs: &[KeySig]) -> String {
    let sigs: Vec<String> = sigs.iter().map(|sig| format!("key {sig}")).collect();
    sigs.join(" and ")
}
