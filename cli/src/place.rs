//! From what a user names, a volume's folder or one of its mount points, to the folder.

use std::fs;
use std::path::{Path, PathBuf};

use claviger_callout::published;
use claviger_protocol::failure::ExitCode;
use claviger_protocol::{mount_table, paths};

use crate::Failed;

/// The type of our mounts in /proc/self/mountinfo.
const FILESYSTEM_TYPE: &[u8] = b"fuse.claviger";

/// The lower folder that `place` means: itself, or what is mounted there.
///
/// # Errors
/// [`Failed`] if there is nothing at `place`.
pub fn lower_folder(place: &Path) -> Result<PathBuf, Failed> {
    if let Some(mount) = mount_at(place)? {
        return in_utf8(mount.lower);
    }
    let folder = place
        .canonicalize()
        .map_err(|error| Failed::file(place, &error))?;
    if folder.is_dir() {
        return in_utf8(folder);
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
        return in_utf8(canonical);
    }
    in_utf8(std::path::absolute(dir).map_err(|error| Failed::file(dir, &error))?)
}

/// `path`, if the daemon can be told of it: it says it to people and programs again, in UTF-8. Names of files in a
/// volume may be anything.
fn in_utf8(path: PathBuf) -> Result<PathBuf, Failed> {
    match path.to_str() {
        Some(_) => Ok(path),
        None => Err(Failed::usage(format!(
            "{}: the path of a volume or key must be UTF-8",
            path.display()
        ))
        .advise("Rename the folder, or that in which it lies")),
    }
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
    let unreadable = |error| Failed::file(Path::new("/proc/self/mountinfo"), &error);
    let mut mounts = ours(mount_table::read().map_err(unreadable)?);
    let told: Vec<Mounted> = told().collect();
    for mount in &mut mounts {
        mount.correct(&told);
    }
    Ok(mounts)
}

/// Whether a filesystem tells of itself that a daemon of this user can reach.
pub(crate) fn any_is_told() -> bool {
    told().next().is_some()
}

/// Those of a table of mounts that are ours. The lower folder is what the table says: the option `fsname` lets
/// it say anything.
pub(crate) fn ours(table: impl IntoIterator<Item = mount_table::Mounted>) -> Vec<Mounted> {
    let ours = table
        .into_iter()
        .filter(|mount| mount.kind == FILESYSTEM_TYPE);
    let mounted = ours.map(|mount| Mounted {
        mountpoint: mount.mountpoint,
        lower: mount.source,
    });
    mounted.collect()
}

/// What our filesystems tell of themselves. Another user's can be found in the table only.
fn told() -> impl Iterator<Item = Mounted> {
    let folders = [paths::own_requesters(), paths::system_requesters().into()];
    let published = folders
        .into_iter()
        .flat_map(|folder| published(&folder).unwrap_or_default());
    published.filter_map(|mut published| {
        Some(Mounted {
            mountpoint: published.about.remove("mountpoint")?.into(),
            lower: published.about.remove("lower")?.into(),
        })
    })
}

impl Mounted {
    /// Takes the lower folder from what was told, if that is of one mind: a filesystem that was killed may
    /// have left behind what it told of another mount at this place.
    fn correct(&mut self, told: &[Mounted]) {
        let mut of_this = told
            .iter()
            .filter(|told| told.mountpoint == self.mountpoint);
        if let Some(first) = of_this.next()
            && of_this.all(|other| other.lower == first.lower)
        {
            self.lower.clone_from(&first.lower);
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn mounted(mountpoint: &str, lower: &str) -> Mounted {
        Mounted {
            mountpoint: mountpoint.into(),
            lower: lower.into(),
        }
    }

    #[test]
    fn a_mount_of_ours_is_told_from_others() {
        let table = br"62 31 0:50 / /home/a/my\040files rw,nosuid - fuse.claviger /home/a/C\043x rw
63 31 0:51 / /mnt rw - ext4 /dev/vda rw
nonsense
70 31 0:52 / /home/a/Private rw - ecryptfs /home/a/.Private rw,ecryptfs_sig=1";
        assert_eq!(
            ours(mount_table::parse(table)),
            [mounted("/home/a/my files", "/home/a/C#x")]
        );
    }

    #[test]
    fn the_lower_folder_is_what_the_filesystem_tells_whatever_the_table_calls_it() {
        let lower = |told: &[Mounted]| {
            let mut mount = mounted("/mnt", "team");
            mount.correct(told);
            mount.lower
        };
        let (here, elsewhere) = (mounted("/mnt", "/srv/team"), mounted("/home", "/srv/home"));
        assert_eq!(lower(&[elsewhere, here]), Path::new("/srv/team"));
        assert_eq!(lower(&[]), Path::new("team"));
        let (one, other) = (mounted("/mnt", "/srv/team"), mounted("/mnt", "/srv/old"));
        assert_eq!(lower(&[one, other]), Path::new("team"));
    }
}
