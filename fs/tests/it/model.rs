//! The model test: the same random operations on the mount and on a plain directory.

mod operation;
mod random;
mod tree;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use claviger_fs::filesystem::VolumeFs;
use claviger_fs::kernel::Kernel;
use claviger_vault::ids::Scope;
pub(crate) use operation::Operation;
use operation::{Handles, Side};
pub(crate) use random::Random;
use tree::compare;

use crate::mounted::{Age, Mounted};
use crate::namespaces::isolated_test;

/// How long it goes on.
const LIMIT: Duration = Duration::from_secs(5);
/// Operations between two looks at everything.
const BETWEEN_LOOKS: u32 = 25;
/// Looks between two remounts.
const BETWEEN_REMOUNTS: u32 = 8;

isolated_test! {
    fn a_mount_behaves_like_a_plain_directory() {
        behaves_like_a_plain_directory(Path::new("/mnt"), Age::Present, 1000);
    }
}

isolated_test! {
    /// Inode numbers are used again here, and syncs take their time.
    fn a_mount_behaves_like_a_plain_directory_of_the_disk() {
        let disk = tempfile::tempdir().unwrap();
        behaves_like_a_plain_directory(disk.path(), Age::Present, 100);
    }
}

isolated_test! {
    fn a_mount_behaves_like_a_plain_directory_on_the_oldest_kernel() {
        behaves_like_a_plain_directory(Path::new("/mnt"), Age::Linux5_10, 1000);
    }
}

/// A mount that is compared.
pub(crate) trait Subject {
    fn root(&self) -> &Path;
    fn fs(&self) -> &Arc<VolumeFs>;
    fn kernel(&self) -> &Kernel;
    /// Unmounts and mounts again.
    fn remount(&mut self);
    /// Takes the keys away.
    fn lock(&self);
    /// Gives them back.
    fn unlock(&self);
    /// Whether it does what a plain directory does.
    fn can(&self, operation: &Operation) -> bool;
}

impl Subject for Mounted {
    fn root(&self) -> &Path {
        self.root()
    }

    fn fs(&self) -> &Arc<VolumeFs> {
        &self.fs
    }

    fn kernel(&self) -> &Kernel {
        self.kernel()
    }

    fn remount(&mut self) {
        self.remount();
    }

    fn lock(&self) {
        self.keys.lock();
    }

    fn unlock(&self) {
        self.keys.unlock();
    }

    fn can(&self, _operation: &Operation) -> bool {
        true
    }
}

/// Compares a native volume in `base` with a plain folder there, for at least so many operations.
fn behaves_like_a_plain_directory(base: &Path, age: Age, at_least: u32) {
    let mounted = Mounted::make(&base.join("lower"), Scope::Volume, age);
    compare_with_plain(mounted, base, at_least);
}

/// Compares a mount with a plain folder in `base`, for at least so many operations.
pub(crate) fn compare_with_plain(mut mounted: impl Subject, base: &Path, at_least: u32) {
    let plain = base.join("plain");
    std::fs::create_dir(&plain).unwrap();
    let mut random = Random::seeded();
    let started = Instant::now();
    let mut done = 0_u32;
    while started.elapsed() < LIMIT {
        {
            let mut handles = Handles::default();
            for _ in 0..BETWEEN_REMOUNTS {
                for _ in 0..BETWEEN_LOOKS {
                    step(&mut random, &mut handles, &mounted, &plain, &mut done);
                }
                compare(mounted.root(), &plain);
            }
        }
        if random.one_in(2) {
            mounted.remount();
        } else {
            lock_and_unlock(&mounted);
        }
        compare(mounted.root(), &plain);
    }
    println!("{done} operations");
    assert!(done >= at_least, "only {done} operations in {LIMIT:?}");
}

fn step(
    random: &mut Random,
    handles: &mut Handles,
    mounted: &impl Subject,
    plain: &Path,
    done: &mut u32,
) {
    let operation = Operation::any(random, handles.len());
    if !mounted.can(&operation) {
        return;
    }
    let ours = operation.run(Side::Upper, mounted.root(), handles.upper());
    let theirs = operation.run(Side::Plain, plain, handles.plain());
    assert_eq!(ours, theirs, "operation {done}: {operation:?}");
    *done += 1;
}

/// What a lock does, without the daemon: nothing is open by now.
fn lock_and_unlock(mounted: &impl Subject) {
    let fs = mounted.fs();
    fs.refuse_opens();
    let kernel = mounted.kernel();
    for ino in fs.open_inodes() {
        // The kernel may have forgotten it since.
        let _ = kernel.forget_pages(ino);
    }
    assert_eq!(fs.sync_all(), Vec::<Vec<u8>>::new());
    let names = fs.known_names();
    mounted.lock();
    assert_eq!(fs.close_all(), Vec::<Vec<u8>>::new());
    fs.wipe();
    // One that is gone by now is none that the kernel keeps.
    let _ = kernel.forget_names(&names);
    let refused = std::fs::read_dir(mounted.root()).map(drop);
    assert_eq!(refused.unwrap_err().raw_os_error(), Some(libc::ENOKEY));
    mounted.unlock();
    fs.accept_opens();
}
