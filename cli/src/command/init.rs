//! `claviger init`.

use claviger_protocol::control::{Command, Recovery, Reply};
use claviger_protocol::failure::ExitCode;
use claviger_vault::ids;

use super::choice::{Choice, choose};
use super::recovery::Destination;
use super::unexpected;
use crate::args::{Init, Scope};
use crate::calling_off::CallingOff;
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
    // Until the recovery key is where it shall be.
    let calling_off = CallingOff::start()?;
    let destination = Destination::prepare(init.recovery_file.as_deref())?;
    let reply = match daemon::ask_to_the_end(command, prompter, &calling_off)? {
        Ok(reply) => reply,
        Err(failure) => {
            destination.give_up();
            return Err(failure.into());
        }
    };
    let Reply::Initialised {
        volume,
        recovery,
        recipients,
    } = reply
    else {
        return Err(unexpected());
    };
    // First: after a line that nobody takes there is no other.
    if let Some(key) = recovery {
        destination.tell(&key, &dir)?;
    }
    outln!("Volume {volume} in {}", dir.display());
    outln!("It opens with any one of:");
    print::recipients(&recipients);
    if recipients.len() < 2 {
        errln!("Only one key opens this volume: if it is lost, so is every file in it.");
    }
    Ok(ExitCode::Ok)
}
