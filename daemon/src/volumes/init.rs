//! Making a volume.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use claviger_pki::key::Kem;
use claviger_protocol::control::{KeyRef, Recovery, Reply};
use claviger_protocol::{Failure, Secret};
use claviger_vault::dir::{Location, Record};
use claviger_vault::epoch::EpochKeys;
use claviger_vault::ids::Scope;
use claviger_vault::manifest::{self, Manifest, Recipient};
use claviger_vault::names::{NamesKeys, RECORD, RESERVED};
use claviger_vault::pin::{Pin, remember};

use super::recipient::{Newcomer, recipient_infos, wrap_epoch_key};
use super::recipients::{new_recovery_key, of_change};
use super::{Keys, open_lower};
use crate::audit::{Event, UsedKey};
use crate::daemon::{Caller, Daemon};
use crate::errand::{Errand, Standing, VolumeName};
use crate::failure;

/// What a volume is made of.
pub struct NewVolume<'a> {
    /// The lower folder; made if missing, refused unless empty.
    pub dir: &'a Path,
    /// What one token operation opens.
    pub scope: Scope,
    /// Keys that open it.
    pub recipients: &'a [KeyRef],
    /// A passphrase that opens it.
    pub passphrase: Option<&'a Secret>,
    /// Whether a recovery key is made.
    pub recovery: Recovery,
}

impl Daemon {
    /// Makes a volume. It stays locked: the first unlock shows that a token opens it.
    ///
    /// # Errors
    /// [`Failure`]; nothing is left behind but perhaps an empty folder.
    pub fn init(&self, new: &NewVolume<'_>, caller: &Caller) -> Result<Reply, Failure> {
        let begun = Instant::now();
        let mut newcomers = Vec::new();
        for key in new.recipients {
            newcomers.push(self.newcomer(self.name(key, &caller.request(None))?)?);
        }
        if let Some(passphrase) = new.passphrase {
            newcomers.push(Newcomer::of_passphrase(passphrase.expose())?);
        }
        let mut told = None;
        if new.recovery == Recovery::Make {
            let (newcomer, text) = new_recovery_key();
            newcomers.push(newcomer);
            told = Some(text);
        }
        let dir = empty_folder(new.dir)?;
        // Deriving took a while; from here on it takes a moment. Nobody learns the recovery key of a volume
        // that nobody waits for any more.
        caller.wait.check("the new volume")?;
        let (manifest, dir) = self.make(&dir, new.scope, newcomers)?;
        let errand = Errand {
            volume: Some(VolumeName {
                id: manifest.volume(),
                dir,
                standing: Standing::Known,
            }),
            lower_path: None,
            program: caller.program.clone(),
        };
        let result = Ok(());
        self.audit.record(
            Event::Init,
            &errand,
            &UsedKey::default(),
            &result,
            begun.elapsed(),
        );
        Ok(Reply::Initialised {
            volume: manifest.volume(),
            recovery: told,
            recipients: recipient_infos(&manifest),
        })
    }

    fn make(
        &self,
        dir: &Path,
        scope: Scope,
        newcomers: Vec<Newcomer>,
    ) -> Result<(Manifest, PathBuf), Failure> {
        let (recipients, kems): (Vec<Recipient>, Vec<Kem>) = newcomers
            .into_iter()
            .map(|newcomer| (newcomer.recipient, newcomer.kem))
            .unzip();
        // Called for each recipient once, in their order.
        let mut kems = kems.into_iter();
        let (manifest, key) = Manifest::create(scope, recipients, |recipient, to_wrap| {
            let kem = kems
                .next()
                .ok_or_else(|| Failure::Internal("more wraps than keys".into()))?;
            wrap_epoch_key(recipient, kem, &to_wrap)
        })
        .map_err(of_change)?;
        let (lower, dir) = open_lower(dir)?;
        let keys = Keys {
            epochs: EpochKeys::new(manifest.epoch(), key),
            manifest,
            seed: None,
        };
        // The pin first and the manifest last: a folder that has one is a whole volume, known here. A
        // volume made where another one was takes its place, since its maker says so.
        let pin = Pin::new(&keys.manifest, keys.epochs.current(), &dir);
        remember(&self.places.state, pin).map_err(failure::of_pin)?;
        make_root(&lower, &dir, &keys)?;
        let stored = keys.manifest.store(keys.epochs.current(), &lower);
        if let Err(error) = stored {
            // So that the next try finds the folder as this one did.
            let _ = fs::remove_file(dir.join(RECORD));
            let _ = fs::remove_dir_all(dir.join(RESERVED));
            return Err(failure::of_manifest(error));
        }
        tracing::info!(volume = %keys.manifest.volume(), "volume made");
        Ok((keys.manifest, dir))
    }
}

/// Gives the lower root its directory record, durably.
fn make_root(lower: &fs::File, dir: &Path, keys: &Keys) -> Result<(), Failure> {
    let (volume, epoch) = (keys.manifest.volume(), keys.epochs.current_epoch());
    let names_keys = keys.epochs.names_keys(volume, epoch);
    let names = NamesKeys::new(epoch, epoch, names_keys)
        .map_err(|error| Failure::Internal(error.to_string()))?;
    let failed = |error: io::Error| Failure::Internal(format!("{}: {error}", dir.display()));
    Record::create(lower, &names, Location::ROOT)
        .map_err(|error| Failure::Internal(error.to_string()))?;
    fs::File::open(dir.join(RECORD))
        .and_then(|record| record.sync_all())
        .map_err(failed)?;
    lower.sync_all().map_err(failed)
}

/// Makes `dir` (0700) if it is not there, and refuses it unless it is empty.
fn empty_folder(dir: &Path) -> Result<PathBuf, Failure> {
    let failed = |error: io::Error| {
        let text = format!("{}: {error}", dir.display());
        match error.kind() {
            io::ErrorKind::PermissionDenied => Failure::Permission(text),
            io::ErrorKind::NotADirectory => Failure::Usage(text),
            _ => Failure::NotFound(text),
        }
    };
    // Its own mount would show nothing of it, and every check would call it damage.
    let around = |above: &&Path| above.join(RESERVED).join(manifest::NAME).exists();
    if let Some(volume) = dir.ancestors().skip(1).find(around) {
        return Err(Failure::Usage(format!(
            "{} lies in the volume {}: name a folder outside of it",
            dir.display(),
            volume.display()
        )));
    }
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(error)),
        _ => {}
    }
    if fs::read_dir(dir).map_err(failed)?.next().is_some() {
        if dir.join(RESERVED).exists() {
            return Err(Failure::Usage(format!(
                "{0}: not empty, but a volume already: see 'claviger inspect {0}'",
                dir.display()
            )));
        }
        return Err(Failure::Usage(format!("{}: not empty", dir.display())));
    }
    Ok(dir.into())
}
