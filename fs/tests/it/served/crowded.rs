//! What becomes of a crowd's files, undisturbed, and when the volume is locked or its filesystem killed.

use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use nix::sys::statvfs::statvfs;

use super::crowd::{Crowd, Weather};
use super::volume::Volume;
use crate::namespaces::isolated;

/// How long they are left alone.
const CALM: Duration = Duration::from_secs(2);
const ROUGH: Duration = Duration::from_millis(300);

#[test]
fn a_crowd_finds_everything_as_it_left_it_through_locks_and_kills() {
    isolated!();
    let volume = Volume::make();
    let (mut mounted, mut daemon) = volume.mount_unlocked();
    let mut crowd = Crowd::new(&volume.mountpoint);
    crowd.work(Weather::Calm, || sleep(CALM));
    crowd.check();
    for _ in 0..4 {
        crowd.work(Weather::Rough, || {
            sleep(ROUGH);
            assert_eq!(daemon.lock(), 0);
        });
        daemon.unlock();
        volume.wait_unlocked();
        crowd.check();
    }
    for _ in 0..6 {
        crowd.work(Weather::Rough, || {
            sleep(ROUGH);
            mounted.child.kill().unwrap();
        });
        drop((mounted, daemon));
        (mounted, daemon) = volume.mount_unlocked();
        crowd.forget_what_was_written_over();
        crowd.check();
    }
    println!("{} things were done", crowd.done());
}

#[test]
fn a_crowd_on_a_full_disk_loses_nothing_when_its_filesystem_is_killed() {
    isolated!();
    let disk = Path::new("/mnt/disk");
    fs::create_dir(disk).unwrap();
    let none = MsFlags::empty();
    mount(Some("small"), disk, Some("tmpfs"), none, Some("size=8m")).unwrap();
    let volume = Volume::make_over(disk.join("lower"));
    let (mut mounted, mut daemon) = volume.mount_unlocked();
    let mut crowd = Crowd::new(&volume.mountpoint);
    for left in [0, 20_000, 200_000, 600_000] {
        let filler = disk.join("filler");
        let free = statvfs(disk).unwrap();
        let free = (free.blocks_available() * free.fragment_size()).saturating_sub(left);
        fs::write(&filler, vec![1; free as usize]).unwrap();
        crowd.work(Weather::Rough, || {
            sleep(ROUGH);
            mounted.child.kill().unwrap();
        });
        fs::remove_file(filler).unwrap();
        drop((mounted, daemon));
        (mounted, daemon) = volume.mount_unlocked();
        crowd.forget_what_was_written_over();
        crowd.check();
    }
}
