//! A directory of OLD and the same of NEW, while what is in them is gone through.
//!
//! A stack of levels is a place in both trees: it takes two descriptors a level and no recursion, so that
//! a tree may be as deep as descriptors last.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::vec;

use nix::errno::Errno;

use super::Stopped;
use super::folder::Folder;

/// A directory of both trees.
pub(super) struct Level {
    /// Below the roots.
    pub(super) path: PathBuf,
    pub(super) old: Folder,
    pub(super) new: Rc<Folder>,
    names: vec::IntoIter<OsString>,
}

impl Level {
    /// The roots.
    pub(super) fn root(old: &Folder, new: &Folder) -> Result<Self, Stopped> {
        let path = Path::new("");
        let here = OsStr::new(".");
        let old = old.enter(here).and_then(|old| Ok((old.names()?, old)));
        let (names, old) = old.map_err(|errno| Stopped::old_failed(path, errno))?;
        let new = new.enter(here);
        let new = new.map_err(|errno| Stopped::new_failed(path, errno))?;
        Ok(Self::new(path, old, names, new))
    }

    /// The directories `old` and `new` at `path`; `names` is what is in the old one.
    pub(super) fn new(path: &Path, old: Folder, names: Vec<OsString>, new: Folder) -> Self {
        Self {
            path: path.to_owned(),
            old,
            new: Rc::new(new),
            names: names.into_iter(),
        }
    }

    /// The next name in it.
    pub(super) fn next_name(&mut self) -> Option<OsString> {
        self.names.next()
    }
}

/// Opens the directory `name` of OLD and lists it.
pub(super) fn enter_old(old: &Folder, name: &OsStr) -> Result<(Folder, Vec<OsString>), Errno> {
    let old = old.enter(name)?;
    let names = old.names()?;
    Ok((old, names))
}
