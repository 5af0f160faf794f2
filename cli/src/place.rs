//! From what a user names, a volume's folder or one of its mount points, to the folder.

use std::fs;
use std::path::{Path, PathBuf};

use claviger_protocol::failure::ExitCode;

use crate::Failed;

/// The type of our mounts in /proc/self/mountinfo.
const FILESYSTEM_TYPE: &str = "fuse.claviger";

/// The lower folder that `place` means: itself, or what is mounted there.
///
/// # Errors
/// [`Failed`] if there is nothing at `place`.
pub fn lower_folder(place: &Path) -> Result<PathBuf, Failed> {
    if let Some(mount) = mount_at(place)? {
        return Ok(mount.lower);
    }
    let folder = place
        .canonicalize()
        .map_err(|error| Failed::file(place, &error))?;
    if folder.is_dir() {
        return Ok(folder);
    }
    Err(Failed::new(
        ExitCode::NotFound,
        format!("{} is not a folder", place.display()),
    ))
}

/// The folder `dir` made absolute; it need not exist.
///
/// # Errors
/// [`Failed`] if the current folder is gone.
pub fn absolute(dir: &Path) -> Result<PathBuf, Failed> {
    if let Ok(canonical) = dir.canonicalize() {
        return Ok(canonical);
    }
    std::path::absolute(dir).map_err(|error| Failed::file(dir, &error))
}

/// A lower folder that is mounted.
#[derive(Debug, PartialEq, Eq)]
pub struct Mounted {
    /// Where.
    pub mountpoint: PathBuf,
    /// Of which lower folder.
    pub lower: PathBuf,
}

/// The mount of ours that is on top at `place`.
///
/// # Errors
/// [`Failed`] if /proc is not there.
pub fn mount_at(place: &Path) -> Result<Option<Mounted>, Failed> {
    let mut newest_first = mounts()?.into_iter().rev();
    Ok(newest_first.find(|mount| is_same(&mount.mountpoint, place)))
}

/// All mounts of ours in this mount namespace, oldest first.
///
/// # Errors
/// [`Failed`] if /proc is not there.
pub fn mounts() -> Result<Vec<Mounted>, Failed> {
    let path = Path::new("/proc/self/mountinfo");
    let text = fs::read_to_string(path).map_err(|error| Failed::file(path, &error))?;
    Ok(text.lines().filter_map(parse_mount).collect())
}

/// Parses a line of mountinfo (proc_pid_mountinfo(5)), if it is of a mount of ours:
/// `id parent major:minor root mountpoint options… - type source super-options`.
pub(crate) fn parse_mount(line: &str) -> Option<Mounted> {
    let (before, after) = line.split_once(" - ")?;
    let mut after = after.split(' ');
    if after.next()? != FILESYSTEM_TYPE {
        return None;
    }
    Some(Mounted {
        mountpoint: unescape(before.split(' ').nth(4)?).into(),
        lower: unescape(after.next()?).into(),
    })
}

/// Not canonicalize(): that asks the filesystem, which may be hung or locked. readlink(2) does not: the kernel
/// knows that the root of a mount is no link.
fn is_same(mountpoint: &Path, place: &Path) -> bool {
    let place = match fs::read_link(place) {
        Ok(target) => place.parent().unwrap_or(place).join(target),
        Err(_) => place.to_owned(),
    };
    std::path::absolute(&place).is_ok_and(|place| place == mountpoint)
        || place
            .parent()
            .and_then(|parent| parent.canonicalize().ok())
            .zip(place.file_name())
            .is_some_and(|(parent, name)| parent.join(name) == mountpoint)
}

/// Undoes the octal escapes of space, tab, newline and backslash.
pub(crate) fn unescape(text: &str) -> String {
    ["\\040", "\\011", "\\012", "\\134"]
        .into_iter()
        .zip([" ", "\t", "\n", "\\"])
        .fold(text.to_owned(), |text, (escape, plain)| {
            text.replace(escape, plain)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_of_ours_is_told_from_others() {
        let ours = r"62 31 0:50 / /home/a/my\040files rw,nosuid - fuse.claviger /home/a/Private rw";
        assert_eq!(
            parse_mount(ours),
            Some(Mounted {
                mountpoint: "/home/a/my files".into(),
                lower: "/home/a/Private".into()
            })
        );
        assert_eq!(parse_mount("62 31 0:50 / /mnt rw - ext4 /dev/vda rw"), None);
        assert_eq!(parse_mount("nonsense"), None);
        let kernels =
            "70 31 0:52 / /home/a/Private rw - ecryptfs /home/a/.Private rw,ecryptfs_sig=1";
        assert_eq!(parse_mount(kernels), None);
    }
}
