//! `claviger recipient …`.

use std::path::Path;

use claviger_protocol::control::{Command, KeyRef, NewRecipient, Reply};
use claviger_protocol::failure::ExitCode;
use serde_json::json;

use super::recovery::Destination;
use super::unexpected;
use crate::args::Recipient;
use crate::calling_off::CallingOff;
use crate::print::outln;
use crate::prompter::Prompter;
use crate::{Failed, daemon, key_ref, place, print, secret_file};

pub(super) fn run(recipient: Recipient, prompter: &mut Prompter) -> Result<ExitCode, Failed> {
    match recipient {
        Recipient::List { place, output } => {
            let dir = place::lower_folder(&place)?;
            let reply = daemon::run(Command::RecipientList { dir }, prompter)?;
            let Reply::Recipients {
                epoch,
                recipients,
                recovery: _,
            } = reply
            else {
                return Err(unexpected());
            };
            if output.json {
                print::json(&json!({ "epoch": epoch, "recipients": recipients }))?;
            } else {
                outln!("Epoch {epoch}. Any one of these opens it:");
                print::recipients(&recipients);
            }
            Ok(ExitCode::Ok)
        }
        Recipient::Add {
            place,
            key,
            passphrase_file,
            recovery,
        } => {
            let recipient = match (key, passphrase_file) {
                (Some(key), _) => NewRecipient::Key(key_ref::parse(&key)?),
                (None, Some(file)) => NewRecipient::Passphrase(secret_file::read(&file)?),
                (None, None) if recovery => NewRecipient::Recovery,
                (None, None) => return Err(Failed::usage("which key shall be added?")),
            };
            change(
                &place,
                |dir| Command::RecipientAdd { dir, recipient },
                prompter,
            )
        }
        Recipient::Remove { place, key } => {
            // The daemon does not know from which folder it was named.
            let key = match key_ref::parse(&key)? {
                KeyRef::File(path) => path.to_string_lossy().into_owned(),
                KeyRef::Uri(text) | KeyRef::Id(text) => text,
            };
            let outcome = change(
                &place,
                |dir| Command::RecipientRemove {
                    dir,
                    recipient: key,
                },
                prompter,
            )?;
            outln!("A new epoch has begun: what was removed reads nothing written from now on.");
            outln!("What it could read until now it may have kept.");
            Ok(outcome)
        }
    }
}

fn change(
    place: &Path,
    command: impl FnOnce(std::path::PathBuf) -> Command,
    prompter: &mut Prompter,
) -> Result<ExitCode, Failed> {
    let dir = place::lower_folder(place)?;
    // Until a recovery key has been shown.
    let calling_off = CallingOff::start()?;
    let reply = daemon::ask_to_the_end(command(dir.clone()), prompter, &calling_off)??;
    let Reply::Recipients {
        epoch,
        recipients,
        recovery,
    } = reply
    else {
        return Err(unexpected());
    };
    if let Some(key) = recovery {
        Destination::Shown.tell(&key, &dir)?;
    }
    outln!("Epoch {epoch}. It opens with any one of:");
    print::recipients(&recipients);
    Ok(ExitCode::Ok)
}
