//! A disk for the lower folder whose power can be cut: a real filesystem on a loop device. What its
//! kernel has not written to the device by then is gone.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::unistd::syncfs;

/// Room for the journal and a few small files.
const LEN: u64 = 32 << 20;

/// A disk, mounted in the test's namespaces, with which mount and loop device go.
pub(crate) struct Disk {
    image: PathBuf,
    mounted: PathBuf,
}

impl Disk {
    /// A new one, empty.
    pub(crate) fn new() -> Self {
        let image = PathBuf::from("/mnt/disk");
        let file = File::create_new(&image).expect("the tmpfs is ours");
        file.set_len(LEN).expect("a hole takes no room");
        run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image));
        Self::mount(image)
    }

    /// Where it is mounted.
    pub(crate) fn root(&self) -> &Path {
        &self.mounted
    }

    /// Linux writes everything out, as it does sooner or later.
    pub(crate) fn writes_all_out(&self) {
        syncfs(File::open(&self.mounted).unwrap()).unwrap();
    }

    /// The power is cut right after the journal was committed, as it is every few seconds: names are as
    /// they were last, pages of files only if somebody has synced them.
    pub(crate) fn lose_power(&self) -> Self {
        let unrelated = File::create(self.mounted.join("unrelated")).unwrap();
        unrelated.sync_all().unwrap();
        let image = self.image.with_extension("after");
        fs::copy(&self.image, &image).unwrap();
        Self::mount(image)
    }

    fn mount(image: PathBuf) -> Self {
        let mounted = PathBuf::from(format!("{}.mounted", image.display()));
        fs::create_dir(&mounted).unwrap();
        // No commit but those that are asked for.
        let mut mount = Command::new("mount");
        run(mount
            .args(["-o", "loop,commit=300"])
            .args([&image, &mounted]));
        Self { image, mounted }
    }
}

fn run(command: &mut Command) {
    let output = command
        .output()
        .expect("e2fsprogs and util-linux are there");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
}
