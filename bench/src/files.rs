//! Sequential data and many small files, against gocryptfs on the same fresh image; and sequential data of
//! an eCryptfs folder against a native volume.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use claviger_hw_tests::{User, World};

use crate::table::Table;

const ROUNDS: usize = 5;
const MIB: usize = 1024;
const FILES: usize = 5000;

/// Who is measured.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Who {
    Claviger,
    Gocryptfs,
    /// A folder of eCryptfs, mounted by Claviger.
    Ecryptfs,
}

/// One round's figures of sequential data, in MB/s.
struct Sequential {
    write: f64,
    read_cold: f64,
    read_warm: f64,
}

/// One round's figures, in MB/s and files/s.
struct Figures {
    sequential: Sequential,
    create: f64,
    stat: f64,
    unlink: f64,
}

/// Measures both and adds the rows.
pub fn measure(world: &mut World, table: &mut Table) -> Result<()> {
    let alice = world.user("alice");
    let disk = world.ext4("8G");
    alice.own(&disk);
    let mut ours = Vec::new();
    let mut theirs = Vec::new();
    let mut ecryptfs = Vec::new();
    for round in 0..ROUNDS {
        let order = [Who::Claviger, Who::Gocryptfs];
        // Alternated, so that neither always has the fresher disk.
        for who in order.into_iter().cycle().skip(round % 2).take(2) {
            let figures = run(&alice, &disk, who)?;
            match who {
                Who::Gocryptfs => theirs.push(figures),
                Who::Claviger | Who::Ecryptfs => ours.push(figures),
            }
        }
        mount(&alice, &disk, Who::Ecryptfs);
        ecryptfs.push(sequential(&alice, &disk)?);
        unmount(&alice, &disk, Who::Ecryptfs);
    }
    type Pick = fn(&Figures) -> f64;
    let rows: [(&str, &str, Pick); 6] = [
        ("sequential write, 1 GiB", "MB/s", |figures| {
            figures.sequential.write
        }),
        ("sequential read, cold", "MB/s", |figures| {
            figures.sequential.read_cold
        }),
        ("sequential read, warm", "MB/s", |figures| {
            figures.sequential.read_warm
        }),
        ("create 5,000 files of 4 KiB", "files/s", |figures| {
            figures.create
        }),
        ("stat 5,000 files, cold", "files/s", |figures| figures.stat),
        ("unlink 5,000 files", "files/s", |figures| figures.unlink),
    ];
    for (what, unit, pick) in rows {
        let rounds: Vec<(f64, f64)> = ours
            .iter()
            .zip(&theirs)
            .map(|(ours, theirs)| (pick(ours), pick(theirs)))
            .collect();
        table.add(what, unit, "gocryptfs", 1.0, &rounds);
    }
    type PickSequential = fn(&Sequential) -> f64;
    let rows: [(&str, PickSequential); 2] = [
        ("eCryptfs folder: sequential write, 1 GiB", |it| it.write),
        ("eCryptfs folder: sequential read, cold", |it| it.read_cold),
    ];
    for (what, pick) in rows {
        let rounds: Vec<(f64, f64)> = ecryptfs
            .iter()
            .zip(&ours)
            .map(|(ecryptfs, native)| (pick(ecryptfs), pick(&native.sequential)))
            .collect();
        table.add(what, "MB/s", "native", 0.5, &rounds);
    }
    Ok(())
}

fn run(alice: &User, disk: &Path, who: Who) -> Result<Figures> {
    let mount = mount(alice, disk, who);
    let small = mount.join("small");
    let files = FILES as f64;
    let seconds = |words: &[&str]| -> Result<f64> { work(alice, words) };
    let sequential = sequential(alice, disk)?;
    let create = seconds(&["create", text(&small), &FILES.to_string()])?;
    drop_caches()?;
    let stat = seconds(&["stat", text(&small)])?;
    let unlink = seconds(&["unlink", text(&small)])?;
    unmount(alice, disk, who);
    Ok(Figures {
        sequential,
        create: files / create,
        stat: files / stat,
        unlink: files / unlink,
    })
}

fn sequential(alice: &User, disk: &Path) -> Result<Sequential> {
    let big = disk.join("mount/big");
    let mb = (MIB * 1_048_576) as f64 / 1e6;
    let write = work(alice, &["write", text(&big), &MIB.to_string()])?;
    drop_caches()?;
    let read_cold = work(alice, &["read", text(&big)])?;
    let read_warm = work(alice, &["read", text(&big)])?;
    Ok(Sequential {
        write: mb / write,
        read_cold: mb / read_cold,
        read_warm: mb / read_warm,
    })
}

fn mount(alice: &User, disk: &Path, who: Who) -> PathBuf {
    let (lower, mount) = (disk.join("lower"), disk.join("mount"));
    let secret = alice.write("passphrase", "correct horse battery staple\n");
    let secret = text(&secret);
    alice.run("mkdir", [&mount]).ok();
    match who {
        Who::Ecryptfs => {
            alice.run("mkdir", [&lower]).ok();
            alice
                .claviger([
                    "mount",
                    "--format",
                    "ecryptfs",
                    "--passphrase-file",
                    secret,
                    text(&lower),
                    text(&mount),
                ])
                .ok();
        }
        Who::Claviger => {
            alice
                .claviger([
                    "init",
                    "--no-recovery",
                    "--passphrase-file",
                    secret,
                    text(&lower),
                ])
                .ok();
            alice
                .claviger(["unlock", "--passphrase-file", secret, text(&lower)])
                .ok();
            alice.claviger(["mount", text(&lower), text(&mount)]).ok();
        }
        Who::Gocryptfs => {
            alice.run("mkdir", [&lower]).ok();
            alice
                .run(
                    "gocryptfs",
                    ["-q", "-init", "-passfile", secret, text(&lower)],
                )
                .ok();
            alice
                .run(
                    "gocryptfs",
                    ["-q", "-passfile", secret, text(&lower), text(&mount)],
                )
                .ok();
        }
    }
    mount
}

fn unmount(alice: &User, disk: &Path, who: Who) {
    let mount = disk.join("mount");
    match who {
        Who::Claviger | Who::Ecryptfs => alice.claviger(["umount", text(&mount)]).ok(),
        Who::Gocryptfs => alice.run("fusermount3", ["-u", text(&mount)]).ok(),
    };
    alice
        .run("rm", ["-rf", text(&disk.join("lower")), text(&mount)])
        .ok();
}

/// Runs a piece of work as the user; how many seconds it took.
pub(crate) fn work(alice: &User, words: &[&str]) -> Result<f64> {
    let program = std::env::current_exe()?;
    let name = program.file_name().context("a program has a name")?;
    let program = Path::new("/run/programs").join(name);
    let said = alice.run(program, [&["work"], words].concat()).ok();
    said.trim()
        .parse()
        .with_context(|| format!("{words:?} said '{said}'"))
}

pub(crate) fn drop_caches() -> Result<()> {
    nix::unistd::sync();
    fs::write("/proc/sys/vm/drop_caches", "3").context("dropping caches")
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("paths of ours are UTF-8")
}
