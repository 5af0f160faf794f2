//! What becomes of a crowd's files, undisturbed, and when the volume is locked or its filesystem killed.

use std::thread::sleep;
use std::time::Duration;

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
        crowd.check();
    }
    println!("{} things were done", crowd.done());
}
