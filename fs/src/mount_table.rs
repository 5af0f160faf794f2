//! What the table of mounts says of a mount point and of a lower folder.

use std::path::{Path, PathBuf};

use claviger_protocol::mount_table::Mounted;

/// The source of the FUSE filesystem that is mounted at `path`.
///
/// Other types are no hindrance: an empty root of a tmpfs is a fine place to mount on.
pub(crate) fn fuse_mount_at(
    path: &Path,
    mounts: impl IntoIterator<Item = Mounted>,
) -> Option<String> {
    let here = mounts.into_iter().filter(|mount| mount.mountpoint == path);
    let top = here
        .last()
        .filter(|mount| mount.kind.starts_with(b"fuse"))?;
    Some(top.source.to_string_lossy().into_owned())
}

/// Where the kernel's own eCryptfs has `lower` mounted, or a folder in it, or one that it is in.
///
/// `lower` is absolute and has no symbolic links.
pub(crate) fn kernel_ecryptfs_of(
    lower: &Path,
    mounts: impl IntoIterator<Item = Mounted>,
) -> Option<PathBuf> {
    let mut theirs = mounts.into_iter().filter(|mount| mount.kind == b"ecryptfs");
    let mount = theirs.find(|mount| {
        let source = mount.source.canonicalize();
        let source = source.as_ref().unwrap_or(&mount.source);
        source.starts_with(lower) || lower.starts_with(source)
    });
    mount.map(|mount| mount.mountpoint)
}

#[cfg(test)]
mod tests {
    use claviger_protocol::mount_table::parse;

    use super::*;

    #[test]
    fn only_the_topmost_mount_counts_and_only_if_it_is_fuse() {
        let table = b"\
            22 1 0:21 / /proc rw - proc proc rw\n\
            90 1 0:50 / /home/ann/my\\040files rw shared:9 - fuse.claviger /srv/a\\040b rw\n\
            91 1 0:51 / /mnt rw - fuse.sshfs host: rw\n\
            92 1 0:52 / /mnt rw - tmpfs none rw\n";
        let at = |path: &str| fuse_mount_at(Path::new(path), parse(table));
        assert_eq!(at("/home/ann/my files"), Some("/srv/a b".into()));
        assert_eq!(at("/mnt"), None);
        assert_eq!(at("/proc"), None);
        assert_eq!(at("/home"), None);
    }

    #[test]
    fn a_folder_that_shares_files_with_a_mount_of_the_kernels_is_told() {
        let table = b"\
            70 31 0:52 / /home/ann/Private rw - ecryptfs /home/ann/my\\040.Private rw,ecryptfs_sig=1\n\
            71 31 0:53 / /mnt rw - fuse.claviger /srv/other rw\n";
        let of = |lower: &str| kernel_ecryptfs_of(Path::new(lower), parse(table));
        let there = Some(PathBuf::from("/home/ann/Private"));
        assert_eq!(of("/home/ann/my .Private"), there);
        assert_eq!(of("/home/ann/my .Private/folder"), there);
        assert_eq!(of("/home/ann"), there);
        assert_eq!(of("/home/ann/my .Private2"), None);
        assert_eq!(of("/home/ann/Private"), None);
        assert_eq!(of("/srv/other"), None);
    }
}
