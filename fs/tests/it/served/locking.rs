//! What a lock takes away, and an unlock brings back.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use claviger_hw_tests::wait_until;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::daemon::Daemon;
use super::example;
use super::volume::Volume;
use crate::namespaces::isolated;

/// 10 seconds until the wipe, 2 for the kernel, and what a busy machine adds.
const LOCK_LIMIT: Duration = Duration::from_secs(15);

fn errno<T>(result: std::io::Result<T>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

#[test]
fn after_a_lock_open_files_and_names_answer_enokey_and_an_unlock_brings_them_back() {
    isolated!();
    let volume = Volume::make();
    let (_mounted, mut daemon) = volume.mount_unlocked();
    let path = volume.path("file");
    fs::write(&path, "content").unwrap();
    let open = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .unwrap();
    let mut content = [0; 7];
    open.read_exact_at(&mut content, 0).unwrap();

    assert_eq!(daemon.lock(), 0);

    // The kernel had both in its caches a moment ago.
    assert_eq!(
        errno(open.read_exact_at(&mut content, 0)),
        Some(libc::ENOKEY)
    );
    assert_eq!(errno(fs::metadata(&path)), Some(libc::ENOKEY));
    assert_eq!(errno(open.write_at(b"more", 0)), Some(libc::ENOKEY));
    assert_eq!(errno(File::open(&path)), Some(libc::ENOKEY));
    assert_eq!(errno(File::create(volume.path("new"))), Some(libc::ENOKEY));
    assert_eq!(errno(fs::read_dir(&volume.mountpoint)), Some(libc::ENOKEY));

    daemon.unlock();
    volume.wait_unlocked();
    assert_eq!(fs::read_to_string(&path).unwrap(), "content");
    fs::write(volume.path("new"), "as before").unwrap();
    // What was open then stays dead: its program must not find itself writing again unawares.
    assert_eq!(errno(open.write_at(b"more", 0)), Some(libc::ENOKEY));
}

#[test]
fn what_was_written_before_a_lock_is_there_after_it() {
    isolated!();
    let volume = Volume::make();
    let (_mounted, mut daemon) = volume.mount_unlocked();
    let mut files: Vec<(usize, File)> = (0..20)
        .map(|n| (n, File::create(volume.path(&n.to_string())).unwrap()))
        .collect();
    for (n, file) in &mut files {
        file.write_all(&vec![*n as u8; 10_000 * (*n + 1)]).unwrap();
    }
    assert_eq!(daemon.lock(), 0);
    daemon.unlock();
    volume.wait_unlocked();
    for (n, _) in &files {
        let content = fs::read(volume.path(&n.to_string())).unwrap();
        assert_eq!(content.len(), 10_000 * (n + 1));
        assert!(content.iter().all(|byte| usize::from(*byte) == *n));
    }
}

#[test]
fn every_write_that_succeeded_is_there_although_the_lock_came_in_between() {
    isolated!();
    let volume = Volume::make();
    let (_mounted, mut daemon) = volume.mount_unlocked();
    let path = |n: usize| volume.path(&n.to_string());
    let writers: Vec<_> = (0..4)
        .map(|n| {
            let mut file = File::create(path(n)).unwrap();
            std::thread::spawn(move || {
                let mut written = 0;
                while let Ok(n) = file.write(&[b'x'; 1000]) {
                    written += n as u64;
                }
                written
            })
        })
        .collect();
    wait_until("written to", || {
        (0..4).all(|n| fs::metadata(path(n)).unwrap().len() > 0)
    });
    daemon.lock();
    let written: Vec<u64> = writers
        .into_iter()
        .map(|writer| writer.join().unwrap())
        .collect();
    daemon.unlock();
    volume.wait_unlocked();
    for (n, written) in written.into_iter().enumerate() {
        let content = fs::read(path(n)).unwrap();
        assert_eq!(content.len() as u64, written);
        assert!(content.iter().all(|byte| *byte == b'x'));
    }
}

/// Stops a process, and lets it go on at the end.
struct Stopped(Pid);

impl Stopped {
    fn stop(process: &Child) -> Self {
        let pid = Pid::from_raw(process.id().try_into().unwrap());
        kill(pid, Signal::SIGSTOP).unwrap();
        Self(pid)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        kill(self.0, Signal::SIGCONT).unwrap();
    }
}

#[test]
fn a_lower_filesystem_that_hangs_cannot_keep_a_volume_from_being_locked() {
    isolated!();
    // A lower filesystem that can be made to hang: the mount of another volume.
    let below = Volume::make();
    let (below_mounted, daemon) = below.mount_unlocked();
    let volume = Volume::make_over(below.path("lower"));
    drop(daemon);
    let both = [&below, &volume].map(|volume| fs::read(volume.key_file()).unwrap());
    fs::write(volume.key_file(), both.concat()).unwrap();
    let mut daemon = Daemon::start(&volume.key_file());
    let manifest = volume.lower.join(".claviger/volume.toml");
    wait_until("served below", || fs::read(&manifest).is_ok());
    let mounted = volume.mount();
    daemon.unlock();
    volume.wait_unlocked();
    let path = volume.path("file");
    fs::write(&path, "synced").unwrap();
    let mut file = OpenOptions::new().append(true).open(&path).unwrap();
    file.sync_all().unwrap();
    file.write_all(b", and not synced").unwrap();
    let stopped = Stopped::stop(&below_mounted.child);

    let begun = Instant::now();
    assert_eq!(daemon.lock(), 1, "files that lost their last writes");
    assert!(begun.elapsed() < LOCK_LIMIT, "{:?}", begun.elapsed());
    assert_eq!(errno(file.write(b"more")), Some(libc::ENOKEY));
    assert_eq!(errno(fs::metadata(&path)), Some(libc::ENOKEY));

    drop(stopped);
    daemon.unlock();
    volume.wait_unlocked();
    wait_until("let go of", || fs::read(&path).is_ok());
    assert!(fs::read_to_string(&path).unwrap().starts_with("synced"));
    drop(mounted);
}

#[test]
fn a_program_that_has_a_file_mapped_gets_sigbus_after_the_lock() {
    isolated!();
    let volume = Volume::make();
    let (_mounted, mut daemon) = volume.mount_unlocked();
    let path = volume.path("mapped");
    fs::write(&path, vec![b'x'; 8192]).unwrap();
    let mut program = Command::new(example("map_file"))
        .arg(&path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(program.stdout.take().unwrap());
    expect_line(&mut said, "first look: x");
    daemon.lock();
    program.stdin.take().unwrap().write_all(b"\n").unwrap();
    let mut rest = String::new();
    said.read_to_string(&mut rest).unwrap();
    assert!(!rest.contains("second look"), "{rest}");
    let status = program.wait().unwrap();
    assert_eq!(status.signal(), Some(libc::SIGBUS), "{status}");
}

#[test]
fn a_program_that_keeps_reading_sees_nothing_after_the_lock() {
    isolated!();
    let volume = Volume::make();
    let (_mounted, mut daemon) = volume.mount_unlocked();
    let path = volume.path("file");
    fs::write(&path, vec![b'x'; 1 << 20]).unwrap();
    let readers: Vec<_> = (0..3)
        .map(|_| {
            let file = File::open(&path).unwrap();
            std::thread::spawn(move || {
                let mut page = [0; 4096];
                let mut at = 0;
                // Until the first refusal; from then on every read must be refused.
                while file.read_exact_at(&mut page, at).is_ok() {
                    at = (at + 4096) % (1 << 20);
                }
                file
            })
        })
        .collect();
    daemon.lock();
    for reader in readers {
        let file = reader.join().unwrap();
        for block in 0..256 {
            let refused = errno(file.read_exact_at(&mut [0; 4096], block * 4096));
            assert_eq!(refused, Some(libc::ENOKEY), "block {block} is still cached");
        }
    }
}

#[test]
fn a_daemon_that_crashed_has_not_locked_and_its_successor_can() {
    isolated!();
    let volume = Volume::make();
    let (_mounted, daemon) = volume.mount_unlocked();
    let path = volume.path("file");
    fs::write(&path, "content").unwrap();
    let open = File::open(&path).unwrap();
    drop(daemon);

    // Gone is noticed in its own time: then there is nobody to make new files with.
    let mut names = 0..;
    let mut create = || {
        let name = names.next().map(|n: u32| n.to_string());
        File::create_new(volume.path(&name.unwrap()))
    };
    wait_until("without a daemon", || errno(create()) == Some(libc::ENOKEY));
    let mut content = [0; 7];
    open.read_exact_at(&mut content, 0).unwrap();
    assert!(fs::read_dir(&volume.mountpoint).unwrap().count() > 0);

    let mut successor = Daemon::start(&volume.key_file());
    successor.unlock();
    wait_until("served by the successor", || create().is_ok());
    successor.lock();
    assert_eq!(
        errno(open.read_exact_at(&mut content, 0)),
        Some(libc::ENOKEY)
    );
}

fn expect_line(said: &mut impl BufRead, expected: &str) {
    let mut line = String::new();
    while !line.trim_end().ends_with(expected) {
        line.clear();
        assert_ne!(
            said.read_line(&mut line).unwrap(),
            0,
            "never said {expected:?}"
        );
    }
}
