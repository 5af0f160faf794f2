//! `claviger inspect`: what a lower file or a volume says of itself; needs no key, verifies nothing.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

use claviger_protocol::failure::ExitCode;
use claviger_vault::ids::Scope;
use claviger_vault::manifest;
use claviger_vault::native::{FixedPart, NativeFile, stat_size};
use serde_json::{Value, json};

use crate::args::Output;
use crate::volume::{file_failed, manifest_failed, open_folder};
use crate::{Failed, print};

pub(super) fn run(path: &Path, output: &Output) -> Result<ExitCode, Failed> {
    let facts = if path.is_dir() {
        volume(path)?
    } else {
        file(path)?
    };
    if !output.json {
        println!("Not verified: this is what it says of itself.");
    }
    print::facts(&facts, output)?;
    Ok(ExitCode::Ok)
}

fn volume(dir: &Path) -> Result<Value, Failed> {
    let loaded = manifest::load(open_folder(dir)?).map_err(|error| manifest_failed(dir, &error))?;
    let claims = loaded.manifest.claims();
    let recipients: Vec<Value> = claims
        .recipients()
        .iter()
        .map(|enrolled| {
            let recipient = &enrolled.recipient;
            json!({
                "kind": recipient.kind().word(),
                "label": recipient.label(),
                "key_id": recipient.key_id().to_string(),
            })
        })
        .collect();
    Ok(json!({
        "volume": claims.volume(),
        "scope": claims.scope(),
        "epoch": claims.epoch(),
        "minimum_epoch": claims.minimum(),
        "generation": claims.generation(),
        "recipients": recipients,
    }))
}

fn file(path: &Path) -> Result<Value, Failed> {
    let file = File::open(path).map_err(|error| Failed::file(path, &error))?;
    let length = file
        .metadata()
        .map_err(|error| Failed::file(path, &error))?
        .len();
    let refused = |error| file_failed(path, &error);
    let head = NativeFile::read_head(file.as_fd()).map_err(refused)?;
    let fixed = head
        .first_chunk()
        .expect("a head begins with its fixed part");
    let fixed = FixedPart::parse(fixed).map_err(|error| refused(error.into()))?;
    Ok(json!({
        "volume": fixed.volume,
        "file": fixed.file,
        "scope": fixed.scope,
        "header_pages": fixed.header_pages(),
        "lower_length": length,
        "size_by_length": stat_size(length, fixed.scope),
        "token_operations_an_open": match fixed.scope { Scope::Volume => 0, Scope::File => 1 },
    }))
}
