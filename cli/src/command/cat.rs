//! `claviger cat`.

use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use claviger_protocol::control::UnlockWith;
use claviger_protocol::failure::ExitCode;
use zeroize::Zeroizing;

use super::lock;
use crate::prompter::Prompter;
use crate::volume::{self, Volume};
use crate::{Failed, place};

const CHUNK: usize = 1 << 20;

pub(super) fn run(dir: &Path, path: &Path, mut prompter: Prompter) -> Result<ExitCode, Failed> {
    let dir = place::lower_folder(dir)?;
    lock::open(&dir, UnlockWith::AnyKey, &mut prompter)?;
    let volume = Volume::open(&dir, prompter)?;
    let refused = |error| volume::tree_failed(path, &error);
    let root = volume.root().map_err(refused)?;
    let (folder, lower) = root
        .resolve(path.as_os_str().as_bytes(), volume.keys())
        .map_err(refused)?;
    let lower = lower.ok_or_else(|| Failed::usage(format!("{} is a folder", path.display())))?;
    let file = volume
        .open_file(&folder, lower.as_bytes(), lower.as_bytes())
        .map_err(|error| error.failed(path))?;
    let mut out = io::stdout().lock();
    let mut chunk = Zeroizing::new(vec![0; CHUNK]);
    let mut offset = 0;
    loop {
        let read = file
            .read_at(offset, &mut chunk)
            .map_err(|error| volume::file_failed(path, &error))?;
        let plain = chunk.get(..read).unwrap_or_default();
        if plain.is_empty() {
            return Ok(ExitCode::Ok);
        }
        out.write_all(plain)
            .map_err(|error| Failed::file(Path::new("standard output"), &error))?;
        offset += read as u64;
    }
}
