//! What becomes of files when the filesystem's process meets a limit of its own.

use std::fs::{self, File};
use std::io::Write;
use std::process::Command;

use super::volume::{Mounted, Volume};
use crate::namespaces::isolated;

/// Changes what the process that serves the mount may use, by options of prlimit(1).
fn limit(mounted: &Mounted, option: &str) {
    let pid = mounted.child.id().to_string();
    let mut command = Command::new("prlimit");
    let limited = command.args(["--pid", &pid, option]).status();
    assert!(limited.unwrap().success(), "{option}");
}

#[test]
fn a_limit_on_file_sizes_is_an_error_and_not_the_end_of_the_mount() {
    isolated!();
    let volume = Volume::make();
    let (mut mounted, daemon) = volume.mount_unlocked();
    fs::write(volume.path("other"), "content").unwrap();
    limit(&mounted, "--fsize=1000000");
    let mut file = File::create(volume.path("file")).unwrap();
    file.write_all(&[1; 500_000]).unwrap();
    let refused = file.write_all(&[2; 2_000_000]).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EFBIG));
    let refused = file.set_len(5_000_000).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EFBIG));
    file.sync_all().unwrap();
    drop(file);
    for _ in 0..2 {
        let content = fs::read(volume.path("file")).unwrap();
        let (ours, more) = content.split_at(500_000);
        assert!(ours.iter().all(|octet| *octet == 1));
        assert!(
            more.iter().all(|octet| *octet == 2),
            "{} octets more",
            more.len()
        );
        assert_eq!(fs::read(volume.path("other")).unwrap(), b"content");
        drop(mounted);
        mounted = volume.mount();
        volume.wait_unlocked();
    }
    drop(daemon);
}

#[test]
fn what_was_done_before_and_after_descriptors_ran_out_is_there() {
    isolated!();
    let volume = Volume::make();
    let (mounted, mut daemon) = volume.mount_unlocked();
    fs::create_dir(volume.path("dir")).unwrap();
    let open = fs::read_dir(format!("/proc/{}/fd", mounted.child.id()))
        .unwrap()
        .count();
    let mut files = Vec::new();
    let mut refused = 0;
    for spare in [0, 1, 2, 3, 5, 8, 40] {
        limit(&mounted, &format!("--nofile={}:", open + spare));
        let mut held = Vec::new();
        for number in 0..30 {
            let (made, name) = (format!("{spare} {number}"), format!("dir/{spare} {number}"));
            let done = File::create(volume.path(&made)).and_then(|mut file| {
                file.write_all(name.as_bytes())?;
                if number % 3 == 0 {
                    file.sync_all()?;
                }
                held.push(file);
                Ok(())
            });
            match done {
                Ok(()) => {
                    let long = format!("dir/{:0200}", number + 100 * spare);
                    let name_now = match number % 4 {
                        0 => fs::rename(volume.path(&made), volume.path(&name))
                            .map(|()| name.clone()),
                        1 => fs::hard_link(volume.path(&made), volume.path(&name))
                            .map(|()| name.clone()),
                        2 => fs::rename(volume.path(&made), volume.path(&long)).map(|()| long),
                        _ => fs::create_dir(volume.path(&name)).map(|()| made.clone()),
                    };
                    refused += u32::from(name_now.is_err());
                    files.push((name_now.unwrap_or(made), name));
                }
                Err(error) => {
                    assert!(
                        [libc::EMFILE, libc::EIO].contains(&error.raw_os_error().unwrap()),
                        "{error}"
                    );
                    refused += 1;
                }
            }
        }
    }
    assert!(refused > 0, "there were enough");
    limit(&mounted, "--nofile=10000:");
    assert_eq!(daemon.lock(), 0);
    daemon.unlock();
    volume.wait_unlocked();
    for (name, content) in &files {
        let found = fs::read_to_string(volume.path(name));
        assert!(
            found.as_ref().is_ok_and(|found| found == content),
            "{name}: {found:?}"
        );
    }
    for entry in fs::read_dir(volume.path("dir")).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            assert_eq!(fs::read_dir(entry.path()).unwrap().count(), 0);
        }
    }
}
