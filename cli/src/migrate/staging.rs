//! The folder in NEW where objects are made before they are renamed to their places.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::rc::Rc;
use std::thread;

use nix::errno::Errno;
use nix::fcntl::{RenameFlags, renameat, renameat2};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};
use rustix::fs::{FlockOperation, flock};

use super::Stopped;
use super::attributes::Attributes;
use super::folder::Folder;
use super::journal::{Journal, Origin, Record};

/// In the root of NEW, as long as a migration is not complete.
pub(super) const STAGING: &str = ".claviger-migration";

/// The journal in it.
const JOURNAL: &str = "journal";

/// So many objects, or so many bytes, are put into their places at once: making each durable by itself
/// would cost a barrier of the disk each.
const AT_MOST: usize = 128;
const BYTES_AT_MOST: u64 = 64 << 20;

/// So many files are synced at once.
const SYNCED_AT_ONCE: usize = 4;

/// What is at a place that something shall be put to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Nothing, and nothing is put over what comes there meanwhile.
    Free,
    /// What an earlier run has put there.
    Ours,
}

/// Something made, and not yet in its place.
pub(super) struct Made {
    pub(super) temporary: OsString,
    /// Of a file, which is to be made durable.
    pub(super) file: Option<File>,
    pub(super) folder: Rc<Folder>,
    pub(super) name: OsString,
    pub(super) place: Place,
    pub(super) record: Record,
}

/// The folder, with the journal and what waits in it.
pub(super) struct Staging {
    folder: Folder,
    pub(super) journal: Journal,
    made: Vec<Made>,
    bytes: u64,
    names: u64,
}

impl Staging {
    /// Makes it in `root`, the root of NEW, or makes what was never used anew.
    pub(super) fn create(root: &Folder, origin: &Origin) -> Result<Self, Stopped> {
        match mkdirat(root, STAGING, Mode::S_IRWXU) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(errno) => return Err(Stopped::new_failed(STAGING, errno)),
        }
        let folder = Self::open_folder(root)?;
        // Default ACLs of the root would be inherited by all that is made in it.
        let none = Attributes::default().give(folder.as_fd());
        none.map_err(|errno| Stopped::new_failed(STAGING, errno))?;
        let journal = folder
            .make(OsStr::new(JOURNAL))
            .map_err(|errno| journal_failed(errno.into()))?;
        lock(&journal)?;
        let journal = Journal::create(journal, origin).map_err(journal_failed)?;
        Ok(Self::new(folder, journal))
    }

    /// Opens the one in `root`, if a migration has begun there.
    pub(super) fn open(root: &Folder) -> Result<Option<(Self, Origin)>, Stopped> {
        let folder = Self::open_folder(root)?;
        let file = match folder.change(OsStr::new(JOURNAL)) {
            Ok(file) => Some(file),
            Err(Errno::ENOENT) => None,
            Err(errno) => return Err(journal_failed(errno.into())),
        };
        let journal = match file {
            Some(file) => {
                lock(&file)?;
                Journal::open(file).map_err(journal_failed)?
            }
            None => None,
        };
        let keep = match journal {
            Some(_) => Keep::Journal,
            None => Keep::Nothing,
        };
        empty(&folder, keep)?;
        Ok(journal.map(|(journal, origin)| (Self::new(folder, journal), origin)))
    }

    fn open_folder(root: &Folder) -> Result<Folder, Stopped> {
        let folder = root.enter(OsStr::new(STAGING));
        folder.map_err(|errno| Stopped::new_failed(STAGING, errno))
    }

    fn new(folder: Folder, journal: Journal) -> Self {
        Self {
            folder,
            journal,
            made: Vec::new(),
            bytes: 0,
            names: 0,
        }
    }

    /// A name for something about to be made in [`Staging::folder`].
    pub(super) fn temporary(&mut self) -> OsString {
        self.names += 1;
        self.names.to_string().into()
    }

    /// Where things are made.
    pub(super) fn folder(&self) -> &Folder {
        &self.folder
    }

    /// Removes what was made and is not to be.
    pub(super) fn discard(&self, temporary: &OsStr) {
        // What is left is removed by the next run.
        let _ = unlinkat(&self.folder, temporary, UnlinkatFlags::NoRemoveDir);
    }

    /// Takes something made, to be put into its place with others.
    pub(super) fn add(&mut self, made: Made) -> Result<(), Stopped> {
        self.bytes += made.record.stamp.size;
        self.made.push(made);
        match self.made.len() >= AT_MOST || self.bytes >= BYTES_AT_MOST {
            true => self.put_all(),
            false => Ok(()),
        }
    }

    /// Puts all that was made into its place, and makes it durable.
    ///
    /// It is synced there and not before: a file of a native volume that was never synced is bound to
    /// another place for nothing, one that was costs a barrier (`docs/decisions/037`).
    pub(super) fn put_all(&mut self) -> Result<(), Stopped> {
        if self.made.is_empty() {
            return Ok(());
        }
        let records = self.made.iter().map(|made| made.record.clone()).collect();
        self.journal.begin(records).map_err(journal_failed)?;
        let mut placed = Vec::new();
        for made in &self.made {
            if let Err(stopped) = self.put(made) {
                self.journal
                    .take_back_but(&placed)
                    .map_err(journal_failed)?;
                return Err(stopped);
            }
            placed.push(made.record.path.clone());
        }
        sync(&self.made)?;
        self.made.clear();
        self.bytes = 0;
        self.journal.settle().map_err(journal_failed)
    }

    fn put(&self, made: &Made) -> Result<(), Stopped> {
        let (from, to) = (made.temporary.as_os_str(), made.name.as_os_str());
        let renamed = match made.place {
            Place::Free => {
                let flags = RenameFlags::RENAME_NOREPLACE;
                renameat2(&self.folder, from, &*made.folder, to, flags)
            }
            Place::Ours => renameat(&self.folder, from, &*made.folder, to),
        };
        match (renamed, made.place) {
            (Ok(()), Place::Free) => Ok(()),
            // Of two names of one file rename(2) leaves both.
            (Ok(()), Place::Ours) => {
                self.discard(from);
                Ok(())
            }
            (Err(Errno::EEXIST), _) => Err(Stopped::Foreign(made.record.path.clone())),
            (Err(errno), _) => Err(Stopped::new_failed(&made.record.path, errno)),
        }
    }

    /// Removes it from `root`: the migration is complete.
    pub(super) fn remove(self, root: &Folder) -> Result<(), Stopped> {
        let gone = unlinkat(&self.folder, JOURNAL, UnlinkatFlags::NoRemoveDir);
        gone.map_err(|errno| Stopped::new_failed(STAGING, errno))?;
        remove_empty(root)
    }
}

/// Makes the files durable, several at once: the barriers of the disk are then shared.
fn sync(made: &[Made]) -> Result<(), Stopped> {
    let files = made
        .iter()
        .filter_map(|made| Some((&*made.record.path, made.file.as_ref()?)));
    let files: Vec<(&Path, &File)> = files.collect();
    let failed = thread::scope(|scope| {
        let share = files.len().div_ceil(SYNCED_AT_ONCE).max(1);
        let sync = |files: &[(&Path, &File)]| {
            let mut files = files.iter();
            files.find_map(|(path, file)| Some(Stopped::new_broken(path, &file.sync_all().err()?)))
        };
        let threads: Vec<_> = files
            .chunks(share)
            .map(|files| scope.spawn(move || sync(files)))
            .collect();
        let broken = || Stopped::new_failed(STAGING, Errno::EIO);
        let joined = threads
            .into_iter()
            .map(|it| it.join().unwrap_or_else(|_| Some(broken())));
        // All of them are waited for.
        joined.fold(None, Option::or)
    });
    failed.map_or(Ok(()), Err)
}

/// Removes the folder from `root`, where its journal has been removed before.
pub(super) fn remove_empty(root: &Folder) -> Result<(), Stopped> {
    match unlinkat(root, STAGING, UnlinkatFlags::RemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        Err(errno) => Err(Stopped::new_failed(STAGING, errno)),
    }
}

/// Keeps other runs out, until this process ends.
fn lock(journal: &File) -> Result<(), Stopped> {
    match flock(journal, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(Stopped::Running),
        Err(errno) => Err(journal_failed(errno.into())),
    }
}

/// Removes what a run that was killed had made and not put into its place.
fn empty(folder: &Folder, keep: Keep) -> Result<(), Stopped> {
    let failed = |errno| Stopped::new_failed(STAGING, errno);
    for name in folder.names().map_err(failed)? {
        if name != JOURNAL || keep == Keep::Nothing {
            unlinkat(folder, name.as_os_str(), UnlinkatFlags::NoRemoveDir).map_err(failed)?;
        }
    }
    Ok(())
}

/// What of the folder stays.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keep {
    Journal,
    Nothing,
}

fn journal_failed(error: io::Error) -> Stopped {
    Stopped::new_broken(Path::new(STAGING), &error)
}
