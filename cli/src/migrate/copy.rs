//! The first pass: every object of OLD is made in NEW, unless an earlier run has done so.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, readlinkat};
use nix::sys::stat::{Mode, SFlag, mkdirat, mknodat};
use nix::unistd::{linkat, symlinkat};

use super::content::{Buffers, Side};
use super::folder::Folder;
use super::journal::{Known, Record};
use super::level::{Level, enter_old};
use super::loss::{Aspect, Loss};
use super::metadata::{Metadata, set_mode};
use super::object::{Kind, Object, Stamp};
use super::staging::{Made, Place, Staging};
use super::summary::Summary;
use super::watch::Watch;
use super::{Stopped, is_of_the_object};

/// The first pass.
pub(super) struct Copy<'a> {
    new: &'a Folder,
    device: u64,
    staging: &'a mut Staging,
    /// Where in NEW a file with several names is, by its inode number in OLD.
    linked: HashMap<u64, PathBuf>,
    buffers: Buffers,
    summary: &'a mut Summary,
    watch: &'a dyn Watch,
}

/// What became of an object.
enum Outcome {
    Entered(Level),
    Done,
    /// It is not copied, and why.
    Left(Errno),
}

/// Something new, under its temporary name.
struct New {
    file: Option<File>,
    /// What it was in OLD when that was opened.
    stamp: Stamp,
    /// What it is in NEW.
    object: Object,
    losses: Vec<Loss>,
}

impl<'a> Copy<'a> {
    pub(super) fn new(
        new: &'a Folder,
        device: u64,
        staging: &'a mut Staging,
        summary: &'a mut Summary,
        watch: &'a dyn Watch,
    ) -> Self {
        let records = staging.journal.records();
        let linked = records.filter(|record| record.stamp.links > 1);
        let linked = linked.map(|record| (record.stamp.ino, record.path.clone()));
        Self {
            new,
            device,
            linked: linked.collect(),
            staging,
            buffers: Buffers::new(),
            summary,
            watch,
        }
    }

    /// Copies all that is in `old`, the root of OLD.
    pub(super) fn run(mut self, old: &Folder) -> Result<(), Stopped> {
        let walked = self.walk(Level::root(old, self.new)?);
        // What waits is whole, also if somebody wants to stop: the next run need not copy it again.
        if matches!(walked, Ok(()) | Err(Stopped::Interrupted)) {
            self.staging.put_all()?;
        }
        walked
    }

    fn walk(&mut self, root: Level) -> Result<(), Stopped> {
        let mut levels = vec![root];
        while let Some(level) = levels.last_mut() {
            if self.watch.wants_to_stop() {
                return Err(Stopped::Interrupted);
            }
            let Some(name) = level.next_name() else {
                levels.pop();
                continue;
            };
            let path = level.path.join(&name);
            match self.object(level, &name, &path)? {
                Outcome::Entered(inner) => levels.push(inner),
                Outcome::Done => {}
                Outcome::Left(errno) => self.summary.leave(&path, errno)?,
            }
        }
        Ok(())
    }

    fn object(&mut self, level: &Level, name: &OsStr, path: &Path) -> Result<Outcome, Stopped> {
        let old = match level.old.find(name) {
            Ok(Some(old)) => old,
            // Removed since it was listed.
            Ok(None) => return Ok(Outcome::Done),
            Err(errno) => return Ok(Outcome::Left(errno)),
        };
        if old.device != self.device {
            self.summary.leave_mount(path);
            return Ok(Outcome::Done);
        }
        let new = match level.new.find(name) {
            Err(errno) if is_of_the_object(errno) => return Ok(Outcome::Left(errno)),
            new => new.map_err(|errno| Stopped::new_failed(path, errno))?,
        };
        match old.kind {
            Kind::Directory => self.directory(level, name, path, new),
            _ => self.leaf(level, name, path, old, new),
        }
    }

    /// A folder is made in its place, and gets owner, mode and times when all else is done. One that
    /// somebody has made there since is taken for ours.
    fn directory(
        &mut self,
        level: &Level,
        name: &OsStr,
        path: &Path,
        new: Option<Object>,
    ) -> Result<Outcome, Stopped> {
        let failed = |errno| Stopped::new_failed(path, errno);
        let (old, names) = match enter_old(&level.old, name) {
            Ok(entered) => entered,
            Err(errno) => return Ok(Outcome::Left(errno)),
        };
        match new {
            None => match mkdirat(&*level.new, name, Mode::S_IRWXU) {
                Ok(()) => {}
                Err(errno) if is_of_the_object(errno) => return Ok(Outcome::Left(errno)),
                Err(errno) => return Err(failed(errno)),
            },
            Some(new) if new.kind != Kind::Directory => {
                return Err(Stopped::Foreign(path.to_owned()));
            }
            // An earlier run has given it a mode that may keep us out.
            Some(new) if new.mode & libc::S_IRWXU != libc::S_IRWXU => {
                let pinned = level.new.pin(name).map_err(failed)?;
                set_mode(pinned.as_fd(), new.mode | libc::S_IRWXU).map_err(failed)?;
            }
            Some(_) => {}
        }
        let new = level.new.enter(name).map_err(failed)?;
        Ok(Outcome::Entered(Level::new(path, old, names, new)))
    }

    fn leaf(
        &mut self,
        level: &Level,
        name: &OsStr,
        path: &Path,
        old: Object,
        new: Option<Object>,
    ) -> Result<Outcome, Stopped> {
        let place = match (self.staging.journal.known(path), new) {
            (_, None) => Place::Free,
            (Known::Begun, Some(new)) if new.kind != Kind::Directory => Place::Ours,
            (Known::Done(record), Some(new)) if record.shows(&new) => {
                if record.stamp == old.stamp() {
                    self.watch.done(old.size);
                    return Ok(Outcome::Done);
                }
                Place::Ours
            }
            (_, Some(_)) => return Err(Stopped::Foreign(path.to_owned())),
        };
        if self.waits_for(&old) {
            self.staging.put_all()?;
        }
        let temporary = self.staging.temporary();
        let new = match self.make(level, name, &old, &temporary) {
            Ok(new) => new,
            Err(failed) => {
                self.staging.discard(&temporary);
                return match failed {
                    Side::Old(errno) => Ok(Outcome::Left(errno)),
                    Side::New(errno) if is_of_the_object(errno) => Ok(Outcome::Left(errno)),
                    Side::New(errno) => Err(Stopped::new_failed(path, errno)),
                    Side::Interrupted => Err(Stopped::Interrupted),
                };
            }
        };
        if new.stamp.links > 1 {
            self.linked.insert(new.stamp.ino, path.to_owned());
        }
        self.staging.add(Made {
            temporary,
            file: new.file,
            folder: Rc::clone(&level.new),
            name: name.to_owned(),
            place,
            record: Record {
                path: path.to_owned(),
                stamp: new.stamp,
                modified: new.object.modified,
                losses: new.losses,
            },
        })?;
        Ok(Outcome::Done)
    }

    /// Makes what is `name` in OLD under the name `temporary`.
    fn make(
        &mut self,
        level: &Level,
        name: &OsStr,
        old: &Object,
        temporary: &OsStr,
    ) -> Result<New, Side> {
        let staged = self.staging.folder();
        if old.kind == Kind::File {
            return self.file(level, name, temporary);
        }
        let made = if old.kind == Kind::Symlink {
            let target = readlinkat(&level.old, name).map_err(Side::Old)?;
            symlinkat(target.as_os_str(), staged, temporary)
        } else {
            let kind = match old.kind {
                Kind::Fifo => SFlag::S_IFIFO,
                Kind::Socket => SFlag::S_IFSOCK,
                Kind::CharDevice => SFlag::S_IFCHR,
                _ => SFlag::S_IFBLK,
            };
            mknodat(staged, temporary, kind, Mode::S_IRUSR, old.number)
        };
        made.map_err(Side::New)?;
        let pinned = level.old.pin(name).map_err(Side::Old)?;
        let metadata = Metadata::read(pinned.as_fd()).map_err(Side::Old)?;
        let held = staged.pin(temporary).map_err(Side::New)?;
        let (object, mut losses) = metadata.give(held.as_fd()).map_err(Side::New)?;
        if old.has_other_names() {
            let why = "each of its names is one of its own";
            losses.push(Loss::new(Aspect::Links, why));
        }
        Ok(New {
            file: None,
            stamp: metadata.object.stamp(),
            object,
            losses,
        })
    }

    fn file(&mut self, level: &Level, name: &OsStr, temporary: &OsStr) -> Result<New, Side> {
        let file = level.old.read(name).map_err(Side::Old)?;
        let metadata = Metadata::read(file.as_fd()).map_err(Side::Old)?;
        let old = metadata.object;
        if old.kind != Kind::File {
            return Err(Side::Old(Errno::ESTALE));
        }
        let apart = match self.link(&old.stamp(), temporary).map_err(Side::New)? {
            Link::Made(new) => return Ok(*new),
            Link::First => None,
            Link::Refused(errno) => Some(Loss::new(Aspect::Links, errno.desc())),
        };
        let copy = self.staging.folder().make(temporary).map_err(Side::New)?;
        self.buffers.copy(&file, &copy, old.size, self.watch)?;
        let (object, mut losses) = metadata.give(copy.as_fd()).map_err(Side::New)?;
        losses.extend(apart);
        Ok(New {
            file: Some(copy),
            stamp: old.stamp(),
            object,
            losses,
        })
    }

    /// Whether another name of `old` has been made in NEW and waits for its place.
    fn waits_for(&self, old: &Object) -> bool {
        let first = self.linked.get(&old.ino).filter(|_| old.has_other_names());
        first.is_some_and(|first| !matches!(self.staging.journal.known(first), Known::Done(_)))
    }

    /// Makes `temporary` another name of the file that had `stamp` in OLD, if it is in NEW already.
    fn link(&self, stamp: &Stamp, temporary: &OsStr) -> Result<Link, Errno> {
        let first = self.linked.get(&stamp.ino).filter(|_| stamp.links > 1);
        let Some((first, Known::Done(record))) =
            first.map(|first| (first, self.staging.journal.known(first)))
        else {
            return Ok(Link::First);
        };
        let (Some(parent), Some(name)) = (first.parent(), first.file_name()) else {
            return Ok(Link::First);
        };
        let parent = self.new.enter_all(parent)?;
        let there = parent.find(name)?.filter(|there| record.shows(there));
        let Some(object) = there.filter(|_| record.stamp == *stamp) else {
            return Ok(Link::First);
        };
        let staged = self.staging.folder();
        match linkat(&parent, name, staged, temporary, AtFlags::empty()) {
            Ok(()) => Ok(Link::Made(Box::new(New {
                file: None,
                stamp: *stamp,
                object,
                losses: record.losses.clone(),
            }))),
            Err(errno @ (Errno::EMLINK | Errno::EPERM | Errno::EOPNOTSUPP)) => {
                Ok(Link::Refused(errno))
            }
            Err(errno) => Err(errno),
        }
    }
}

/// What became of an attempt to link a file to its other name.
enum Link {
    Made(Box<New>),
    /// No other name of it is there yet.
    First,
    Refused(Errno),
}
