//! What shall open a new volume, where the command line does not say.

use std::io::{self, IsTerminal};
use std::path::Path;

use claviger_protocol::control::{
    Command, GenerateKey, KeyInfo, KeyRef, PromptKind, Reply, TokenInfo,
};
use claviger_protocol::{Failure, Secret};

use super::{key, unexpected};
use crate::args::Module;
use crate::print::{errln, outln};
use crate::prompter::Prompter;
use crate::{Failed, daemon, place, terminal};

/// What the person chose.
pub(super) enum Choice {
    Keys(Vec<KeyRef>),
    Passphrase(Secret),
}

/// Offers the enrolled keys, then the tokens present, then the weaker ways.
pub(super) fn choose(dir: &Path, prompter: &mut Prompter) -> Result<Choice, Failed> {
    let nobody = || {
        Failed::usage("no key is named, and there is no terminal to ask on")
            .advise("Name one with --recipient or --passphrase-file")
    };
    if prompter.has_a_person() && !terminal::is_there() {
        return Err(nobody());
    }
    let enrolled = enrolled_keys(prompter)?;
    if !enrolled.is_empty() {
        return Ok(Choice::Keys(enrolled));
    }
    let reply = daemon::run(Command::TokenList, prompter)?;
    let Reply::Tokens(tokens) = reply else {
        return Err(unexpected());
    };
    for token in &tokens {
        if let Some(key) = key_of_token(token, dir, prompter)? {
            return Ok(Choice::Keys(vec![KeyRef::Id(key.key_id)]));
        }
    }
    if !prompter.has_a_person() || !io::stdin().is_terminal() {
        return Err(nobody());
    }
    errln!(
        "Without a token, a key in a file or a passphrase can open the volume. Both are weaker:"
    );
    errln!("whoever copies the key file, or with a passphrase the folder, can try passphrases for");
    errln!("as long as they like.");
    if prompter.agrees("Make a key in a file, with a passphrase?".into()) {
        let passphrase = prompter.ask_new(PromptKind::Passphrase, "passphrase")?;
        let key = make(
            Module::Openssl.name(),
            None,
            Some(passphrase),
            dir,
            prompter,
        )?;
        outln!(
            "Key '{}' is in {}: keep a copy of it.",
            key.label,
            key.locator
        );
        return Ok(Choice::Keys(vec![KeyRef::Id(key.key_id)]));
    }
    prompter
        .ask_new(PromptKind::Passphrase, "passphrase")
        .map(Choice::Passphrase)
}

/// Those of the enrolled keys that the person wants.
fn enrolled_keys(prompter: &mut Prompter) -> Result<Vec<KeyRef>, Failed> {
    let reply = daemon::run(Command::KeyList, prompter)?;
    let Reply::Keys(keys) = reply else {
        return Err(unexpected());
    };
    if let ([key], false) = (keys.as_slice(), prompter.has_a_person()) {
        // No line of --pin-fd is a yes; but who gives PINs there has this one key, and no other.
        return Ok(vec![KeyRef::Id(key.key_id.clone())]);
    }
    let mut chosen = Vec::new();
    for key in &keys {
        let text = format!(
            "Let key '{}' ({}, {}) open the volume?",
            key.label, key.module, key.key_type
        );
        if prompter.agrees(text) {
            chosen.push(KeyRef::Id(key.key_id.clone()));
        }
    }
    Ok(chosen)
}

/// A key of this token, enrolled: one that is there, or else a new one. `None` if the person wants neither.
fn key_of_token(
    token: &TokenInfo,
    dir: &Path,
    prompter: &mut Prompter,
) -> Result<Option<KeyInfo>, Failed> {
    let name = format!("'{}' ({})", token.label, token.model);
    // Keys of a TPM are in files: one that is not enrolled is not to be found here.
    if token.module == Module::Tpm.name() {
        if !prompter.agrees(format!("Make a key in the TPM {name}?")) {
            return Ok(None);
        }
        let pin =
            match prompter.agrees("With a PIN, so that this machine alone does not do?".into()) {
                true => Some(prompter.ask_new(PromptKind::Pin, "PIN")?),
                false => None,
            };
        return make(Module::Tpm.name(), None, pin, dir, prompter).map(Some);
    }
    if !prompter.agrees(format!("Use a key in the token {name}?")) {
        return Ok(None);
    }
    let there = Command::KeyAdd {
        key: KeyRef::Uri(reference(token)),
        label: None,
    };
    match daemon::ask(there, prompter)? {
        Ok(Reply::Key(key)) => return Ok(Some(key)),
        Ok(_) => return Err(unexpected()),
        Err(Failure::NotFound(_)) => {}
        Err(failure) => return Err(failure.into()),
    }
    if !prompter.agrees("It holds no key that can be used. Make one?".into()) {
        return Ok(None);
    }
    let uri = Some(token.uri.clone());
    make(&token.module, uri, None, dir, prompter).map(Some)
}

/// The keys of this token, as `key add` takes them.
fn reference(token: &TokenInfo) -> String {
    let TokenInfo { module, uri, .. } = token;
    if module == Module::Pkcs11.name() {
        return uri.clone();
    }
    format!("{module}:{uri}")
}

/// A new key for the volume in `dir`, by whose name it goes.
fn make(
    module: &str,
    token: Option<String>,
    pin: Option<Secret>,
    dir: &Path,
    prompter: &mut Prompter,
) -> Result<KeyInfo, Failed> {
    let dir = place::absolute(dir)?;
    let label = dir.file_name().map(|name| name.to_string_lossy().into());
    let order = GenerateKey {
        module: module.into(),
        key_type: None,
        token,
        label,
        out: None,
        pin,
    };
    key::order(Command::KeyGenerate(order), prompter)
}
