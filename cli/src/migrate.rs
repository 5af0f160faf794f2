//! One tree copied into another, so that the first can be given up: resumable, read back and compared
//! before it says so, and without touching the first.
//!
//! OLD is any tree that can be read; for `claviger ecryptfs migrate` the mount of an eCryptfs folder. NEW is
//! the root of a mounted volume, or an empty folder in one. Nothing is ever removed from OLD, or put over
//! something in NEW that was not put there by the same migration.

mod attributes;
mod compare;
mod content;
mod copy;
mod count;
mod finish;
mod folder;
mod journal;
mod level;
mod loss;
mod lower;
mod metadata;
mod object;
mod staging;
mod summary;
#[cfg(test)]
mod tests;
mod watch;

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::statvfs::fstatvfs;

use compare::{Compare, Until};
use copy::Copy;
use journal::{Journal, Origin};
use loss::Loss;
use metadata::Metadata;
use staging::{STAGING, Staging};

pub(crate) use folder::Folder;
pub(crate) use loss::{Aspect, Remark};
pub(crate) use summary::{Summary, Verdict};
pub(crate) use watch::{Phase, Tally, Watch};

/// Whether a journal has been begun in `file`.
pub(crate) fn is_journal(file: File) -> bool {
    Journal::open(file).is_ok_and(|journal| journal.is_some())
}

/// What is copied.
pub(crate) struct Old {
    /// Its root.
    pub(crate) root: Folder,
    /// What it is called: by this another run knows that it is the same.
    pub(crate) name: PathBuf,
}

/// Where it is copied to.
pub(crate) struct New {
    /// Its root.
    pub(crate) root: Folder,
    /// What is below the mount, if that is a mount: it is read from the disk, not from memory, when both
    /// are compared.
    pub(crate) lower: Option<PathBuf>,
}

/// What of an object could not be kept, by its path.
type Losses = HashMap<PathBuf, Vec<Loss>>;

/// A migration ended before its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Stopped {
    /// Somebody wanted it to.
    #[error("stopped")]
    Interrupted,
    /// OLD cannot be read any more.
    #[error("OLD, at '{}': {}", .path.display(), .errno.desc())]
    Old { path: PathBuf, errno: Errno },
    /// NEW cannot be written any more.
    #[error("NEW, at '{}': {}", .path.display(), .errno.desc())]
    New { path: PathBuf, errno: Errno },
    /// Something in NEW is in the way.
    #[error("NEW has '{}', which this migration did not put there, or which has changed since", .0.display())]
    Foreign(PathBuf),
    /// NEW has something, and is not what a migration of OLD leaves.
    #[error("NEW is not empty, and is no copy of OLD: '{}'", .0.display())]
    NotEmpty(PathBuf),
    /// NEW is where another folder's migration goes on.
    #[error("NEW is where the migration of {} has begun", .0.display())]
    OfAnother(PathBuf),
    /// Another run is at it.
    #[error("another migration into NEW is running")]
    Running,
    /// OLD is itself where a migration goes on.
    #[error("OLD is where another migration has begun and is not complete")]
    OldIsUnfinished,
    /// There is nothing in OLD.
    #[error("OLD is empty: is it mounted?")]
    OldIsEmpty,
    /// NEW has no room.
    #[error("{needed} bytes are to be copied, and NEW has room for {free}")]
    NoRoom { needed: u64, free: u64 },
}

impl Stopped {
    fn old_failed(path: &Path, errno: Errno) -> Self {
        let path = path.to_owned();
        Self::Old { path, errno }
    }

    fn new_failed(path: impl AsRef<Path>, errno: Errno) -> Self {
        let path = path.as_ref().to_owned();
        Self::New { path, errno }
    }

    fn new_broken(path: &Path, error: &io::Error) -> Self {
        let errno = error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
        Self::new_failed(path, errno)
    }
}

/// Whether NEW refused one object for what that is, so that others can still be copied.
fn is_of_the_object(errno: Errno) -> bool {
    [
        Errno::ENAMETOOLONG,
        Errno::EPERM,
        Errno::EOPNOTSUPP,
        Errno::EFBIG,
    ]
    .contains(&errno)
}

/// Copies `old` into `new`, or goes on where an earlier run ended, and compares the two. A copy that is
/// complete is compared once more.
///
/// # Errors
/// [`Stopped`]; what has been copied stays, and the next run goes on from there.
pub(crate) fn migrate(old: &Old, new: &New, watch: &dyn Watch) -> Result<Summary, Stopped> {
    let failed = |errno| Stopped::old_failed(Path::new(""), errno);
    let root = old.root.object().map_err(failed)?;
    let names = old.root.names().map_err(failed)?;
    if names.is_empty() {
        return Err(Stopped::OldIsEmpty);
    }
    if names.iter().any(|name| name == STAGING) {
        return Err(Stopped::OldIsUnfinished);
    }
    let migration = Migration {
        old,
        new,
        device: root.device,
        watch,
    };
    match begin(&new.root, &Origin::new(&old.name, &root))? {
        Some(staging) => migration.run(staging),
        None => migration.compare_again(),
    }
}

/// Opens or makes the staging folder in `new`; `None` if there is something in `new` and no journal.
fn begin(new: &Folder, origin: &Origin) -> Result<Option<Staging>, Stopped> {
    let names = new
        .names()
        .map_err(|errno| Stopped::new_failed("", errno))?;
    let opened = match names.iter().any(|name| name == STAGING) {
        true => Staging::open(new)?,
        false => None,
    };
    match opened {
        Some((staging, of)) if of == *origin => Ok(Some(staging)),
        Some((_, of)) => Err(Stopped::OfAnother(of.path)),
        None if names.iter().all(|name| name == STAGING) => Staging::create(new, origin).map(Some),
        None => Ok(None),
    }
}

/// A migration about to run.
struct Migration<'a> {
    old: &'a Old,
    new: &'a New,
    device: u64,
    watch: &'a dyn Watch,
}

impl Migration<'_> {
    fn run(&self, mut staging: Staging) -> Result<Summary, Stopped> {
        let (old, new) = (&self.old.root, &self.new.root);
        let mut summary = Summary::default();
        let count = count::all(old, self.device, &staging.journal, self.watch)?;
        self.has_room_for(count.needed)?;

        self.watch.begins(Phase::Copying, count.whole);
        let copy = Copy::new(new, self.device, &mut staging, &mut summary, self.watch);
        copy.run(old)?;
        let mut losses = Losses::new();
        finish::folders(old, new, &summary, &mut losses, self.watch)?;

        self.watch.begins(Phase::Comparing, count.whole);
        if let Some(lower) = &self.new.lower {
            lower::forget(lower);
        }
        let journal = Some(&staging.journal);
        Compare::new(journal, &losses, self.device, &mut summary, self.watch).run(
            old,
            new,
            Until::End,
        )?;
        if summary.verdict() == Verdict::Complete {
            staging.remove(new)?;
            self.finish_root(&mut summary)?;
        }
        Ok(summary)
    }

    /// Compares OLD with what is in NEW: all is well if a migration was completed before.
    fn compare_again(&self) -> Result<Summary, Stopped> {
        let (old, new) = (&self.old.root, &self.new.root);
        let mut summary = Summary::default();
        let nothing = Losses::new();
        self.watch.begins(Phase::Comparing, Tally::default());
        Compare::new(None, &nothing, self.device, &mut summary, self.watch).run(
            old,
            new,
            Until::FirstDifference,
        )?;
        if let Some(remark) = summary.differences.first().or(summary.left.first()) {
            return Err(Stopped::NotEmpty(remark.path.clone()));
        }
        staging::remove_empty(new)?;
        self.finish_root(&mut summary)?;
        Ok(summary)
    }

    /// The root comes last, after the staging folder has gone from it.
    fn finish_root(&self, summary: &mut Summary) -> Result<(), Stopped> {
        let root = Path::new("");
        let (old, new) = (&self.old.root, &self.new.root);
        let lost = finish::folder(root, old, new)?;
        let read = |folder: &Folder| Metadata::read(folder.as_fd());
        let was = read(old).map_err(|errno| Stopped::old_failed(root, errno))?;
        let is = read(new).map_err(|errno| Stopped::new_failed(root, errno))?;
        summary.judge(root, was.differences(&is), lost, "not as in OLD");
        summary.verified.directories += 1;
        Ok(())
    }

    fn has_room_for(&self, needed: u64) -> Result<(), Stopped> {
        let statistics = fstatvfs(self.new.root.as_fd());
        let statistics = statistics.map_err(|errno| Stopped::new_failed("", errno))?;
        let free = statistics.blocks_available() * statistics.fragment_size();
        match needed > free {
            true => Err(Stopped::NoRoom { needed, free }),
            false => Ok(()),
        }
    }
}
