//! `claviger seal` and `claviger unseal`: one file or a pipe, without a volume.

mod ends;

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Read, Write};
use std::path::Path;

use claviger_protocol::Failure;
use claviger_protocol::failure::ExitCode;
use claviger_protocol::keys::{KeyReply, KeyRequest};
use claviger_vault::secret::StreamKey;
use claviger_vault::stream::{self, StreamError, StreamHeader};

use crate::args::{Seal, Unseal};
use crate::asking::Asking;
use crate::prompter::Prompter;
use crate::volume::key_deadline;
use crate::{Failed, key_ref};
use ends::{Input, Output};

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
    // It is made to be given away.
    let to = Output::plan(seal.output.as_deref(), 0o666)?;
    let from = Input::open(seal.file.as_deref())?;
    let pid = std::process::id();
    let (header, key) = ask(&KeyRequest::SealStream { recipients, pid }, prompter)?;
    copy(from, to, |from, to| stream::seal(&header, &key, from, to))
}

pub(super) fn unseal(unseal: &Unseal, prompter: Prompter) -> Result<ExitCode, Failed> {
    // Whoever sealed it did not mean it for everybody here.
    let to = Output::plan(unseal.output.as_deref(), 0o600)?;
    let mut from = Input::open(unseal.file.as_deref())?;
    let header = StreamHeader::read(&mut from.source).map_err(|error| failed(&from.name, error))?;
    let bytes = header.write().map_err(|error| failed(&from.name, error))?;
    let request = KeyRequest::UnsealStream {
        header: bytes,
        pid: std::process::id(),
    };
    let (_, key) = ask(&request, prompter)?;
    copy(from, to, |from, to| stream::open(&header, &key, from, to))
}

fn ask(request: &KeyRequest, prompter: Prompter) -> Result<(StreamHeader, StreamKey), Failed> {
    let asking = Asking::start(BTreeMap::new(), prompter)?;
    let malformed = || Failure::Internal("clavigerd sent no stream key".into());
    let KeyReply::Stream { header, key } = asking.ask(request, key_deadline())? else {
        return Err(malformed().into());
    };
    let mut key = key.to_array().ok_or_else(malformed)?;
    let header = StreamHeader::read(&mut header.as_slice()).map_err(|_| malformed())?;
    Ok((header, StreamKey::new(&mut key)))
}

/// Fills `to` with what `work` makes of `from`.
fn copy(
    mut from: Input,
    to: Output,
    work: impl FnOnce(&mut dyn Read, &mut dyn Write) -> Result<(), StreamError>,
) -> Result<ExitCode, Failed> {
    let (source, target) = (from.name.clone(), to.name().to_owned());
    to.fill(&mut from, |from, to| {
        work(from, to).map_err(|error| match error {
            StreamError::Write(error) => Failed::file(&target, &error),
            other => failed(&source, other),
        })
    })?;
    Ok(ExitCode::Ok)
}

/// What is wrong with a stream that comes from `name`.
fn failed(name: &Path, error: StreamError) -> Failed {
    let code = match &error {
        StreamError::NotSealed | StreamError::Recipients(_) => ExitCode::Usage,
        StreamError::Version(_) => ExitCode::Unsupported,
        StreamError::Packet(_) | StreamError::Damaged { .. } => ExitCode::Integrity,
        StreamError::Read(error) => return Failed::file(name, error),
        StreamError::Write(_) => ExitCode::Internal,
    };
    let failed = Failed::new(code, format!("{}: {error}", name.display()));
    match error {
        StreamError::Damaged { .. } => {
            failed.advise("It was changed or cut short: use nothing that came out of it")
        }
        _ => failed,
    }
}
