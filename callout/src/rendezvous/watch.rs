//! Watching folders for entries.

use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use super::{BadEntry, ENTRY_MAX, Entry, SUFFIX};
use crate::Instance;
use crate::peer::Uids;

/// Watches folders that need not exist yet.
pub(crate) struct Watch {
    inotify: Inotify,
    folders: Vec<PathBuf>,
    uids: Uids,
}

/// An entry that may be believed.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) entry: Entry,
    /// Its owner: who the requester must prove to be.
    pub(crate) owner: u32,
    pub(crate) folder: PathBuf,
}

impl Watch {
    pub(crate) fn new(folders: Vec<PathBuf>, uids: Uids) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        Ok(Self {
            inotify,
            folders,
            uids,
        })
    }

    /// Readable when [`Self::scan`] may find something else than before.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }

    /// All entries there are now.
    pub(crate) fn scan(&self) -> Vec<Found> {
        // What happened does not matter, only that something did: the folders tell the rest.
        while self
            .inotify
            .read_events()
            .is_ok_and(|events| !events.is_empty())
        {}
        let mut found = Vec::new();
        for folder in &self.folders {
            self.watch_nearest(folder);
            let entries = entries(folder, &self.uids);
            found.extend(entries.map(|(entry, owner)| Found {
                entry,
                owner,
                folder: folder.clone(),
            }));
        }
        found
    }

    /// Watches the folder, or what exists of the way to it.
    fn watch_nearest(&self, folder: &Path) {
        let flags = AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_ONLYDIR;
        // From the folder upwards, and again until nothing nearer has appeared: a part that is made between
        // looking for it and watching what is above it makes no event.
        let mut watched = None;
        loop {
            let mut places = folder
                .ancestors()
                .filter(|place| !place.as_os_str().is_empty());
            let nearest = places.find(|place| self.inotify.add_watch(*place, flags).is_ok());
            if nearest.is_none() {
                tracing::warn!(folder = %folder.display(), "rendezvous folder cannot be watched");
            }
            if nearest == watched || nearest.is_none_or(|place| place == folder) {
                return;
            }
            watched = nearest;
        }
    }
}

/// The entries in `folder` that may be believed, and their owners.
pub(super) fn entries(folder: &Path, uids: &Uids) -> impl Iterator<Item = (Entry, u32)> {
    entry_paths(folder)
        .into_iter()
        .filter_map(move |path| match read_entry(&path, uids) {
            Ok(found) => Some(found),
            // Gone between listing and reading.
            Err(BadEntry::Unreadable(io::ErrorKind::NotFound)) => None,
            Err(error) => {
                tracing::debug!(path = %path.display(), %error, "not an entry");
                None
            }
        })
}

fn entry_paths(folder: &Path) -> Vec<PathBuf> {
    let Ok(names) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let paths = names.flatten().map(|name| name.path());
    paths
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == SUFFIX)
        })
        .collect()
}

/// Reads one entry, and its owner off the open file, so that both are of the same file.
fn read_entry(path: &Path, uids: &Uids) -> Result<(Entry, u32), BadEntry> {
    let unreadable = |error: io::Error| BadEntry::Unreadable(error.kind());
    // Neither a link nor a fifo may lead or hold us elsewhere.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(path)
        .map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    let owner = metadata.uid();
    if !uids.trusts(owner) {
        return Err(BadEntry::Owner(owner));
    }
    if !metadata.is_file() || metadata.mode() & 0o022 != 0 {
        return Err(BadEntry::Writable);
    }
    if metadata.len() > ENTRY_MAX {
        return Err(BadEntry::TooLarge);
    }
    let mut text = String::new();
    file.take(ENTRY_MAX)
        .read_to_string(&mut text)
        .map_err(unreadable)?;
    let entry = Entry::parse(&text)?;
    let stem = path
        .file_stem()
        .and_then(|stem| stem.to_str())
        .unwrap_or_default();
    if stem.parse::<Instance>() != Ok(entry.instance) {
        return Err(BadEntry::Instance);
    }
    Ok((entry, owner))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::thread;

    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    use super::*;
    use crate::Serves;
    use crate::rendezvous::{Namespaces, Publication};

    fn entry() -> Entry {
        Entry {
            instance: Instance::random().unwrap(),
            service: "test".to_owned(),
            about: BTreeMap::new(),
            namespaces: Namespaces::own().unwrap(),
            netlink: Some(1),
            socket: None,
        }
    }

    #[test]
    fn an_entry_is_found_while_it_is_published() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("not/yet");
        let uids = Uids::read().unwrap();
        let watch = Watch::new(vec![folder.clone()], uids).unwrap();
        assert!(watch.scan().is_empty());
        fs::create_dir_all(&folder).unwrap();
        let entry = entry();
        let publication = Publication::publish(&folder, &entry, Serves::Owner).unwrap();
        let found = watch.scan();
        assert_eq!(found.len(), 1);
        assert_eq!((&found[0].entry, found[0].owner), (&entry, uids.own));
        drop(publication);
        assert!(watch.scan().is_empty());
        assert_eq!(
            fs::read_dir(&folder).unwrap().count(),
            0,
            "nothing stays behind"
        );
    }

    #[test]
    fn an_entry_is_found_however_quickly_its_folder_appears() {
        for _ in 0..300 {
            let home = tempfile::tempdir().unwrap();
            let folder = home.path().join("not/yet");
            let watch = Watch::new(vec![folder.clone()], Uids::read().unwrap()).unwrap();
            assert!(watch.scan().is_empty());
            let publishing = thread::spawn(move || {
                fs::create_dir(folder.parent().unwrap()).unwrap();
                fs::create_dir(&folder).unwrap();
                Publication::publish(&folder, &entry(), Serves::Owner).unwrap()
            });
            // Looks only when told to, as the responder's thread does.
            while watch.scan().is_empty() {
                let mut told = [PollFd::new(watch.fd(), PollFlags::POLLIN)];
                let events = poll(&mut told, PollTimeout::from(10_000_u16)).unwrap();
                assert_eq!(events, 1, "there is an entry, and nobody says so");
            }
            drop(publishing.join().unwrap());
        }
    }

    #[test]
    fn entries_others_could_have_written_are_not_believed() {
        let home = tempfile::tempdir().unwrap();
        let watch = Watch::new(vec![home.path().to_owned()], Uids::read().unwrap()).unwrap();
        let entry = entry();
        let publication = Publication::publish(home.path(), &entry, Serves::Owner).unwrap();
        let file = home.path().join(format!("{}.toml", entry.instance));
        assert_eq!(watch.scan().len(), 1);

        fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
        assert!(watch.scan().is_empty(), "writable by others");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        let renamed = home.path().join(format!("{}.toml", "0".repeat(32)));
        fs::rename(&file, &renamed).unwrap();
        assert!(watch.scan().is_empty(), "not the name of its instance");
        let elsewhere = home.path().join("elsewhere");
        fs::rename(&renamed, &elsewhere).unwrap();
        symlink(&elsewhere, &file).unwrap();
        assert!(watch.scan().is_empty(), "a link");
        drop(publication);
    }
}
