//! How much there is in OLD.

use std::path::{Path, PathBuf};

use super::Stopped;
use super::folder::Folder;
use super::journal::{Journal, Known};
use super::object::{Kind, Object};
use super::watch::{Phase, Tally, Watch};

/// How much there is in OLD.
pub(super) struct Count {
    pub(super) whole: Tally,
    /// Bytes that NEW must at least have room for.
    pub(super) needed: u64,
}

/// Counts all of `old` that is on `device`. What cannot be read is not counted: copying says so.
pub(super) fn all(
    old: &Folder,
    device: u64,
    journal: &Journal,
    watch: &dyn Watch,
) -> Result<Count, Stopped> {
    let mut count = Count {
        whole: Tally::default(),
        needed: 0,
    };
    watch.begins(Phase::Counting, count.whole);
    let root = old.enter(".".as_ref());
    let root = root.map_err(|errno| Stopped::old_failed(Path::new(""), errno))?;
    let mut levels = vec![(PathBuf::new(), root.names().unwrap_or_default(), root)];
    while let Some((path, names, folder)) = levels.last_mut() {
        if watch.wants_to_stop() {
            return Err(Stopped::Interrupted);
        }
        let Some(name) = names.pop() else {
            levels.pop();
            continue;
        };
        let Some(object) = folder.find(&name).ok().flatten() else {
            continue;
        };
        if object.device != device {
            continue;
        }
        let path = path.join(&name);
        match object.kind {
            Kind::Directory => {
                count.whole.directories += 1;
                if let Ok(inner) = folder.enter(&name) {
                    levels.push((path, inner.names().unwrap_or_default(), inner));
                }
            }
            Kind::File => {
                count.whole.files += 1;
                count.whole.bytes += object.size;
                if !is_done(journal, &path, &object) {
                    // Of a sparse file, what the disk has of it. A lower bound: of a hard link only the
                    // first name takes room.
                    let least = object.size.min(object.allocated) / object.links.max(1);
                    count.needed += least;
                }
            }
            _ => count.whole.others += 1,
        }
    }
    Ok(count)
}

fn is_done(journal: &Journal, path: &Path, object: &Object) -> bool {
    matches!(journal.known(path), Known::Done(record) if record.stamp == object.stamp())
}
