//! `claviger inspect`: what a lower file or a volume says of itself; needs no key, verifies nothing.

use std::os::fd::AsFd;
use std::path::Path;

use claviger_protocol::failure::ExitCode;
use claviger_vault::ids::{Epoch, FileId, Scope, VolumeId};
use claviger_vault::manifest;
use claviger_vault::native::{FileError, FixedPart, NativeFile, stat_size};
use serde::Serialize;

use crate::args::Output;
use crate::print::outln;
use crate::volume::{file_failed, manifest_failed, open_folder, open_regular};
use crate::{Failed, print};

/// What a manifest says.
#[derive(Serialize)]
struct VolumeFacts {
    volume: VolumeId,
    scope: Scope,
    epoch: Epoch,
    minimum_epoch: Epoch,
    generation: u64,
    recipients: Vec<RecipientFacts>,
}

#[derive(Serialize)]
struct RecipientFacts {
    kind: &'static str,
    label: String,
    key_id: String,
}

/// What the head of a lower file says.
#[derive(Serialize)]
struct FileFacts {
    volume: VolumeId,
    file: FileId,
    scope: Scope,
    header_pages: u8,
    lower_length: u64,
    size_by_length: u64,
    token_operations_an_open: u8,
}

pub(super) fn run(path: &Path, output: &Output) -> Result<ExitCode, Failed> {
    if path.is_dir() {
        let facts = volume(path)?;
        if output.json {
            print::json(&facts)?;
        } else {
            show_volume(&facts);
        }
    } else {
        let facts = file(path)?;
        if output.json {
            print::json(&facts)?;
        } else {
            show_file(&facts);
        }
    }
    Ok(ExitCode::Ok)
}

const NOT_VERIFIED: &str = "Not verified: this is what it says of itself.";

fn show_volume(facts: &VolumeFacts) {
    outln!("{NOT_VERIFIED}");
    outln!("  volume      {}", facts.volume);
    outln!("  scope       {}", word(facts.scope));
    outln!(
        "  epoch       {}, readable from {}",
        facts.epoch,
        facts.minimum_epoch
    );
    outln!("  generation  {}", facts.generation);
    for recipient in &facts.recipients {
        outln!(
            "  {:<10}  {}  {}",
            recipient.kind,
            print::short(&recipient.key_id),
            recipient.label
        );
    }
}

fn show_file(facts: &FileFacts) {
    outln!("{NOT_VERIFIED}");
    outln!("  volume      {}", facts.volume);
    outln!("  file        {}", facts.file);
    outln!(
        "  scope       {}, {} token operations an open",
        word(facts.scope),
        facts.token_operations_an_open
    );
    outln!(
        "  size        {} bytes, by the {} of the lower file",
        facts.size_by_length,
        facts.lower_length
    );
}

fn word(scope: Scope) -> &'static str {
    match scope {
        Scope::Volume => "volume",
        Scope::File => "file",
    }
}

fn volume(dir: &Path) -> Result<VolumeFacts, Failed> {
    let loaded = manifest::load(open_folder(dir)?).map_err(|error| manifest_failed(dir, &error))?;
    let claims = loaded.manifest.claims();
    let recipients = claims.recipients().iter().map(|enrolled| RecipientFacts {
        kind: enrolled.recipient.kind().word(),
        label: enrolled.recipient.label().to_owned(),
        key_id: enrolled.recipient.key_id().to_string(),
    });
    Ok(VolumeFacts {
        volume: claims.volume(),
        scope: claims.scope(),
        epoch: claims.epoch(),
        minimum_epoch: claims.minimum(),
        generation: claims.generation(),
        recipients: recipients.collect(),
    })
}

fn file(path: &Path) -> Result<FileFacts, Failed> {
    let file = open_regular(path)?;
    let metadata = file
        .metadata()
        .map_err(|error| Failed::file(path, &error))?;
    let refused = |error| match error {
        // Of a file that somebody names: damage is what it is least likely to be.
        FileError::NeverReachedDisk => Failed::new(
            ExitCode::Integrity,
            format!("{} has no header of a volume's file", path.display()),
        )
        .advise(
            "It is none, as a file below a mount is not, or one that a crash kept from the disk",
        ),
        error => file_failed(path, &error),
    };
    let head = NativeFile::read_head(file.as_fd()).map_err(refused)?;
    let fixed = head
        .first_chunk()
        .expect("a head begins with its fixed part");
    let fixed = FixedPart::parse(fixed).map_err(|error| refused(error.into()))?;
    Ok(FileFacts {
        volume: fixed.volume,
        file: fixed.file,
        scope: fixed.scope,
        header_pages: fixed.header_pages(),
        lower_length: metadata.len(),
        size_by_length: stat_size(metadata.len(), fixed.scope),
        token_operations_an_open: match fixed.scope {
            Scope::Volume => 0,
            Scope::File => 1,
        },
    })
}
