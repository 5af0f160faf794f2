//! The lower folder of NEW, when both trees are about to be compared.

use std::path::{Path, PathBuf};

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use nix::unistd::syncfs;

use super::folder::Folder;
use super::object::Kind;

/// Writes everything out and has the kernel forget what it keeps in memory of the lower files, so that
/// they are read from the disk. It is asked, and not made to: dropping all caches is for root. What
/// cannot be opened is left out.
pub(super) fn forget(lower: &Path) {
    let Ok(root) = Folder::open(lower) else {
        return;
    };
    // Only what has been written out can be forgotten.
    let _ = syncfs(&root);
    // Paths, not descriptors: a folder may have more folders than descriptors last for.
    let mut paths = vec![PathBuf::new()];
    while let Some(path) = paths.pop() {
        let Ok(folder) = root.enter_all(&path) else {
            continue;
        };
        for name in folder.names().unwrap_or_default() {
            match folder.find(&name).ok().flatten().map(|it| it.kind) {
                Some(Kind::Directory) => paths.push(path.join(&name)),
                Some(Kind::File) => {
                    if let Ok(file) = folder.read(&name) {
                        let _ = posix_fadvise(file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
                    }
                }
                _ => {}
            }
        }
    }
}
