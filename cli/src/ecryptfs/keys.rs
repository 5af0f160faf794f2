//! What was given to open an eCryptfs folder.

use std::fs;
use std::path::Path;

use claviger_protocol::control::{Prompt, PromptKind};
use claviger_protocol::failure::ExitCode;
use claviger_vault::ecryptfs::{
    EcryptfsError, Fek, KeySig, Packet, PassphraseKey, Salt, WrappedPassphrase,
};
use zeroize::Zeroizing;

use super::failed;
use super::rsa::RsaKey;
use crate::args::GivenKeys;
use crate::prompter::Prompter;
use crate::{Failed, secret_file};

/// The keys of an eCryptfs folder.
pub(crate) struct Keys {
    /// From the mount passphrase.
    content: Option<PassphraseKey>,
    /// From all that may encrypt names.
    names: Vec<PassphraseKey>,
    rsa: Option<RsaKey>,
}

impl Keys {
    /// Reads what the options name, and asks for the rest. A key that is in no PEM file opens `dir` for the
    /// daemon.
    ///
    /// # Errors
    /// [`Failed`].
    pub(crate) fn gather(
        given: &GivenKeys,
        dir: &Path,
        mut prompter: Prompter,
    ) -> Result<Self, Failed> {
        let passwords = Passwords::gather(given, dir, &mut prompter)?;
        let rsa = match &given.key {
            Some(key) => Some(RsaKey::open(key, dir, prompter)?),
            None => None,
        };
        Ok(Self {
            content: passwords.content,
            names: passwords.names,
            rsa,
        })
    }

    /// The FEK in `packet`; `None` if its key is none of these.
    pub(super) fn unwrap(&self, packet: &Packet, path: &Path) -> Option<Result<Fek, Failed>> {
        match packet {
            Packet::Passphrase(packet) => {
                let key = self.content.as_ref()?;
                let fek = (key.sig() == packet.key_sig).then(|| packet.unwrap(key))?;
                Some(fek.map_err(|error| failed(path, &error)))
            }
            Packet::PublicKey(packet) => {
                let key = self.rsa.as_ref()?;
                (key.sig() == packet.key_sig).then(|| key.unwrap(packet, path))
            }
        }
    }

    /// Keys that may encrypt names.
    pub(super) fn names(&self) -> &[PassphraseKey] {
        &self.names
    }

    /// The one that encrypts a name, by its sig.
    pub(super) fn name(&self, sig: KeySig) -> Result<&PassphraseKey, EcryptfsError> {
        let mut names = self.names.iter();
        let found = names.find(|key| key.sig() == sig);
        found.ok_or_else(|| EcryptfsError::NoKey(vec![sig]))
    }
}

/// What passphrases gave.
pub(super) struct Passwords {
    /// From the mount passphrase.
    pub(super) content: Option<PassphraseKey>,
    /// From all that may encrypt names.
    pub(super) names: Vec<PassphraseKey>,
}

impl Passwords {
    /// Reads those that the options name; asks for the mount passphrase unless a key is given instead.
    pub(super) fn gather(
        given: &GivenKeys,
        dir: &Path,
        prompter: &mut Prompter,
    ) -> Result<Self, Failed> {
        let salt = given.salt.unwrap_or(Salt::DEFAULT);
        let passphrase = mount_passphrase(given, dir, salt, prompter)?;
        let derive = |passphrase: &[u8], salt| {
            PassphraseKey::derive(passphrase, salt).map_err(|error| failed(dir, &error))
        };
        let content = match &passphrase {
            Some(passphrase) => Some(derive(passphrase, salt)?),
            None => None,
        };
        let of_names = match &given.fnek_passphrase_file {
            Some(path) => Some(Zeroizing::new(secret_file::read(path)?.expose().to_vec())),
            None => passphrase,
        };
        // `ecryptfs-add-passphrase --fnek`, as in an encrypted home, has a salt for names; mount(8) by
        // default takes the key of the content for names too.
        let names = match &of_names {
            Some(passphrase) => vec![derive(passphrase, Salt::NAMES)?, derive(passphrase, salt)?],
            None => Vec::new(),
        };
        Ok(Self { content, names })
    }
}

/// The mount passphrase, or none if a key was given and no passphrase.
fn mount_passphrase(
    given: &GivenKeys,
    dir: &Path,
    salt: Salt,
    prompter: &mut Prompter,
) -> Result<Option<Zeroizing<Vec<u8>>>, Failed> {
    let wanted = match &given.wrapped_passphrase {
        Some(path) => format!("Login passphrase that opens {}", path.display()),
        None => format!("Mount passphrase of {}", dir.display()),
    };
    let passphrase = match (&given.passphrase_file, &given.wrapped_passphrase) {
        (Some(path), _) => secret_file::read(path)?,
        (None, None) if given.key.is_some() => return Ok(None),
        (None, _) => ask(prompter, wanted)?,
    };
    let Some(path) = &given.wrapped_passphrase else {
        return Ok(Some(Zeroizing::new(passphrase.expose().to_vec())));
    };
    let bytes = fs::read(path).map_err(|error| Failed::file(path, &error))?;
    let unwrapped = WrappedPassphrase::parse(&bytes)
        .and_then(|wrapped| wrapped.unwrap(passphrase.expose(), salt));
    unwrapped.map(Some).map_err(|error| failed(path, &error))
}

/// Asks for a passphrase.
pub(super) fn ask(
    prompter: &mut Prompter,
    text: String,
) -> Result<claviger_protocol::Secret, Failed> {
    let prompt = Prompt {
        kind: PromptKind::Passphrase,
        text,
    };
    let answer = prompter.ask(&prompt);
    answer.ok_or_else(|| Failed::new(ExitCode::Declined, "no passphrase was given"))
}
