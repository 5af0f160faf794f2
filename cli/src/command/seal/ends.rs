//! Where a stream comes from and where it goes.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signalfd::SignalFd;
use tempfile::Builder;

use crate::Failed;
use crate::terminal::HeldSignals;

/// A file, or standard input.
pub(super) struct Input {
    /// What it is called in an error.
    pub(super) name: PathBuf,
    pub(super) source: BufReader<File>,
}

impl Input {
    /// # Errors
    /// [`Failed`] if there is none, or it is a folder.
    pub(super) fn open(file: Option<&Path>) -> Result<Self, Failed> {
        let name = file.unwrap_or(Path::new("standard input"));
        let open = || {
            let file = match file {
                Some(path) => File::open(path)?,
                None => io::stdin().as_fd().try_clone_to_owned()?.into(),
            };
            match file.metadata()?.is_dir() {
                true => Err(Errno::EISDIR.into()),
                false => Ok(file),
            }
        };
        Ok(Self {
            name: name.into(),
            source: BufReader::new(open().map_err(|error| Failed::file(name, &error))?),
        })
    }
}

/// Where it goes.
pub(super) enum Output {
    /// Standard output, a device or a pipe: there as it comes.
    Stream(PathBuf, File),
    /// A file of this mode, cut by the umask, that appears under its name only when all of it is there and has
    /// verified.
    File(PathBuf, u32),
}

impl Output {
    /// What is named, before anybody is asked for a PIN.
    ///
    /// # Errors
    /// [`Failed`] if there can be no file.
    pub(super) fn plan(output: Option<&Path>, mode: u32) -> Result<Self, Failed> {
        let path = output.unwrap_or(Path::new("standard output"));
        let plan = || {
            let Some(path) = output else {
                let stdout = io::stdout().as_fd().try_clone_to_owned()?;
                return Ok(Self::Stream(path.into(), stdout.into()));
            };
            match fs::metadata(path) {
                Ok(there) if there.is_dir() => Err(Errno::EISDIR.into()),
                Ok(there) if !there.is_file() => {
                    let file = OpenOptions::new().write(true).open(path)?;
                    Ok(Self::Stream(path.into(), file))
                }
                // A link stays one.
                Ok(_) => Ok(Self::File(path.canonicalize()?, mode)),
                Err(_) => {
                    fs::metadata(folder(path))?;
                    Ok(Self::File(path.into(), mode))
                }
            }
        };
        plan().map_err(|error: io::Error| Failed::file(path, &error))
    }

    /// What it is called in an error.
    pub(super) fn name(&self) -> &Path {
        let (Self::Stream(name, _) | Self::File(name, _)) = self;
        name
    }

    /// Has `work` fill it with what it makes of `from`.
    ///
    /// # Errors
    /// That of `work`, or [`Failed`] if it cannot be written to.
    pub(super) fn fill(
        self,
        from: &mut Input,
        work: impl FnOnce(&mut dyn Read, &mut dyn Write) -> Result<(), Failed>,
    ) -> Result<(), Failed> {
        let (path, mode) = match self {
            Self::Stream(_, mut file) => return work(&mut from.source, &mut file),
            Self::File(path, mode) => (path, mode),
        };
        let refused = |error: io::Error| Failed::file(&path, &error);
        // Dropped last: a signal ends the process when the half-written file is gone.
        let held = HeldSignals::hold_ends().map_err(refused)?;
        let ends = held.ends().map_err(refused)?;
        let mut file = Builder::new()
            .permissions(Permissions::from_mode(mode))
            .tempfile_in(folder(&path))
            // Its text has a path that nobody knows.
            .map_err(|error| refused(error.kind().into()))?;
        let source = &mut from.source;
        work(&mut UntilSignal { source, ends }, &mut file)?;
        file.as_file().sync_all().map_err(refused)?;
        file.persist(&path).map_err(|error| refused(error.error))?;
        Ok(())
    }
}

fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Reads until a signal has come that is to end the process.
struct UntilSignal<'a> {
    source: &'a mut BufReader<File>,
    ends: SignalFd,
}

impl Read for UntilSignal<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.source.buffer().is_empty() {
            let of = |source| PollFd::new(source, PollFlags::POLLIN);
            let mut sources = [of(self.ends.as_fd()), of(self.source.get_ref().as_fd())];
            while let Err(errno) = poll(&mut sources, PollTimeout::NONE) {
                if errno != Errno::EINTR {
                    return Err(errno.into());
                }
            }
            let [ends, _] = &sources;
            if ends.any().unwrap_or(true) {
                return Err(Errno::ECANCELED.into());
            }
        }
        self.source.read(into)
    }
}
