//! Reading and replacing it in the lower root.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;

use super::*;

/// A lower root with a stored volume in it.
struct Stored {
    folder: TempDir,
    manifest: Manifest,
    key: EpochKey,
}

impl Stored {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (manifest, key) = volume(vec![token(1)]);
        let stored = Self {
            folder,
            manifest,
            key,
        };
        stored.store().unwrap();
        stored
    }

    fn root(&self) -> OwnedFd {
        fs::File::open(self.folder.path()).unwrap().into()
    }

    fn file(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(RESERVED).join(name)
    }

    fn store(&self) -> Result<(), ManifestError> {
        self.manifest.store(&self.key, self.root())
    }

    fn load(&self) -> Result<Loaded, ManifestError> {
        load(self.root())
    }
}

fn content(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap()
}

#[test]
fn a_stored_manifest_is_there_twice_and_loads_from_its_primary() {
    let stored = Stored::new();
    let loaded = stored.load().unwrap();
    assert!(matches!(loaded.copy, Copy::Primary));
    assert_eq!(
        loaded.manifest.verify(&stored.key).unwrap(),
        stored.manifest
    );
    let copies = [NAME, "volume.toml.backup"].map(|name| content(stored.file(name)));
    assert_eq!(copies[0], copies[1]);
    let names = fs::read_dir(stored.folder.path().join(RESERVED)).unwrap();
    assert_eq!(names.count(), 2, "nothing else is left there");
}

#[test]
fn a_missing_or_damaged_primary_is_read_from_the_backup_and_said() {
    let stored = Stored::new();
    let whole = content(stored.file(NAME));
    for damaged in [
        "",
        &whole[..whole.len() / 2],
        &whole[..whole.len() - 1],
        "\u{0}",
    ] {
        fs::write(stored.file(NAME), damaged).unwrap();
        let loaded = stored.load().unwrap();
        assert!(matches!(loaded.copy, Copy::Backup { .. }), "{damaged:?}");
        assert_eq!(loaded.manifest.claims(), &stored.manifest);
    }
    fs::remove_file(stored.file(NAME)).unwrap();
    let loaded = stored.load().unwrap();
    assert!(matches!(
        loaded.copy,
        Copy::Backup {
            because: ManifestError::Missing
        }
    ));
    stored.store().unwrap();
    assert_eq!(content(stored.file(NAME)), whole);
}

#[test]
fn the_backup_never_hides_a_newer_or_forged_primary() {
    let stored = Stored::new();
    let whole = content(stored.file(NAME));
    fs::write(stored.file(NAME), whole.replace("format = 0", "format = 1")).unwrap();
    assert!(matches!(stored.load(), Err(ManifestError::NewerFormat(1))));
    assert!(matches!(stored.store(), Err(ManifestError::NewerFormat(1))));
    fs::write(stored.file(NAME), whole.replace("card 1", "card 2")).unwrap();
    let loaded = stored.load().unwrap();
    assert!(matches!(loaded.copy, Copy::Primary));
    assert!(matches!(
        loaded.manifest.verify(&stored.key),
        Err(ManifestError::NotAuthentic)
    ));
}

#[test]
fn a_folder_that_is_not_a_volume_has_no_manifest() {
    let folder = tempfile::tempdir().unwrap();
    let root = || fs::File::open(folder.path()).unwrap();
    assert!(matches!(load(root()), Err(ManifestError::Missing)));
    fs::create_dir(folder.path().join(RESERVED)).unwrap();
    assert!(matches!(load(root()), Err(ManifestError::Missing)));
}

#[test]
fn with_both_copies_damaged_it_is_the_primary_s_damage_that_is_told() {
    let stored = Stored::new();
    fs::write(stored.file(NAME), "format = 0\nnonsense\n").unwrap();
    fs::write(stored.file("volume.toml.backup"), "").unwrap();
    assert!(matches!(
        stored.load(),
        Err(ManifestError::Malformed { line: 2, .. })
    ));
}

#[test]
fn a_manifest_larger_than_any_real_one_is_not_read_into_memory() {
    let stored = Stored::new();
    for name in [NAME, "volume.toml.backup"] {
        let file = fs::OpenOptions::new()
            .write(true)
            .open(stored.file(name))
            .unwrap();
        file.set_len(1 << 40).unwrap();
    }
    assert!(matches!(stored.load(), Err(ManifestError::TooLarge)));
}

#[test]
fn of_two_changes_made_at_once_the_second_to_be_stored_is_refused() {
    let stored = Stored::new();
    let change = |byte| {
        let mut manifest = stored.manifest.clone();
        manifest
            .add_recipient(&stored.key, token(byte), wrap)
            .unwrap();
        manifest
    };
    let (one, other) = (change(2), change(3));
    one.store(&stored.key, stored.root()).unwrap();
    let conflict = other.store(&stored.key, stored.root());
    assert!(matches!(conflict, Err(ManifestError::Conflict)));
    assert!(
        matches!(stored.store(), Err(ManifestError::Conflict)),
        "nor does it go back"
    );
    assert_eq!(stored.load().unwrap().manifest.claims(), &one);
}

#[test]
fn a_manifest_that_somebody_keeps_locked_is_not_waited_for_without_end() {
    let stored = Stored::new();
    let open = || OwnedFd::from(fs::File::open(stored.folder.path().join(RESERVED)).unwrap());
    let lock = || super::super::store::locked(open(), Duration::ZERO);
    let held = lock().unwrap();
    assert!(matches!(lock(), Err(ManifestError::Occupied)));
    drop(held);
    lock().unwrap();
}

#[test]
fn a_volume_is_not_made_over_another() {
    let stored = Stored::new();
    let (other, key) = volume(vec![token(2)]);
    assert!(matches!(
        other.store(&key, stored.root()),
        Err(ManifestError::Conflict)
    ));
}

#[test]
fn what_a_crash_left_of_a_replacement_is_no_obstacle() {
    let mut stored = Stored::new();
    fs::write(stored.file("volume.toml.new"), "half of a ma").unwrap();
    stored
        .manifest
        .add_recipient(&stored.key, token(2), wrap)
        .unwrap();
    stored.store().unwrap();
    assert_eq!(stored.load().unwrap().manifest.claims(), &stored.manifest);
    assert!(!stored.file("volume.toml.new").exists());
}

#[test]
fn symlinks_in_the_lower_root_are_not_followed() {
    let stored = Stored::new();
    let elsewhere = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(
        stored.folder.path().join(RESERVED),
        elsewhere.path().join(RESERVED),
    )
    .unwrap();
    let root = fs::File::open(elsewhere.path()).unwrap();
    assert!(matches!(load(&root), Err(ManifestError::Io(_))));
    assert!(matches!(
        stored.manifest.store(&stored.key, root),
        Err(ManifestError::Io(_))
    ));
}
