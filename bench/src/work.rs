//! What is timed, run as an ordinary user: prints seconds.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::unwraps::direct;

const MIB: usize = 1 << 20;

/// How many unwraps are in flight, in both runs.
pub const IN_FLIGHT: usize = 16;

/// Runs one piece of work and prints how long it took.
pub fn run(words: &[&str]) -> Result<()> {
    let took = match words {
        ["write", file, mib] => write(Path::new(file), mib.parse()?)?,
        ["read", file] => read(Path::new(file))?,
        ["create", dir, count] => create(Path::new(dir), count.parse()?)?,
        ["stat", dir] => stat(Path::new(dir))?,
        ["unlink", dir] => unlink(Path::new(dir))?,
        ["walk", dir] => walk(Path::new(dir))?,
        ["open", dir] => open(Path::new(dir))?,
        ["direct", kind, label, count] => direct(kind, label, count.parse()?)?,
        _ => bail!("unknown work {words:?}"),
    };
    println!("{}", took.as_secs_f64());
    Ok(())
}

/// Sequential, 1 MiB a write, `sync` inside the timing.
fn write(file: &Path, mib: usize) -> Result<Duration> {
    let block: Vec<u8> = (0..MIB)
        .map(|n| ((n * 2_654_435_761) >> 11) as u8)
        .collect();
    let begun = Instant::now();
    let mut out = File::create(file).with_context(|| file.display().to_string())?;
    for _ in 0..mib {
        out.write_all(&block)?;
    }
    out.sync_all()?;
    drop(out);
    nix::unistd::sync();
    Ok(begun.elapsed())
}

fn read(file: &Path) -> Result<Duration> {
    let mut block = vec![0; MIB];
    let begun = Instant::now();
    let mut file = File::open(file)?;
    while file.read(&mut block)? > 0 {}
    Ok(begun.elapsed())
}

/// New files of 4 KiB, `sync` inside the timing.
fn create(dir: &Path, count: usize) -> Result<Duration> {
    let contents = [b'x'; 4096];
    let begun = Instant::now();
    fs::create_dir(dir)?;
    for number in 0..count {
        let path = dir.join(format!("file-{number:05}"));
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(path)?
            .write_all(&contents)?;
    }
    nix::unistd::sync();
    Ok(begun.elapsed())
}

fn stat(dir: &Path) -> Result<Duration> {
    let begun = Instant::now();
    for entry in fs::read_dir(dir)? {
        fs::symlink_metadata(entry?.path())?;
    }
    Ok(begun.elapsed())
}

fn unlink(dir: &Path) -> Result<Duration> {
    let begun = Instant::now();
    for path in paths(dir)? {
        fs::remove_file(path)?;
    }
    fs::remove_dir(dir)?;
    nix::unistd::sync();
    Ok(begun.elapsed())
}

/// Reads every file once.
fn walk(dir: &Path) -> Result<Duration> {
    let begun = Instant::now();
    for path in paths(dir)? {
        fs::read(path)?;
    }
    Ok(begun.elapsed())
}

/// Opens every file once, [`IN_FLIGHT`] at a time.
fn open(dir: &Path) -> Result<Duration> {
    let paths = paths(dir)?;
    let next = AtomicUsize::new(0);
    let begun = Instant::now();
    thread::scope(|scope| {
        let open_next = || -> Result<()> {
            while let Some(path) = paths.get(next.fetch_add(1, Ordering::Relaxed)) {
                File::open(path)?;
            }
            Ok(())
        };
        let threads: Vec<_> = (0..IN_FLIGHT).map(|_| scope.spawn(open_next)).collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().expect("it does not panic"))
    })?;
    Ok(begun.elapsed())
}

fn paths(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir)?.map(|entry| Ok(entry?.path()));
    entries.collect()
}
