//! Folders that are measured against each other on one fresh image, and running work in them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use claviger_hw_tests::User;

/// Whose folder is measured.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Who {
    Claviger,
    Gocryptfs,
    /// A folder of eCryptfs, mounted by Claviger.
    Ecryptfs,
}

/// Claviger and gocryptfs, alternated so that neither always has the fresher disk.
pub(crate) fn alternated(round: usize) -> impl Iterator<Item = Who> {
    let order = [Who::Claviger, Who::Gocryptfs];
    order.into_iter().cycle().skip(round % 2).take(2)
}

/// Makes a folder and mounts it.
pub(crate) fn mount(user: &User, disk: &Path, who: Who) -> PathBuf {
    let (lower, mount) = (disk.join("lower"), disk.join("mount"));
    let secret = user.write("passphrase", "correct horse battery staple\n");
    let secret = text(&secret);
    user.run("mkdir", [&mount]).ok();
    match who {
        Who::Ecryptfs => {
            user.run("mkdir", [&lower]).ok();
            user.claviger([
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
            user.claviger([
                "init",
                "--no-recovery",
                "--passphrase-file",
                secret,
                text(&lower),
            ])
            .ok();
            user.claviger(["unlock", "--passphrase-file", secret, text(&lower)])
                .ok();
            user.claviger(["mount", text(&lower), text(&mount)]).ok();
        }
        Who::Gocryptfs => {
            user.run("mkdir", [&lower]).ok();
            user.run(
                "gocryptfs",
                ["-q", "-init", "-passfile", secret, text(&lower)],
            )
            .ok();
            user.run(
                "gocryptfs",
                ["-q", "-passfile", secret, text(&lower), text(&mount)],
            )
            .ok();
        }
    }
    mount
}

/// Unmounts it, and leaves nothing of it.
pub(crate) fn unmount(user: &User, disk: &Path, who: Who) {
    let mount = disk.join("mount");
    match who {
        Who::Claviger | Who::Ecryptfs => user.claviger(["umount", text(&mount)]).ok(),
        Who::Gocryptfs => user.run("fusermount3", ["-u", text(&mount)]).ok(),
    };
    user.run("rm", ["-rf", text(&disk.join("lower")), text(&mount)])
        .ok();
}

/// Runs a piece of work as the user; how many seconds it took.
pub(crate) fn work(user: &User, words: &[&str]) -> Result<f64> {
    let program = std::env::current_exe()?;
    let name = program.file_name().context("a program has a name")?;
    let program = Path::new("/run/programs").join(name);
    let said = user.run(program, [&["work"], words].concat()).ok();
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
