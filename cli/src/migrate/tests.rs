//! Migrations between ordinary folders: what is kept, what a stop loses, what is refused.

mod objects;
mod refusals;
mod resuming;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{getxattr, listxattr};
use tempfile::TempDir;

use super::*;

/// Two folders, the first to be migrated into the second.
struct Scene {
    folder: TempDir,
}

impl Scene {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["old", "new"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        Self { folder }
    }

    fn old(&self, path: &str) -> PathBuf {
        self.folder.path().join("old").join(path)
    }

    fn new_(&self, path: &str) -> PathBuf {
        self.folder.path().join("new").join(path)
    }

    /// Makes a file of OLD.
    fn write(&self, path: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.old(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    }

    fn migrate_watched(&self, watch: &dyn Watch) -> Result<Summary, Stopped> {
        let old = Old {
            root: Folder::open(&self.old("")).unwrap(),
            name: self.old(""),
        };
        let new = New {
            root: Folder::open(&self.new_("")).unwrap(),
            lower: Some(self.new_("")),
        };
        migrate(&old, &new, watch)
    }

    fn migrate(&self) -> Result<Summary, Stopped> {
        self.migrate_watched(&Patience::endless())
    }

    /// Copies all, and does not come to comparing.
    fn copy_and_stop(&self) {
        struct Stopping(Cell<Option<Phase>>);
        impl Watch for Stopping {
            fn begins(&self, phase: Phase, _: Tally) {
                self.0.set(Some(phase));
            }
            fn done(&self, _: u64) {}
            fn wants_to_stop(&self) -> bool {
                self.0.get() == Some(Phase::Comparing)
            }
        }
        let stopped = self.migrate_watched(&Stopping(Cell::new(None)));
        assert!(matches!(stopped, Err(Stopped::Interrupted)));
    }

    /// Migrates, and expects that all is kept, by looks of its own.
    #[track_caller]
    fn is_kept(&self) -> Summary {
        let summary = self.migrate().unwrap();
        assert_eq!(summary.verdict(), Verdict::Complete, "{summary:#?}");
        assert_eq!(summary.losses, [], "{summary:#?}");
        self.is_alike();
        summary
    }

    #[track_caller]
    fn is_alike(&self) {
        let (old, new) = (snapshot(&self.old("")), snapshot(&self.new_("")));
        for (path, was) in &old {
            assert_eq!(Some(was), new.get(path), "{}", path.display());
        }
        assert_eq!(old.len(), new.len());
    }
}

/// Looks on, and wants to stop when it has been asked often enough.
struct Patience(Cell<u64>);

impl Patience {
    fn endless() -> Self {
        Self(Cell::new(u64::MAX))
    }

    fn of(times: u64) -> Self {
        Self(Cell::new(times))
    }
}

impl Watch for Patience {
    fn begins(&self, _: Phase, _: Tally) {}

    fn done(&self, _: u64) {}

    fn wants_to_stop(&self) -> bool {
        let left = self.0.get();
        self.0.set(left.saturating_sub(1));
        left == 0
    }
}

/// All that a migration keeps of an object, seen by other calls than its own.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    mode: u32,
    owner: (u32, u32),
    modified: (i64, i64),
    number: u64,
    content: Option<Vec<u8>>,
    target: Option<PathBuf>,
    attributes: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The first path, in order, of the same file.
    same_as: PathBuf,
}

/// A tree, by paths below `root`.
fn snapshot(root: &Path) -> BTreeMap<PathBuf, Seen> {
    let mut paths = vec![root.to_owned()];
    let mut found = Vec::new();
    while let Some(path) = paths.pop() {
        if fs::symlink_metadata(&path).unwrap().is_dir() {
            let entries = fs::read_dir(&path).unwrap();
            paths.extend(entries.map(|entry| entry.unwrap().path()));
        }
        found.push(path);
    }
    found.sort();
    let mut inodes: BTreeMap<u64, PathBuf> = BTreeMap::new();
    let mut seen = BTreeMap::new();
    for path in found {
        let below = path.strip_prefix(root).unwrap().to_owned();
        let metadata = fs::symlink_metadata(&path).unwrap();
        let first = inodes.entry(metadata.ino()).or_insert(below.clone());
        let kind = metadata.file_type();
        let one = Seen {
            mode: metadata.mode(),
            owner: (metadata.uid(), metadata.gid()),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            number: metadata.rdev(),
            content: kind.is_file().then(|| fs::read(&path).unwrap()),
            target: fs::read_link(&path).ok(),
            attributes: match kind.is_symlink() {
                true => BTreeMap::new(),
                false => attributes(&path),
            },
            same_as: first.clone(),
        };
        seen.insert(below, one);
    }
    seen
}

fn attributes(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut buffer = vec![0; 65536];
    let length = listxattr(path, buffer.as_mut_slice()).unwrap();
    let names = buffer[..length].to_vec();
    let names = names.split(|byte| *byte == 0).filter(|it| !it.is_empty());
    let read = names.map(|name| {
        let length = getxattr(path, name, buffer.as_mut_slice()).unwrap();
        (name.to_vec(), buffer[..length].to_vec())
    });
    read.collect()
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Sets both times of anything, symlinks too.
fn touch(path: &Path, seconds: i64, nanoseconds: i64) {
    let time = rustix::fs::Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds,
    };
    let times = rustix::fs::Timestamps {
        last_access: time,
        last_modification: time,
    };
    let nofollow = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::utimensat(rustix::fs::CWD, path, &times, nofollow).unwrap();
}

/// Content that is not zeros, and not the same elsewhere.
fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    let byte = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state as u8) | 1
    };
    (0..length).map(byte).collect()
}
