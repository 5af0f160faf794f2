//! `claviger verify`: decrypts every block and checks every directory of a volume.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use claviger_protocol::control::UnlockWith;
use claviger_protocol::failure::ExitCode;
use claviger_vault::symlink;
use claviger_vault::tree::{Folder, Kind, TreeError};
use indicatif::{ProgressBar, ProgressStyle};
use nix::fcntl::readlinkat;
use serde::Serialize;

use super::lock;
use crate::args::Output;
use crate::print::outln;
use crate::prompter::Prompter;
use crate::volume::{self, Volume};
use crate::{Failed, place, print};

/// What was found, as `--json` prints it.
#[derive(Debug, Default, Serialize)]
struct Report {
    directories: u64,
    files: u64,
    blocks: u64,
    damage: Vec<Damage>,
}

/// Something that does not verify.
#[derive(Debug, Serialize)]
struct Damage {
    /// Path below the lower folder.
    lower: String,
    /// Number of a block of it, where only that is damaged.
    block: Option<u64>,
    what: String,
}

pub(super) fn run(dir: &Path, output: &Output, mut prompter: Prompter) -> Result<ExitCode, Failed> {
    let dir = place::lower_folder(dir)?;
    lock::open(&dir, UnlockWith::AnyKey, &mut prompter)?;
    let volume = Volume::open(&dir, prompter)?;
    let root = volume
        .root()
        .map_err(|error| volume::tree_failed(&dir, &error))?;
    let mut walk = Walk {
        volume: &volume,
        report: Report::default(),
        progress: progress(),
    };
    walk.directory(&root, "")?;
    walk.progress.finish_and_clear();
    let report = walk.report;
    if output.json {
        print::json(&report)?;
    } else {
        show(&dir, &report);
    }
    Ok(if report.damage.is_empty() {
        ExitCode::Ok
    } else {
        ExitCode::Damage
    })
}

fn show(dir: &Path, report: &Report) {
    for damage in &report.damage {
        let block = damage
            .block
            .map(|block| format!(" block {block}"))
            .unwrap_or_default();
        let lower = dir.join(&damage.lower);
        let said = format!("{}{block}: {}", lower.display(), damage.what);
        outln!("{said}");
    }
    outln!(
        "{} directories, {} files, {} blocks verified; {} damaged",
        report.directories,
        report.files,
        report.blocks,
        report.damage.len()
    );
}

struct Walk<'a> {
    volume: &'a Volume,
    report: Report,
    progress: ProgressBar,
}

impl Walk<'_> {
    /// Verifies a directory and what is in it; `path` is its lower path.
    fn directory(&mut self, folder: &Folder, path: &str) -> Result<(), Failed> {
        self.report.directories += 1;
        let entries = match folder.entries() {
            Ok(entries) => entries,
            Err(error) => {
                self.damaged(path, None, &error);
                return Ok(());
            }
        };
        for entry in entries {
            let lower = String::from_utf8_lossy(&entry.lower);
            let lower = if path.is_empty() {
                lower.into_owned()
            } else {
                format!("{path}/{lower}")
            };
            let upper = match entry.upper {
                Ok(upper) => upper,
                Err(error) => {
                    self.damaged(&lower, None, &error);
                    continue;
                }
            };
            match entry.kind {
                Kind::Directory => match folder.enter(&upper, self.volume.keys()) {
                    Ok(inner) => self.directory(&inner, &lower)?,
                    Err(TreeError::Io(error)) => {
                        return Err(Failed::file(Path::new(&lower), &error));
                    }
                    Err(error) => self.damaged(&lower, None, &error),
                },
                Kind::File => self.file(folder, &entry.lower, &lower)?,
                Kind::Symlink => self.symlink(folder, &entry.lower, &lower),
                Kind::Special => {}
            }
        }
        Ok(())
    }

    fn symlink(&mut self, folder: &Folder, lower: &[u8], path: &str) {
        match readlinkat(folder, lower) {
            Ok(target) => {
                if let Err(error) = symlink::open(folder.names(), target.as_bytes()) {
                    self.damaged(path, None, &error);
                }
            }
            Err(errno) => self.damaged(path, None, &errno.desc()),
        }
    }

    fn file(&mut self, folder: &Folder, lower: &[u8], path: &str) -> Result<(), Failed> {
        self.report.files += 1;
        self.progress.set_message(format!(
            "{} files, {} blocks",
            self.report.files, self.report.blocks
        ));
        let file = match self.volume.open_file(folder, lower, path.as_bytes()) {
            Ok(file) => file,
            Err(volume::OpenFileError::Keys(failure)) => match failure.exit_code() {
                ExitCode::Integrity | ExitCode::Unsupported => {
                    self.damaged(path, None, &failure);
                    return Ok(());
                }
                // No token, no daemon, declined: nothing is known of the file.
                _ => return Err(failure.into()),
            },
            Err(error) => {
                self.damaged(path, None, &error);
                return Ok(());
            }
        };
        let mut bad = Vec::new();
        let mut blocks = 0;
        let progress = &self.progress;
        let outcome = file.verify(
            |block| bad.push(block),
            |done, _| {
                blocks = done;
                progress.inc(1);
            },
        );
        self.report.blocks += blocks;
        for block in bad {
            self.damaged(path, Some(block), &"does not verify");
        }
        if let Err(error) = outcome {
            self.damaged(path, None, &error);
        }
        Ok(())
    }

    fn damaged(&mut self, lower: &str, block: Option<u64>, what: &dyn std::fmt::Display) {
        self.report.damage.push(Damage {
            lower: lower.into(),
            block,
            what: what.to_string(),
        });
    }
}

/// Shown on a terminal only.
fn progress() -> ProgressBar {
    let style = ProgressStyle::with_template("{spinner} {msg} ({per_sec} blocks)");
    let bar = ProgressBar::new_spinner();
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}
