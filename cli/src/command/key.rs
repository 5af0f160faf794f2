//! `claviger key …`.

use claviger_protocol::control::{Command, GenerateKey, KeyInfo, PromptKind, Reply};
use claviger_protocol::failure::ExitCode;

use super::unexpected;
use crate::args::{Generate, Key, Module, Output};
use crate::print::{errln, outln};
use crate::prompter::Prompter;
use crate::{Failed, daemon, key_ref, place, print};

pub(super) fn run(key: Key, prompter: &mut Prompter) -> Result<ExitCode, Failed> {
    match key {
        Key::Generate(order) => generate(order, prompter),
        Key::Add { key, label } => one(
            Command::KeyAdd {
                key: key_ref::parse(&key)?,
                label,
            },
            "Enrolled",
            prompter,
        ),
        Key::Remove { key } => one(
            Command::KeyRemove {
                key: key_ref::parse(&key)?,
            },
            "Forgot",
            prompter,
        ),
        Key::List { output } => list(&output, prompter),
    }
}

fn generate(order: Generate, prompter: &mut Prompter) -> Result<ExitCode, Failed> {
    if order.module == Module::Pkcs11.name() && order.token.is_none() {
        return Err(
            Failed::usage("--token is needed: which token shall make the key?")
                .advise("'claviger token list' shows the tokens present"),
        );
    }
    if order.module == Module::Openssl.name() {
        errln!("A key in a file is weaker than a token: whoever copies the file has the key.");
    }
    let pin = if order.pin {
        Some(prompter.ask_new(PromptKind::Pin, "PIN")?)
    } else {
        None
    };
    let out = order.out.as_deref().map(place::absolute).transpose()?;
    let order = GenerateKey {
        module: order.module,
        key_type: order.key_type,
        token: order.token,
        label: order.label,
        out,
        pin,
    };
    one(Command::KeyGenerate(order), "Made and enrolled", prompter)
}

fn one(command: Command, done: &str, prompter: &mut Prompter) -> Result<ExitCode, Failed> {
    let key = order(command, prompter)?;
    outln!("{done}:");
    show(&key);
    Ok(ExitCode::Ok)
}

/// Orders what is answered by a key.
pub(super) fn order(command: Command, prompter: &mut Prompter) -> Result<KeyInfo, Failed> {
    let reply = daemon::run(command, prompter)?;
    let Reply::Key(key) = reply else {
        return Err(unexpected());
    };
    Ok(key)
}

fn list(output: &Output, prompter: &mut Prompter) -> Result<ExitCode, Failed> {
    let reply = daemon::run(Command::KeyList, prompter)?;
    let Reply::Keys(keys) = reply else {
        return Err(unexpected());
    };
    if output.json {
        print::json(&keys)?;
        return Ok(ExitCode::Ok);
    }
    if keys.is_empty() {
        outln!(
            "No key is enrolled. 'claviger key generate' makes one, 'claviger key add' takes one in."
        );
    }
    keys.iter().for_each(show);
    Ok(ExitCode::Ok)
}

fn show(key: &KeyInfo) {
    outln!(
        "  {}  {:<8} {:<8} {}",
        print::short(&key.key_id),
        key.module,
        key.key_type,
        key.label
    );
    outln!("    {}", key.locator);
    outln!(
        "    {}{}",
        key.provenance,
        if key.in_keyring {
            ""
        } else {
            "; not in the keyring now"
        }
    );
}
