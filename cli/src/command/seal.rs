//! `claviger seal` and `claviger unseal`: one file or a pipe, without a volume.

use std::collections::BTreeMap;
use std::fs::{File, Permissions};
use std::io::{self, BufReader, IsTerminal, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use claviger_protocol::Failure;
use claviger_protocol::failure::ExitCode;
use claviger_protocol::keys::{KeyReply, KeyRequest};
use claviger_vault::secret::StreamKey;
use claviger_vault::stream::{self, StreamError, StreamHeader};
use tempfile::Builder;

use crate::args::{Seal, Unseal};
use crate::asking::Asking;
use crate::prompter::Prompter;
use crate::volume::key_deadline;
use crate::{Failed, key_ref};

pub(super) fn seal(seal: &Seal, prompter: Prompter) -> Result<ExitCode, Failed> {
    let recipients = seal
        .recipients
        .iter()
        .map(|key| key_ref::parse(key))
        .collect::<Result<_, _>>()?;
    if seal.output.is_none() && io::stdout().is_terminal() {
        return Err(Failed::usage("ciphertext is not for a terminal")
            .advise("Name a file with --output, or redirect standard output"));
    }
    let from = input(seal.file.as_deref())?;
    let pid = std::process::id();
    let (header, key) = ask(&KeyRequest::SealStream { recipients, pid }, prompter)?;
    // It is made to be given away.
    write(seal.output.as_deref(), 0o666, |to| {
        stream::seal(&header, &key, from, to)
    })
}

pub(super) fn unseal(unseal: &Unseal, prompter: Prompter) -> Result<ExitCode, Failed> {
    let mut from = input(unseal.file.as_deref())?;
    let header = StreamHeader::read(&mut from).map_err(failed)?;
    let bytes = header.write().map_err(failed)?;
    let request = KeyRequest::UnsealStream {
        header: bytes,
        pid: std::process::id(),
    };
    let (_, key) = ask(&request, prompter)?;
    // Whoever sealed it did not mean it for everybody here.
    write(unseal.output.as_deref(), 0o600, |to| {
        stream::open(&header, &key, from, to)
    })
}

fn ask(request: &KeyRequest, prompter: Prompter) -> Result<(StreamHeader, StreamKey), Failed> {
    let asking = Asking::start(BTreeMap::new(), prompter)?;
    let malformed = || Failure::Internal("clavigerd sent no stream key".into());
    let KeyReply::Stream { header, key } = asking.ask(request, key_deadline())? else {
        return Err(malformed().into());
    };
    let mut key = key.to_array().ok_or_else(malformed)?;
    let header = StreamHeader::read(&mut header.as_slice()).map_err(failed)?;
    Ok((header, StreamKey::new(&mut key)))
}

fn input(file: Option<&Path>) -> Result<Box<dyn Read>, Failed> {
    let Some(path) = file else {
        return Ok(Box::new(io::stdin()));
    };
    let file = File::open(path).map_err(|error| Failed::file(path, &error))?;
    Ok(Box::new(BufReader::new(file)))
}

/// Writes to standard output, or to a file that appears under its name only when all of it is there
/// and has verified; `mode` is cut by the umask.
fn write(
    output: Option<&Path>,
    mode: u32,
    work: impl FnOnce(&mut dyn Write) -> Result<(), StreamError>,
) -> Result<ExitCode, Failed> {
    let Some(path) = output else {
        work(&mut io::stdout().lock()).map_err(failed)?;
        return Ok(ExitCode::Ok);
    };
    let refused = |error: io::Error| Failed::file(path, &error);
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let mut file = Builder::new()
        .permissions(Permissions::from_mode(mode))
        .tempfile_in(folder.unwrap_or(Path::new(".")))
        .map_err(refused)?;
    work(&mut file).map_err(failed)?;
    file.as_file().sync_all().map_err(refused)?;
    file.persist(path).map_err(|error| refused(error.error))?;
    Ok(ExitCode::Ok)
}

fn failed(error: StreamError) -> Failed {
    let code = match &error {
        StreamError::NotSealed | StreamError::Recipients(_) => ExitCode::Usage,
        StreamError::Version(_) => ExitCode::Unsupported,
        StreamError::Packet(_) | StreamError::Damaged { .. } => ExitCode::Integrity,
        StreamError::Io(_) => ExitCode::Internal,
    };
    Failed::new(code, error.to_string())
}
