//! `claviger lock` and `claviger unlock`.

use std::path::Path;

use claviger_protocol::control::{
    Command, FolderFormat, LockTarget, Reply, UnlockWith, VolumeStatus,
};
use claviger_protocol::failure::ExitCode;

use super::unexpected;
use crate::args::{Format, GivenKeys, Unlock};
use crate::ecryptfs::{Mounting, Options, Purpose, advise_format, tell_unlocked};
use crate::print::{errln, outln};
use crate::prompter::Prompter;
use crate::{Failed, daemon, key_ref, place, secret_file};

pub(super) fn lock(place: Option<&Path>, prompter: &mut Prompter) -> Result<ExitCode, Failed> {
    let target = match place {
        Some(place) => LockTarget::Volume(place::lower_folder(place)?),
        None => LockTarget::All,
    };
    let reply = daemon::run(Command::Lock(target), prompter)?;
    let Reply::Locked(locked) = reply else {
        return Err(unexpected());
    };
    match (locked.folders.as_slice(), place) {
        ([], _) => {}
        (_, Some(place)) => outln!("Locked {}", place.display()),
        (folders, None) => folders.iter().for_each(|folder| outln!("Locked {folder}")),
    }
    for mountpoint in &locked.mounts {
        outln!("{mountpoint} is locked");
    }
    let faults = locked.faults();
    if locked.folders.is_empty() && locked.mounts.is_empty() && faults.is_empty() {
        outln!("Nothing was unlocked");
    }
    for fault in &faults {
        errln!("claviger: {fault}");
    }
    Ok(if faults.is_empty() {
        ExitCode::Ok
    } else {
        ExitCode::Internal
    })
}

pub(super) fn unlock(unlock: Unlock, prompter: &mut Prompter) -> Result<ExitCode, Failed> {
    let Some(place) = &unlock.place else {
        return unlock_all(prompter);
    };
    let dir = place::lower_folder(place)?;
    let found = match unlock.format {
        Format::Native => open(&dir, with_any(&unlock)?, prompter)
            .map_err(|failed| advise_format(failed, &dir))?,
        Format::Ecryptfs if unlock.recovery_file.is_some() => {
            return Err(Failed::usage("a folder of eCryptfs has no recovery key"));
        }
        Format::Ecryptfs => {
            let mut folder = Mounting::plan(&dir, Options::parse(&unlock.options)?)?;
            open_folder(&mut folder, &dir, (&unlock.keys, Purpose::Unlock), prompter)?
        }
    };
    if found == Found::Unlocked {
        errln!("{} was unlocked already", dir.display());
    }
    Ok(ExitCode::Ok)
}

/// Opens what is mounted and locked, each by what it has: one that does not open keeps no other locked. Not
/// all that was ever open here: most of that may be on a disk in a drawer.
fn unlock_all(prompter: &mut Prompter) -> Result<ExitCode, Failed> {
    let reply = daemon::run(Command::Status, prompter)?;
    let Reply::Status(status) = reply else {
        return Err(unexpected());
    };
    let locked: Vec<_> = status
        .volumes
        .iter()
        .filter(|volume| !volume.unlocked)
        .collect();
    if locked.is_empty() {
        outln!("Nothing was locked");
    }
    let mut code = ExitCode::Ok;
    for volume in locked {
        if let Err(failed) = open_as_it_is(volume, prompter) {
            failed.tell();
            errln!("{} stays locked", volume.dir);
            code = failed.code();
        }
    }
    Ok(code)
}

/// Unlocks what is mounted, by what it says of itself.
fn open_as_it_is(volume: &VolumeStatus, prompter: &mut Prompter) -> Result<Found, Failed> {
    let dir = Path::new(&volume.dir);
    match volume.format {
        FolderFormat::Native => open(dir, UnlockWith::AnyKey, prompter),
        FolderFormat::Ecryptfs => {
            let mut folder = Mounting::plan(dir, Options::parse(&[])?)?;
            let keys = GivenKeys::default();
            open_folder(&mut folder, dir, (&keys, Purpose::Unlock), prompter)
        }
    }
}

fn with_any(unlock: &Unlock) -> Result<UnlockWith, Failed> {
    if !unlock.options.is_empty() {
        return Err(of_ecryptfs());
    }
    match &unlock.recovery_file {
        Some(file) if !unlock.keys.are_given() => {
            Ok(UnlockWith::RecoveryKey(secret_file::read(file)?))
        }
        Some(_) => Err(of_ecryptfs()),
        None => with(&unlock.keys),
    }
}

/// What opens a volume.
///
/// # Errors
/// [`Failed`] for what only a folder of eCryptfs is opened by, or a file that cannot be read.
pub(super) fn with(keys: &GivenKeys) -> Result<UnlockWith, Failed> {
    if keys.are_of_ecryptfs_only() {
        return Err(of_ecryptfs());
    }
    match (&keys.passphrase_file, &keys.key) {
        (Some(_), Some(_)) => Err(Failed::usage(
            "a volume is opened by a passphrase or by a key",
        )),
        (Some(file), None) => Ok(UnlockWith::Passphrase(secret_file::read(file)?)),
        (None, Some(key)) => Ok(UnlockWith::Key(key_ref::parse(key)?)),
        (None, None) => Ok(UnlockWith::AnyKey),
    }
}

/// Options of eCryptfs, given for a volume.
fn of_ecryptfs() -> Failed {
    Failed::usage("these options belong to eCryptfs folders").advise("Add '--format ecryptfs'")
}

/// Unlocks a folder of eCryptfs, and says by what.
pub(super) fn open_folder(
    folder: &mut Mounting,
    dir: &Path,
    (keys, purpose): (&GivenKeys, Purpose),
    prompter: &mut Prompter,
) -> Result<Found, Failed> {
    let by = folder.unlock(keys, purpose, prompter)?;
    tell_unlocked(dir, &by);
    Ok(match by.is_empty() {
        true => Found::Unlocked,
        false => Found::Locked,
    })
}

/// What a volume was when it was to be unlocked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Locked,
    Unlocked,
}

/// Unlocks the volume in `dir`, unless it is, and says by what.
pub(super) fn open(dir: &Path, with: UnlockWith, prompter: &mut Prompter) -> Result<Found, Failed> {
    let command = Command::Unlock {
        dir: dir.to_owned(),
        with,
    };
    let reply = daemon::run(command, prompter)?;
    let Reply::Unlocked {
        volume: _,
        by,
        changes,
    } = reply
    else {
        return Err(unexpected());
    };
    let found = match by {
        Some(by) => {
            let dir = dir.display();
            errln!("Unlocked {dir} with {} '{}'", by.kind, by.label);
            Found::Locked
        }
        None => Found::Unlocked,
    };
    for change in changes {
        errln!("  {change}");
    }
    Ok(found)
}
