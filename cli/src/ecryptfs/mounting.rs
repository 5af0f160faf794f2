//! From what a user gave, and what the folder says, to what daemon and filesystem are told.

use std::path::{Path, PathBuf};

use claviger_protocol::Secret;
use claviger_protocol::control::{
    Command, Needed, PasswordKey, RecipientInfo, Reply, UnlockEcryptfs,
};
use claviger_protocol::failure::ExitCode;
use claviger_vault::ecryptfs::{
    CipherCode, KeyLen, KeySig, MetadataPlace, MountOptions, PassphraseKey,
};

use super::keys::Passwords;
use super::options::{self, Access, NamesOption, Options};
use super::survey::{Names, Survey};
use crate::args::GivenKeys;
use crate::command::unexpected;
use crate::prompter::Prompter;
use crate::{Failed, daemon, key_ref};

/// A folder of eCryptfs that is to be unlocked, and perhaps mounted.
pub(crate) struct Mounting {
    dir: PathBuf,
    options: Options,
    /// Whom new files are wrapped to; empty if neither options nor files say it.
    sigs: Vec<KeySig>,
    key_len: KeyLen,
    names: NamesPlan,
    place: MetadataPlace,
    openers: Openers,
}

/// How names are going to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NamesPlan {
    Plain,
    Encrypted(KeySig, KeyLen),
    /// Nobody has said it yet, and the folder is empty.
    Undecided,
}

/// What opens the folder, as far as it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Openers {
    Any,
    RsaOnly,
}

/// What a folder is unlocked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// To be mounted now.
    Mount,
    /// For a mount that is there, or will be.
    Unlock,
}

impl Mounting {
    /// Completes `options` by what the folder in `dir` says.
    ///
    /// # Errors
    /// [`Failed`] for a cipher other than AES, and for a folder that is not the caller's if that counts.
    pub(crate) fn plan(dir: &Path, options: Options) -> Result<Self, Failed> {
        options::check_owner(options.owner, dir)?;
        let survey = Survey::of(dir);
        let key_len = match (options.key_len, survey.cipher) {
            (Some(len), _) => len,
            (None, Some(cipher)) => of_cipher(cipher)?,
            // The FEKs of RSA keys tell their length to their owner only. Every mount reads the longest.
            (None, None) if survey.place.is_some() => KeyLen::Aes256,
            // As ecryptfs-utils' mount program has it.
            (None, None) => KeyLen::Aes128,
        };
        let names = match (options.names, survey.names) {
            (NamesOption::Plain, _) | (NamesOption::NotSaid, Names::Plain) => NamesPlan::Plain,
            (NamesOption::Encrypted(sig), names) => {
                NamesPlan::Encrypted(sig, names_key_len(&options, names, key_len)?)
            }
            (NamesOption::NotSaid, names @ Names::Encrypted { key_sig, .. }) => {
                NamesPlan::Encrypted(key_sig, names_key_len(&options, names, key_len)?)
            }
            (NamesOption::NotSaid, Names::Unknown) => NamesPlan::Undecided,
        };
        let openers = match survey.cipher {
            None if options.sigs.is_empty() && survey.place.is_some() => Openers::RsaOnly,
            _ => Openers::Any,
        };
        let sigs = match options.sigs.is_empty() {
            true => survey.sigs,
            false => options.sigs.clone(),
        };
        Ok(Self {
            dir: dir.to_owned(),
            place: options
                .place
                .or(survey.place)
                .unwrap_or(MetadataPlace::Header),
            sigs,
            key_len,
            names,
            openers,
            options,
        })
    }

    /// Whether nothing is decrypted, names neither, so that no key is needed.
    pub(crate) fn shows_lower_files(&self) -> bool {
        self.options.shows_lower_files()
    }

    /// Has the daemon unlock it: by what is given, else by the keyring as the kernel would, else by a
    /// passphrase that is asked for. Who opened it; nobody if it was open.
    ///
    /// # Errors
    /// [`Failed`].
    pub(crate) fn unlock(
        &mut self,
        given: &GivenKeys,
        purpose: Purpose,
        prompter: &mut Prompter,
    ) -> Result<Vec<RecipientInfo>, Failed> {
        let mut not_in_keyring = None;
        if !given.are_given() && !self.sigs.is_empty() {
            match self.order(Vec::new(), given, purpose, prompter) {
                Err(failed)
                    if failed.code() == ExitCode::NotARecipient && self.openers == Openers::Any =>
                {
                    not_in_keyring = Some(failed);
                }
                ordered => return ordered,
            }
        }
        let gathered = Passwords::gather(given, &self.dir, prompter);
        let passwords = match (gathered, not_in_keyring) {
            (Err(nobody), Some(failed)) if nobody.code() == ExitCode::Declined => {
                return Err(failed);
            }
            (gathered, _) => gathered?,
        };
        let passwords = self.choose(passwords, given, purpose)?;
        self.order(passwords, given, purpose, prompter)
    }

    fn order(
        &mut self,
        passwords: Vec<PasswordKey>,
        given: &GivenKeys,
        purpose: Purpose,
        prompter: &mut Prompter,
    ) -> Result<Vec<RecipientInfo>, Failed> {
        let keys = given.key.as_deref().map(key_ref::parse).transpose()?;
        let fnek = match self.names {
            NamesPlan::Encrypted(sig, _) => Some(sig.0),
            NamesPlan::Plain | NamesPlan::Undecided => None,
        };
        let needed = match (purpose, self.options.access) {
            (Purpose::Mount, Access::ReadWrite) => Needed::All,
            (Purpose::Mount, Access::ReadOnly) | (Purpose::Unlock, _) => Needed::One,
        };
        let order = UnlockEcryptfs {
            dir: self.dir.clone(),
            passwords,
            keys: keys.into_iter().collect(),
            sigs: self.sigs.iter().map(|sig| sig.0).collect(),
            fnek,
            needed,
            others: self.options.others,
        };
        let reply = daemon::run(Command::EcryptfsUnlock(order), prompter);
        let reply = reply.map_err(|failed| match failed.code() {
            ExitCode::NotARecipient => failed.advise(
                "Give each key by '--passphrase-file', '--wrapped-passphrase' or '--key'; '-o ecryptfs_sig=' names whom new files are for",
            ),
            _ => failed,
        })?;
        let Reply::EcryptfsUnlocked { by, sigs, .. } = reply else {
            return Err(unexpected());
        };
        self.sigs = sigs.into_iter().map(KeySig).collect();
        Ok(by)
    }

    /// Those keys that the folder has use for. A passphrase that is of none is a wrong one, and that is
    /// better said now than at each file.
    fn choose(
        &mut self,
        passwords: Passwords,
        given: &GivenKeys,
        purpose: Purpose,
    ) -> Result<Vec<PasswordKey>, Failed> {
        let Passwords { content, names } = passwords;
        if self.names == NamesPlan::Undecided
            && let Some(first) = names.first()
        {
            let of_a_home =
                given.wrapped_passphrase.is_some() || given.fnek_passphrase_file.is_some();
            self.names = match of_a_home || purpose == Purpose::Unlock {
                true => NamesPlan::Encrypted(first.sig(), self.key_len),
                false => NamesPlan::Plain,
            };
        }
        let fnek = match self.names {
            NamesPlan::Encrypted(sig, _) => names.iter().find(|key| key.sig() == sig),
            NamesPlan::Plain | NamesPlan::Undecided => None,
        };
        let of_content =
            |key: &&PassphraseKey| self.sigs.is_empty() || self.sigs.contains(&key.sig());
        let used = content.as_ref().filter(of_content);
        if let Some(content) = &content
            && used.is_none()
            && (fnek.is_none() || given.fnek_passphrase_file.is_some())
        {
            return Err(self.wrong("files are wrapped to", &self.sigs, content.sig()));
        }
        if given.fnek_passphrase_file.is_some()
            && fnek.is_none()
            && let (NamesPlan::Encrypted(sig, _), Some(first)) = (self.names, names.first())
        {
            return Err(self.wrong("names are encrypted by", &[sig], first.sig()));
        }
        let mut chosen: Vec<PasswordKey> = used.map(handed_on).into_iter().collect();
        let both = used
            .zip(fnek)
            .is_some_and(|(content, fnek)| content.sig() == fnek.sig());
        chosen.extend(fnek.filter(|_| !both).map(handed_on));
        Ok(chosen)
    }

    fn wrong(&self, what: &str, sigs: &[KeySig], given: KeySig) -> Failed {
        let sigs: Vec<String> = sigs.iter().map(|sig| format!("key {sig}")).collect();
        let what = format!(
            "{}: {what} {}, and the passphrase gives key {given}",
            self.dir.display(),
            sigs.join(" and ")
        );
        Failed::new(ExitCode::NotARecipient, what)
            .advise("Give another passphrase; of an encrypted home --wrapped-passphrase; with another salt --salt")
    }

    /// What the filesystem is told, once it is known whom new files are wrapped to.
    pub(crate) fn filesystem_options(&self) -> Option<Vec<String>> {
        if self.sigs.is_empty() && !self.shows_lower_files() {
            return None;
        }
        let (fnek, fnek_len) = match self.names {
            NamesPlan::Encrypted(sig, len) => (Some(sig), Some(len)),
            NamesPlan::Plain | NamesPlan::Undecided => (None, None),
        };
        let options = MountOptions {
            sigs: self.sigs.clone(),
            key_len: self.key_len,
            fnek,
            fnek_len,
            place: self.place,
            view: self.options.view,
            plain_files: self.options.plain_files,
            owner: self.options.owner,
        };
        let mut told = vec!["format=ecryptfs".to_owned(), options.to_string()];
        told.extend(self.options.rest.iter().cloned());
        Some(told)
    }
}

/// Says so where a folder that was taken for a volume is one of eCryptfs. It is never taken for that by
/// itself: whoever holds a lower folder could make it one, and have its owner trust what it shows.
pub(crate) fn advise_format(failed: Failed, dir: &Path) -> Failed {
    if failed.code() == ExitCode::NotFound && Survey::of(dir).place.is_some() {
        return failed.advise("It is a folder of eCryptfs: add '--format ecryptfs'");
    }
    failed
}

/// How long the key of names is: as the options say, the names, or else as that of the content.
fn names_key_len(options: &Options, names: Names, content: KeyLen) -> Result<KeyLen, Failed> {
    match (options.names_key_len, names) {
        (Some(len), _) => Ok(len),
        (
            None,
            Names::Encrypted {
                cipher: Some(cipher),
                ..
            },
        ) => of_cipher(cipher),
        (None, _) => Ok(content),
    }
}

fn of_cipher(cipher: CipherCode) -> Result<KeyLen, Failed> {
    KeyLen::from_code(cipher).map_err(|_| options::cipher(&cipher.to_string()))
}

fn handed_on(key: &PassphraseKey) -> PasswordKey {
    PasswordKey {
        salt: key.salt().0,
        key: Secret::new(key.expose().to_vec()),
    }
}

#[cfg(test)]
mod tests;
