//! `claviger init`.

use std::fs::OpenOptions;
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use claviger_protocol::Secret;
use claviger_protocol::control::{Command, GenerateKey, KeyRef, PromptKind, Recovery, Reply};
use claviger_protocol::failure::ExitCode;
use claviger_vault::ids;

use super::{key, unexpected};
use crate::args::{Init, Module, Scope};
use crate::print::{errln, outln};
use crate::prompter::Prompter;
use crate::{Failed, daemon, key_ref, place, print, secret_file};

pub(super) fn run(init: Init, prompter: &mut Prompter) -> Result<ExitCode, Failed> {
    let mut recipients = init
        .recipients
        .iter()
        .map(|key| key_ref::parse(key))
        .collect::<Result<Vec<_>, _>>()?;
    let mut passphrase = init
        .passphrase_file
        .as_deref()
        .map(secret_file::read)
        .transpose()?;
    if recipients.is_empty() && passphrase.is_none() {
        match choose(&init.dir, prompter)? {
            Choice::Keys(keys) => recipients = keys,
            Choice::Passphrase(chosen) => passphrase = Some(chosen),
        }
    }
    let recovery = if init.no_recovery {
        Recovery::None
    } else {
        Recovery::Make
    };
    // Before the volume is made: a recovery key that cannot be written down must not exist.
    let mut recovery_file = init
        .recovery_file
        .as_deref()
        .map(create_secret_file)
        .transpose()?;
    let dir = place::absolute(&init.dir)?;
    let scope = match init.scope {
        Scope::Volume => ids::Scope::Volume,
        Scope::File => ids::Scope::File,
    };
    let command = Command::Init {
        dir: dir.clone(),
        scope,
        recipients,
        passphrase,
        recovery,
    };
    let outcome = daemon::run(command, prompter);
    if let (Err(_), Some(path)) = (&outcome, &init.recovery_file) {
        // It is empty and ours; the error that counts is the one to report.
        let _ = std::fs::remove_file(path);
    }
    let reply = outcome?;
    let Reply::Initialised {
        volume,
        recovery,
        recipients,
    } = reply
    else {
        return Err(unexpected());
    };
    outln!("Volume {volume} in {}", dir.display());
    outln!("It opens with any one of:");
    print::recipients(&recipients);
    if let Some(key) = recovery {
        match (&mut recovery_file, init.recovery_file) {
            (Some(file), Some(path)) => write_recovery(file, &path, &key)?,
            _ => show_recovery(&key)?,
        }
    }
    if recipients.len() < 2 {
        errln!("Only one key opens this volume: if it is lost, so is every file in it.");
    }
    Ok(ExitCode::Ok)
}

enum Choice {
    Keys(Vec<KeyRef>),
    Passphrase(Secret),
}

/// Offers the enrolled keys, then the tokens present, then the weaker ways.
fn choose(dir: &Path, prompter: &mut Prompter) -> Result<Choice, Failed> {
    let reply = daemon::run(Command::KeyList, prompter)?;
    let Reply::Keys(keys) = reply else {
        return Err(unexpected());
    };
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
    if !chosen.is_empty() {
        return Ok(Choice::Keys(chosen));
    }
    let reply = daemon::run(Command::TokenList, prompter)?;
    let Reply::Tokens(tokens) = reply else {
        return Err(unexpected());
    };
    for token in &tokens {
        let text = format!(
            "Use a key in the token '{}' ({})?",
            token.label, token.model
        );
        if prompter.agrees(text) {
            return Ok(Choice::Keys(vec![KeyRef::Uri(token.uri.clone())]));
        }
    }
    if !io::stdin().is_terminal() {
        return Err(
            Failed::usage("no key is named, and there is no terminal to ask on")
                .advise("Name one with --recipient or --passphrase-file"),
        );
    }
    errln!(
        "Without a token, a key in a file or a passphrase can open the volume. Both are weaker:"
    );
    errln!("whoever copies the key file, or with a passphrase the folder, can try passphrases for");
    errln!("as long as they like.");
    if prompter.agrees("Make a key in a file, with a passphrase?".into()) {
        return make_key_file(dir, prompter).map(|key| Choice::Keys(vec![key]));
    }
    prompter
        .ask_new(PromptKind::Passphrase, "passphrase")
        .map(Choice::Passphrase)
}

/// A key for the volume in `dir`, by whose name it goes.
fn make_key_file(dir: &Path, prompter: &mut Prompter) -> Result<KeyRef, Failed> {
    let passphrase = prompter.ask_new(PromptKind::Passphrase, "passphrase")?;
    let dir = place::absolute(dir)?;
    let label = dir.file_name().map(|name| name.to_string_lossy().into());
    let order = GenerateKey {
        module: Module::Openssl.name().into(),
        key_type: None,
        token: None,
        label,
        out: None,
        pin: Some(passphrase),
    };
    let key = key::order(Command::KeyGenerate(order), prompter)?;
    outln!(
        "Key '{}' is in {}: keep a copy of it.",
        key.label,
        key.locator
    );
    Ok(KeyRef::Id(key.key_id))
}

fn create_secret_file(path: &Path) -> Result<std::fs::File, Failed> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(|error| Failed::file(path, &error))
}

fn write_recovery(file: &mut std::fs::File, path: &Path, key: &Secret) -> Result<(), Failed> {
    file.write_all(key.expose())
        .and_then(|()| file.write_all(b"\n"))
        .and_then(|()| file.sync_all())
        .map_err(|error| Failed::file(path, &error))?;
    outln!(
        "Recovery key written to {}: keep it off this machine.",
        path.display()
    );
    Ok(())
}

pub(super) fn show_recovery(key: &Secret) -> Result<(), Failed> {
    let mut out = io::stdout().lock();
    out.write_all(
        b"\nRecovery key, shown this once. Write it down and keep it off this machine:\n\n    ",
    )
    .and_then(|()| out.write_all(key.expose()))
    .and_then(|()| out.write_all(b"\n\n"))
    .map_err(|error| Failed::file(Path::new("standard output"), &error))
}
