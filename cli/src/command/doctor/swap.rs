//! Whether what is swapped out can be read off a disk.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use claviger_protocol::mount_table::unescape;
use nix::sys::stat::{major, minor};

use super::{Finding, Verdict, finding};

/// Where swapped memory goes, the better first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Medium {
    /// Memory, or a disk through dm-crypt.
    Safe,
    Unknown,
    Clear,
}

/// Keys are in locked memory, but what programs do with plaintext may be swapped out.
pub(super) fn swap() -> Finding {
    let swaps = fs::read_to_string("/proc/swaps").unwrap_or_default();
    let areas = areas(&swaps).map(|area| (medium(&area), area));
    let found: Vec<(Medium, PathBuf)> = areas.collect();
    let those = |wanted: Medium| {
        let those = found.iter().filter(|(medium, _)| *medium == wanted);
        let names: Vec<_> = those.map(|(_, area)| area.display().to_string()).collect();
        names.join(", ")
    };
    match found.iter().map(|(medium, _)| *medium).max() {
        None => finding("swap", Verdict::Good, "none"),
        Some(Medium::Safe) => finding("swap", Verdict::Good, "none that is not encrypted"),
        Some(Medium::Unknown) => finding(
            "swap",
            Verdict::Weak,
            format!(
                "{}: cannot tell whether it is encrypted",
                those(Medium::Unknown)
            ),
        ),
        Some(Medium::Clear) => finding(
            "swap",
            Verdict::Weak,
            format!(
                "{}: plaintext of open files may reach it; encrypt it",
                those(Medium::Clear)
            ),
        ),
    }
}

/// The devices and files in /proc/swaps: a heading, then `path type size used priority`.
fn areas(swaps: &str) -> impl Iterator<Item = PathBuf> {
    let lines = swaps.lines().skip(1);
    lines.filter_map(|line| Some(unescape(line.split_whitespace().next()?.as_bytes())))
}

fn medium(area: &Path) -> Medium {
    let numbers = fs::metadata(area).map(|found| match found.file_type().is_block_device() {
        true => found.rdev(),
        false => found.dev(),
    });
    match numbers {
        Ok(number) => medium_of(Path::new("/sys"), number),
        Err(_) => Medium::Unknown,
    }
}

/// What the device of that number is, as `sys` says. Filesystems over several devices have a number that
/// it does not know.
fn medium_of(sys: &Path, number: u64) -> Medium {
    let name = format!("{}:{}", major(number), minor(number));
    let device = sys.join("dev/block").join(name).canonicalize();
    device
        .and_then(|device| medium_at(&device, STACK_MAX))
        .unwrap_or(Medium::Unknown)
}

/// Devices lie over each other no deeper than this.
const STACK_MAX: u32 = 16;

fn medium_at(device: &Path, deeper: u32) -> io::Result<Medium> {
    let Some(deeper) = deeper.checked_sub(1) else {
        return Ok(Medium::Unknown);
    };
    if device.join("partition").exists() {
        let whole = device.parent().ok_or(io::ErrorKind::NotFound)?;
        return medium_at(whole, deeper);
    }
    let name = device.file_name().unwrap_or_default().to_string_lossy();
    if name.starts_with("zram") {
        return Ok(zram(device));
    }
    if fs::read_to_string(device.join("dm/uuid")).is_ok_and(|uuid| encrypts(&uuid)) {
        return Ok(Medium::Safe);
    }
    let mut worst = None;
    for below in fs::read_dir(device.join("slaves"))? {
        let below = below?.path().canonicalize()?;
        worst = worst.max(Some(medium_at(&below, deeper)?));
    }
    let is_a_disk = ["sd", "hd", "vd", "xvd", "nvme", "mmcblk"];
    let of_nothing_below = match is_a_disk.iter().any(|kind| name.starts_with(kind)) {
        true => Medium::Clear,
        false => Medium::Unknown,
    };
    Ok(worst.unwrap_or(of_nothing_below))
}

/// Compressed memory, unless it may write to a disk: `backing_dev` is absent, "none" or a device.
fn zram(device: &Path) -> Medium {
    match fs::read_to_string(device.join("backing_dev")) {
        Ok(backing) if backing.trim_end() != "none" => Medium::Unknown,
        _ => Medium::Safe,
    }
}

/// Whether a device-mapper device of this UUID is one of cryptsetup's that encrypts: `CRYPT-LUKS2-…`,
/// `CRYPT-PLAIN-…`. `CRYPT-VERITY-…` and `CRYPT-INTEGRITY-…` do not.
fn encrypts(uuid: &str) -> bool {
    let kind = uuid.strip_prefix("CRYPT-");
    kind.is_some_and(|kind| {
        !["VERITY-", "INTEGRITY-", "SUBDEV-"]
            .iter()
            .any(|no| kind.starts_with(no))
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use nix::sys::stat::makedev;

    use super::*;

    /// A tree like /sys, with devices in it.
    struct Sys(tempfile::TempDir);

    impl Sys {
        fn new() -> Self {
            let sys = tempfile::tempdir().unwrap();
            fs::create_dir_all(sys.path().join("dev/block")).unwrap();
            Self(sys)
        }

        /// The device `name`, below `devices`, over `slaves`.
        fn device(&self, number: (u64, u64), name: &str, slaves: &[&str]) -> PathBuf {
            let device = self.0.path().join("devices").join(name);
            fs::create_dir_all(device.join("slaves")).unwrap();
            for slave in slaves {
                let below = self.0.path().join("devices").join(slave);
                let name = below.file_name().unwrap();
                symlink(&below, device.join("slaves").join(name)).unwrap();
            }
            let link = format!("dev/block/{}:{}", number.0, number.1);
            symlink(&device, self.0.path().join(link)).unwrap();
            device
        }

        fn mapped(&self, minor: u64, uuid: &str, slaves: &[&str]) {
            let device = self.device((253, minor), &format!("dm-{minor}"), slaves);
            fs::create_dir(device.join("dm")).unwrap();
            fs::write(device.join("dm/uuid"), format!("{uuid}\n")).unwrap();
        }

        fn medium(&self, number: (u64, u64)) -> Medium {
            medium_of(self.0.path(), makedev(number.0, number.1))
        }
    }

    /// A disk with two partitions.
    fn with_a_disk() -> Sys {
        let sys = Sys::new();
        sys.device((8, 0), "sda", &[]);
        for number in [1, 2] {
            let part = sys.device((8, number), &format!("sda/sda{number}"), &[]);
            fs::remove_dir(part.join("slaves")).unwrap();
            fs::write(part.join("partition"), format!("{number}\n")).unwrap();
        }
        sys
    }

    #[test]
    fn a_logical_volume_is_as_safe_as_what_it_lies_on() {
        let sys = with_a_disk();
        sys.mapped(0, "CRYPT-LUKS2-5a6b-cryptdisk", &["sda/sda1"]);
        sys.mapped(1, "LVM-on-crypt", &["dm-0"]);
        sys.mapped(2, "LVM-plain", &["sda/sda2"]);
        sys.mapped(3, "LVM-on-both", &["dm-0", "sda/sda2"]);
        assert_eq!(sys.medium((253, 0)), Medium::Safe);
        assert_eq!(sys.medium((253, 1)), Medium::Safe);
        assert_eq!(sys.medium((253, 2)), Medium::Clear);
        assert_eq!(sys.medium((253, 3)), Medium::Clear);
        assert_eq!(sys.medium((8, 2)), Medium::Clear);
    }

    #[test]
    fn what_only_proves_integrity_encrypts_nothing() {
        let sys = with_a_disk();
        sys.mapped(0, "CRYPT-INTEGRITY-5a6b-swap", &["sda/sda1"]);
        sys.mapped(1, "CRYPT-PLAIN-swap", &["sda/sda2"]);
        assert_eq!(sys.medium((253, 0)), Medium::Clear);
        assert_eq!(sys.medium((253, 1)), Medium::Safe);
    }

    #[test]
    fn zram_is_memory_unless_it_writes_to_a_disk() {
        let sys = Sys::new();
        let zram = sys.device((252, 0), "zram0", &[]);
        assert_eq!(sys.medium((252, 0)), Medium::Safe);
        fs::write(zram.join("backing_dev"), "none\n").unwrap();
        assert_eq!(sys.medium((252, 0)), Medium::Safe);
        fs::write(zram.join("backing_dev"), "/dev/sda3\n").unwrap();
        assert_eq!(sys.medium((252, 0)), Medium::Unknown);
    }

    #[test]
    fn nobody_is_told_that_something_unknown_is_safe() {
        let sys = Sys::new();
        sys.mapped(0, "LVM-that-lies-on-nothing", &[]);
        sys.device((7, 0), "loop0", &[]);
        sys.device((9, 0), "md0", &["loop0"]);
        // As of btrfs: no block device.
        let anonymous = (0, 42);
        for number in [(253, 0), (7, 0), (9, 0), anonymous] {
            assert_eq!(sys.medium(number), Medium::Unknown, "{number:?}");
        }
    }

    #[test]
    fn a_swap_file_with_a_space_in_its_path_is_found() {
        let swaps = "Filename\tType\tSize\tUsed\tPriority\n\
            /dev/dm-1 partition\t8\t0\t-2\n/my\\040swap file\t8\t0\t-3\n";
        let found: Vec<_> = areas(swaps).collect();
        assert_eq!(found, [Path::new("/dev/dm-1"), Path::new("/my swap")]);
    }
}
