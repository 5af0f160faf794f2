//! `claviger ecryptfs recover`: finds what ecryptfs-setup-private made, on a disk of any machine.

use std::fs::{self, DirEntry, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use claviger_protocol::failure::ExitCode;
use claviger_vault::ecryptfs::name::EncryptedName;
use claviger_vault::ecryptfs::{Header, WrapVersion, WrappedPassphrase};
use nix::fcntl::OFlag;
use serde_json::{Value, json};

use crate::args::Output;
use crate::print::{errln, outln};
use crate::shell_word::quoted;
use crate::{Failed, print};

/// The name of a lower folder of ecryptfs-setup-private.
const LOWER: &str = ".Private";

/// What is beside it.
const SETTINGS: &str = ".ecryptfs";

/// More than a wrapped-passphrase file has.
const SMALL: u64 = 4096;

pub(super) fn run(place: &Path, output: &Output) -> Result<ExitCode, Failed> {
    let metadata = fs::metadata(place).map_err(|error| Failed::file(place, &error))?;
    if !metadata.is_dir() {
        return Err(no_folder(place, &metadata));
    }
    let mut search = Search {
        device: metadata.dev(),
        found: Vec::new(),
        unreadable: 0,
    };
    search.walk(place);
    let found: Vec<Found> = search
        .found
        .iter()
        .map(|lower| Found::look(lower))
        .collect();
    if output.json {
        print::json(&found.iter().map(Found::json).collect::<Vec<_>>())?;
    } else {
        found.iter().for_each(Found::print);
    }
    if search.unreadable > 0 {
        errln!(
            "claviger: {} folders could not be read; root sees all",
            search.unreadable
        );
    }
    if found.is_empty() {
        let what = format!("no {LOWER} folder below {}", place.display());
        return Err(Failed::new(ExitCode::NotFound, what)
            .advise("Other filesystems mounted below it are not searched: name each"));
    }
    Ok(ExitCode::Ok)
}

fn no_folder(place: &Path, metadata: &fs::Metadata) -> Failed {
    let what = format!("{} is no folder", place.display());
    let kind = metadata.file_type();
    match kind.is_block_device() || kind.is_file() {
        true => Failed::usage(what)
            .advise("Mount the disk read-only, as 'mount -o ro DISK /mnt', and name that folder"),
        false => Failed::usage(what),
    }
}

/// A walk over one filesystem.
struct Search {
    device: u64,
    found: Vec<PathBuf>,
    unreadable: usize,
}

impl Search {
    fn walk(&mut self, top: &Path) {
        let mut waiting = vec![top.to_owned()];
        while let Some(dir) = waiting.pop() {
            if dir.file_name().is_some_and(|name| name == LOWER) {
                self.found.push(dir);
                continue;
            }
            let Ok(entries) = fs::read_dir(&dir) else {
                self.unreadable += 1;
                continue;
            };
            let folders = entries
                .filter_map(Result::ok)
                .filter(|entry| self.is_folder(entry));
            waiting.extend(folders.map(|entry| entry.path()));
        }
        self.found.sort();
    }

    /// Whether it is a folder of this filesystem; symlinks are none.
    fn is_folder(&self, entry: &DirEntry) -> bool {
        entry.file_type().is_ok_and(|kind| kind.is_dir())
            && entry
                .metadata()
                .is_ok_and(|metadata| metadata.dev() == self.device)
    }
}

/// A lower folder, and what was found out about it.
struct Found {
    lower: PathBuf,
    wrapped: Option<(PathBuf, WrappedPassphrase)>,
    names: Names,
    /// Of the first file that has a header.
    key_sigs: Vec<String>,
}

/// How the names in it are.
enum Names {
    Plain,
    Encrypted { key_sig: String },
}

impl Found {
    fn look(lower: &Path) -> Self {
        let settings = lower.with_file_name(SETTINGS);
        let path = settings.join("wrapped-passphrase");
        let wrapped = read_small(&path).ok();
        let wrapped = wrapped.and_then(|bytes| WrappedPassphrase::parse(&bytes).ok());
        let mut names = Names::Plain;
        let mut key_sigs = Vec::new();
        for entry in fs::read_dir(lower)
            .into_iter()
            .flatten()
            .filter_map(Result::ok)
        {
            if let Some(Ok(name)) = EncryptedName::parse(entry.file_name().as_bytes()) {
                let key_sig = name.key_sig().to_string();
                names = Names::Encrypted { key_sig };
            }
            if key_sigs.is_empty() && entry.file_type().is_ok_and(|kind| kind.is_file()) {
                key_sigs = sigs_of(&entry.path());
            }
        }
        Self {
            lower: lower.to_owned(),
            wrapped: wrapped.map(|wrapped| (path, wrapped)),
            names,
            key_sigs,
        }
    }

    /// What opens a file in it; `None` if a path is nothing to paste into a shell.
    fn command(&self) -> Option<String> {
        let wrapped = match &self.wrapped {
            Some((path, _)) => format!(" --wrapped-passphrase {}", quoted(path)?),
            None => String::new(),
        };
        let lower = quoted(&self.lower)?;
        Some(format!(
            "claviger cat --format ecryptfs{wrapped} {lower} PATH"
        ))
    }

    fn json(&self) -> Value {
        let wrapped = self.wrapped.as_ref().map(|(path, wrapped)| {
            json!({
                "path": path.to_string_lossy(),
                "version": version(wrapped),
                "key_sig": wrapped.sig().to_string(),
            })
        });
        let names_key_sig = match &self.names {
            Names::Plain => None,
            Names::Encrypted { key_sig } => Some(key_sig),
        };
        json!({
            "lower": self.lower.to_string_lossy(),
            "wrapped_passphrase": wrapped,
            "key_sigs": self.key_sigs,
            "names_key_sig": names_key_sig,
            "command": self.command(),
        })
    }

    fn print(&self) {
        // Quoted, since names on a disk of another machine may be made for this terminal.
        outln!("{:?}", self.lower);
        match &self.wrapped {
            Some((path, wrapped)) => {
                outln!(
                    "  wrapped passphrase   {path:?} (version {})",
                    version(wrapped)
                );
                outln!("  opened by            the login passphrase of the time");
            }
            None => {
                outln!("  opened by            its mount passphrase: no wrapped one is beside it")
            }
        }
        if !self.key_sigs.is_empty() {
            outln!("  keys of its files    {}", self.key_sigs.join(" "));
        }
        match &self.names {
            Names::Plain => outln!("  names                in clear"),
            Names::Encrypted { key_sig } => {
                outln!("  names                encrypted by {key_sig}")
            }
        }
        match self.command() {
            Some(command) => outln!("  a file of it         {command}"),
            None => outln!(
                "  a file of it         rename the folders above it first: their names are no text"
            ),
        }
    }
}

fn version(wrapped: &WrappedPassphrase) -> u8 {
    match wrapped.version() {
        WrapVersion::One => 1,
        WrapVersion::Two(_) => 2,
    }
}

/// Who opens a lower file; nobody, if it is none.
fn sigs_of(path: &Path) -> Vec<String> {
    let header = open(path).ok().and_then(|file| Header::read(&file).ok());
    let sigs = header.map(|header| header.key_sigs()).unwrap_or_default();
    sigs.iter().map(ToString::to_string).collect()
}

fn read_small(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path)?.take(SMALL).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Opens what may be anything: follows no symlink, waits for no writer of a fifo.
fn open(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let mut options = File::options();
    options.read(true).custom_flags(flags.bits()).open(path)
}
