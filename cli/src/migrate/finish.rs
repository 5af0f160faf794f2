//! The second pass: the folders of NEW get owner, mode, times and attributes, the innermost first, when
//! nothing is put into them any more; and their names are made durable.

use std::os::fd::AsFd;
use std::path::Path;

use nix::unistd::fsync;

use super::folder::Folder;
use super::level::{Level, enter_old};
use super::loss::Loss;
use super::metadata::Metadata;
use super::object::Kind;
use super::summary::Summary;
use super::watch::Watch;
use super::{Losses, Stopped};

/// Finishes all folders but the root.
pub(super) fn folders(
    old: &Folder,
    new: &Folder,
    summary: &Summary,
    losses: &mut Losses,
    watch: &dyn Watch,
) -> Result<(), Stopped> {
    let mut levels = vec![Level::root(old, new)?];
    while let Some(level) = levels.last_mut() {
        if watch.wants_to_stop() {
            return Err(Stopped::Interrupted);
        }
        let Some(name) = level.next_name() else {
            if !level.path.as_os_str().is_empty() {
                let lost = folder(&level.path, &level.old, &level.new)?;
                losses.insert(level.path.clone(), lost);
            }
            levels.pop();
            continue;
        };
        let path = level.path.join(&name);
        let is_folder = |folder: &Folder| {
            let found = folder.find(&name).ok().flatten();
            found.is_some_and(|it| it.kind == Kind::Directory)
        };
        if summary.is_left(&path) || !is_folder(&level.old) || !is_folder(&level.new) {
            continue;
        }
        // What cannot be entered any more is told when both trees are compared.
        let Ok((old, names)) = enter_old(&level.old, &name) else {
            continue;
        };
        let new = level.new.enter(&name);
        let new = new.map_err(|errno| Stopped::new_failed(&path, errno))?;
        levels.push(Level::new(&path, old, names, new));
    }
    Ok(())
}

/// Gives `new` what `old` is, durably; says what it did not take.
pub(super) fn folder(path: &Path, old: &Folder, new: &Folder) -> Result<Vec<Loss>, Stopped> {
    let metadata = Metadata::read(old.as_fd());
    let metadata = metadata.map_err(|errno| Stopped::old_failed(path, errno))?;
    let failed = |errno| Stopped::new_failed(path, errno);
    let (_, lost) = metadata.give(new.as_fd()).map_err(failed)?;
    fsync(new).map_err(failed)?;
    Ok(lost)
}
