//! New files: made with keys that are at hand, of the epoch that is current.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::volume::Volume;
use crate::namespaces::isolated;

#[test]
fn keys_for_new_files_are_at_hand_before_the_first_create_and_never_run_out() {
    isolated!();
    let volume = Volume::make();
    let (_mounted, daemon) = volume.mount_unlocked();
    assert_eq!(daemon.expect("fresh "), "64");
    for n in 0..300 {
        File::create(volume.path(&n.to_string())).unwrap();
    }
    // More were ordered while half of the shelf was still full.
    assert!(daemon.expect("fresh ").parse::<u16>().unwrap() <= 40);
}

#[test]
fn what_is_made_after_a_new_epoch_is_sealed_under_it_although_other_keys_were_at_hand() {
    isolated!();
    let volume = Volume::make();
    let (_mounted, mut daemon) = volume.mount_unlocked();
    daemon.expect("fresh ");
    fs::write(volume.path("before"), "epoch 1").unwrap();
    let before = lower_files(&volume.lower);
    daemon.new_epoch();
    fs::write(volume.path("after"), "epoch 2").unwrap();

    let epochs = |files: &BTreeSet<PathBuf>| -> Vec<u32> {
        files.iter().map(|path| epoch_of(path)).collect()
    };
    let after = &lower_files(&volume.lower) - &before;
    assert_eq!(epochs(&before), [1]);
    assert_eq!(epochs(&after), [2]);
    assert_eq!(
        fs::read_to_string(volume.path("before")).unwrap(),
        "epoch 1"
    );
    assert_eq!(fs::read_to_string(volume.path("after")).unwrap(), "epoch 2");
}

/// Encrypted files in the lower root.
fn lower_files(lower: &Path) -> BTreeSet<PathBuf> {
    let entries = fs::read_dir(lower).unwrap().map(|entry| entry.unwrap());
    entries
        .filter(|entry| !entry.file_name().to_string_lossy().starts_with('.'))
        .map(|entry| entry.path())
        .collect()
}

/// The epoch that a file's key record A is sealed under: docs/format-volume.md.
fn epoch_of(file: &Path) -> u32 {
    let mut epoch = [0; 4];
    File::open(file)
        .unwrap()
        .read_exact_at(&mut epoch, 64)
        .unwrap();
    u32::from_le_bytes(epoch)
}
