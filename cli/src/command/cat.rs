//! `claviger cat`.

use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use claviger_protocol::failure::ExitCode;
use nix::fcntl::AtFlags;
use nix::sys::stat::{SFlag, fstatat};
use zeroize::Zeroizing;

use super::lock;
use crate::args::{Cat, Format};
use crate::ecryptfs::{self, Keys, LowerFolder, advise_format};
use crate::print::errln;
use crate::prompter::Prompter;
use crate::volume::{self, Volume};
use crate::{Failed, place};

const CHUNK: usize = 1 << 20;

pub(super) fn run(cat: &Cat, prompter: Prompter) -> Result<ExitCode, Failed> {
    match cat.format {
        Format::Native => native(cat, prompter),
        Format::Ecryptfs => of_ecryptfs(cat, prompter),
    }
}

fn native(cat: &Cat, mut prompter: Prompter) -> Result<ExitCode, Failed> {
    let path: &Path = &cat.path;
    let dir = place::lower_folder(&cat.dir)?;
    lock::open(&dir, lock::with(&cat.keys)?, &mut prompter)
        .map_err(|failed| advise_format(failed, &dir))?;
    let volume = Volume::open(&dir, prompter)?;
    let refused = |error| volume::tree_failed(path, &error);
    let root = volume.root().map_err(refused)?;
    let (folder, lower) = root
        .resolve(path.as_os_str().as_bytes(), volume.keys())
        .map_err(refused)?;
    let lower = lower.ok_or_else(|| Failed::usage(format!("{} is a folder", path.display())))?;
    let found = fstatat(&folder, lower.as_bytes(), AtFlags::AT_SYMLINK_NOFOLLOW);
    let found = found.map_err(|errno| Failed::file(path, &errno.into()))?;
    let kind = SFlag::from_bits_truncate(found.st_mode & SFlag::S_IFMT.bits());
    let refusal = match kind {
        SFlag::S_IFREG | SFlag::S_IFDIR => None,
        SFlag::S_IFLNK => Some("is a symbolic link: name what it leads to"),
        _ => Some("is no regular file"),
    };
    if let Some(refusal) = refusal {
        return Err(Failed::usage(format!("{} {refusal}", path.display())));
    }
    let file = volume
        .open_file(&folder, lower.as_bytes(), lower.as_bytes())
        .map_err(|error| error.failed(path))?;
    print(|offset, chunk| {
        let read = file.read_at(offset, chunk);
        read.map_err(|error| volume::file_failed(path, &error))
    })
}

fn of_ecryptfs(cat: &Cat, prompter: Prompter) -> Result<ExitCode, Failed> {
    let folder = LowerFolder::open(&cat.dir)?;
    let keys = Keys::gather(&cat.keys, &cat.dir, prompter)?;
    let file = folder.open_file(&cat.path, &keys)?;
    errln!("claviger: {}", ecryptfs::WARNING);
    let Some(file) = file else {
        // Made and never written: empty, as the kernel has it.
        return Ok(ExitCode::Ok);
    };
    print(|offset, chunk| {
        let read = file.read_at(offset, chunk);
        read.map_err(|error| ecryptfs::failed(&cat.path, &error))
    })
}

/// Copies to standard output what `read_at` gives, until it gives nothing.
fn print(
    mut read_at: impl FnMut(u64, &mut [u8]) -> Result<usize, Failed>,
) -> Result<ExitCode, Failed> {
    let mut out = io::stdout().lock();
    let refused = |error| Failed::file(Path::new("standard output"), &error);
    let mut chunk = Zeroizing::new(vec![0; CHUNK]);
    let mut offset = 0;
    loop {
        let read = read_at(offset, &mut chunk)?;
        let plain = chunk.get(..read).unwrap_or_default();
        if plain.is_empty() {
            // What follows the last line's end is still in its buffer, and nobody hears of it at the exit.
            out.flush().map_err(refused)?;
            return Ok(ExitCode::Ok);
        }
        out.write_all(plain).map_err(refused)?;
        offset += read as u64;
    }
}
