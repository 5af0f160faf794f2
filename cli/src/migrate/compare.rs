//! The third pass: everything in OLD is compared with what is read back from NEW.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::readlinkat;

use super::content::{Buffers, Side};
use super::folder::Folder;
use super::journal::{Journal, Known};
use super::level::{Level, enter_old};
use super::loss::{Aspect, Loss};
use super::metadata::{Metadata, set_times};
use super::object::{Kind, Object};
use super::staging::STAGING;
use super::summary::Summary;
use super::watch::Watch;
use super::{Losses, Stopped};

/// Said of what differs.
const DIFFERS: &str = "not as in OLD";

/// Said of what differs and has been changed in OLD since it was copied.
const CHANGED: &str = "changed in OLD since it was copied";

/// How far to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Until {
    End,
    FirstDifference,
}

/// The third pass.
pub(super) struct Compare<'a> {
    journal: Option<&'a Journal>,
    /// Of folders; those of all else are in the journal.
    losses: &'a Losses,
    device: u64,
    /// Inode numbers in NEW of files with several names, by those in OLD.
    linked: HashMap<u64, u64>,
    buffers: Buffers,
    summary: &'a mut Summary,
    watch: &'a dyn Watch,
}

impl<'a> Compare<'a> {
    pub(super) fn new(
        journal: Option<&'a Journal>,
        losses: &'a Losses,
        device: u64,
        summary: &'a mut Summary,
        watch: &'a dyn Watch,
    ) -> Self {
        Self {
            journal,
            losses,
            device,
            linked: HashMap::new(),
            buffers: Buffers::new(),
            summary,
            watch,
        }
    }

    /// Compares all that is in `old`, the root of OLD, with all that is in `new`.
    pub(super) fn run(mut self, old: &Folder, new: &Folder, until: Until) -> Result<(), Stopped> {
        let root = Level::root(old, new)?;
        self.find_more(&root)?;
        let mut levels = vec![root];
        while let Some(level) = levels.last_mut() {
            if self.watch.wants_to_stop() {
                return Err(Stopped::Interrupted);
            }
            if until == Until::FirstDifference && !self.summary.differences.is_empty() {
                return Ok(());
            }
            let Some(name) = level.next_name() else {
                levels.pop();
                continue;
            };
            let path = level.path.join(&name);
            if self.summary.is_left(&path) {
                continue;
            }
            match self.object(level, &name, &path) {
                Ok(Some(inner)) => {
                    self.find_more(&inner)?;
                    levels.push(inner);
                }
                Ok(None) => {}
                Err(Side::Old(errno)) => self.summary.leave(&path, errno)?,
                Err(Side::New(errno @ (Errno::ENOTCONN | Errno::ENOKEY | Errno::EMFILE))) => {
                    return Err(Stopped::new_failed(&path, errno));
                }
                Err(Side::New(errno)) => {
                    self.summary.differ(&path, Aspect::Content, errno.desc());
                }
                Err(Side::Interrupted) => return Err(Stopped::Interrupted),
            }
        }
        Ok(())
    }

    /// Notes what is in the new folder and not in the old one.
    fn find_more(&mut self, level: &Level) -> Result<(), Stopped> {
        let path = &level.path;
        let names = |folder: &Folder| folder.names();
        let old = names(&level.old).map_err(|errno| Stopped::old_failed(path, errno))?;
        let new = names(&level.new).map_err(|errno| Stopped::new_failed(path, errno))?;
        let old: HashSet<OsString> = old.into_iter().collect();
        let is_staging = |name: &OsString| name == STAGING && path.as_os_str().is_empty();
        let more = new.into_iter().filter(|name| !old.contains(name));
        let more = more.filter(|name| !is_staging(name));
        self.summary
            .only_in_new
            .extend(more.map(|name| path.join(name)));
        Ok(())
    }

    fn object(&mut self, level: &Level, name: &OsStr, path: &Path) -> Result<Option<Level>, Side> {
        // Removed since it was listed: nothing to compare.
        let Some(old) = level.old.find(name).map_err(Side::Old)? else {
            return Ok(None);
        };
        if old.device != self.device {
            self.summary.leave_mount(path);
            return Ok(None);
        }
        let Some(new) = level.new.find(name).map_err(Side::New)? else {
            self.summary.differ(path, Aspect::Presence, "not in NEW");
            return Ok(None);
        };
        if old.kind != new.kind {
            self.summary.differ(path, Aspect::Kind, DIFFERS);
            return Ok(None);
        }
        let was = level.old.hold(name, old.kind).map_err(Side::Old)?;
        let is = level.new.hold(name, new.kind).map_err(Side::New)?;
        let mut differences = metadata_differences(&was, &is)?;
        let mut inner = None;
        match old.kind {
            Kind::Directory => {
                let (old, names) = enter_old(&level.old, name).map_err(Side::Old)?;
                let new = level.new.enter(name).map_err(Side::New)?;
                inner = Some(Level::new(path, old, names, new));
                self.summary.verified.directories += 1;
            }
            Kind::File => {
                if !self.have_one_content((&was, &old), (&is, &new))? {
                    differences.push(Aspect::Content);
                }
                self.summary.verified.files += 1;
                self.summary.verified.bytes += old.size;
            }
            Kind::Symlink => {
                let was = readlinkat(&level.old, name).map_err(Side::Old)?;
                if was != readlinkat(&level.new, name).map_err(Side::New)? {
                    differences.push(Aspect::Target);
                }
                self.summary.verified.others += 1;
            }
            Kind::Fifo | Kind::Socket | Kind::CharDevice | Kind::BlockDevice => {
                self.summary.verified.others += 1;
            }
        }
        if old.has_other_names() && *self.linked.entry(old.ino).or_insert(new.ino) != new.ino {
            differences.push(Aspect::Links);
        }
        let why = self.why(path, &old);
        let lost = self.lost(path);
        self.summary.judge(path, differences, lost, why);
        Ok(inner)
    }

    /// Compares content; the time of access in NEW stays.
    fn have_one_content(
        &mut self,
        (was, old): (&File, &Object),
        (is, new): (&File, &Object),
    ) -> Result<bool, Side> {
        if old.size != new.size {
            self.watch.done(old.size);
            return Ok(false);
        }
        let alike = self.buffers.are_alike(was, is, old.size, self.watch)?;
        set_times(is.as_fd(), new.accessed, None).map_err(Side::New)?;
        Ok(alike)
    }

    /// What is known not to have been kept of `path`.
    fn lost(&self, path: &Path) -> Vec<Loss> {
        if let Some(losses) = self.losses.get(path) {
            return losses.clone();
        }
        match self.journal.map(|journal| journal.known(path)) {
            Some(Known::Done(record)) => record.losses.clone(),
            _ => Vec::new(),
        }
    }

    fn why(&self, path: &Path, old: &Object) -> &'static str {
        match self.journal.map(|journal| journal.known(path)) {
            Some(Known::Done(record)) if record.stamp != old.stamp() => CHANGED,
            _ => DIFFERS,
        }
    }
}

fn metadata_differences(was: &File, is: &File) -> Result<Vec<Aspect>, Side> {
    let was = Metadata::read(was.as_fd()).map_err(Side::Old)?;
    let is = Metadata::read(is.as_fd()).map_err(Side::New)?;
    Ok(was.differences(&is))
}
