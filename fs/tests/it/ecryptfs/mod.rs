//! Folders of eCryptfs, mounted; those that a real kernel wrote among them.

mod folder;
mod hostile;

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use claviger_hw_tests::wait_until;
use claviger_vault::ecryptfs::{Header, KeyLen, MetadataPlace, MountOptions, PlainFiles, View};
use folder::{Folder, Vector, passphrase_key};

use crate::model::{Subject, compare_with_plain};
use crate::names::{set_attribute, try_set_attribute};
use crate::namespaces::isolated_test;

/// Folders of the kernel's whose keys come from passphrases.
const OF_PASSPHRASES: [&str; 5] = [
    "aes16",
    "aes16-xattr-fnek",
    "aes24-fnek",
    "aes32-fnek",
    "aes32-two-keys",
];

isolated_test! {
    fn folders_of_the_kernel_show_what_the_kernel_showed() {
        for name in OF_PASSPHRASES {
            let vector = Vector::unpack(name, Path::new("/mnt/lower"));
            let folder = Folder::mount(&vector.lower, vector.options(), vector.keys());
            let mut seen = 0;
            for line in vector.plain().lines() {
                let fields: Vec<&str> = line.split('\t').collect();
                let [kind, _, size, last, path] = fields[..] else { panic!("{line}") };
                let path = folder.path(path);
                let stat = fs::symlink_metadata(&path).unwrap();
                match kind {
                    "file" => {
                        // Before it is opened, too.
                        assert_eq!(stat.len().to_string(), size, "{name} {}", path.display());
                        assert_eq!(sha256(&path), last, "{name} {}", path.display());
                    }
                    "link" => {
                        assert_eq!(stat.len(), last.len() as u64);
                        assert_eq!(fs::read_link(&path).unwrap(), Path::new(last));
                    }
                    "dir" => assert!(stat.is_dir()),
                    _ => assert!(!stat.is_dir() && !stat.is_file()),
                }
                seen += 1;
            }
            assert_eq!(seen, folder.count() + 1, "{name}: no more than the kernel showed");
            drop(folder);
            fs::remove_dir_all(&vector.lower).unwrap();
        }
    }
}

isolated_test! {
    fn a_folder_behaves_like_a_plain_directory() {
        let folder = Folder::fresh(Path::new("/mnt/lower"), |_| ());
        compare_with_plain(folder, Path::new("/mnt"), 50);
    }
}

isolated_test! {
    fn a_folder_with_encrypted_names_and_headers_in_attributes_behaves_like_a_plain_directory() {
        let folder = Folder::fresh(Path::new("/mnt/lower"), |options| {
            options.key_len = KeyLen::Aes256;
            options.fnek = Some(passphrase_key("names").sig());
            options.place = MetadataPlace::Xattr;
        });
        compare_with_plain(folder, Path::new("/mnt"), 50);
    }
}

isolated_test! {
    fn nothing_is_made_below_that_the_kernel_would_not_make() {
        let folder = Folder::fresh(Path::new("/mnt/lower"), |_| ());
        fs::create_dir(folder.path("d")).unwrap();
        fs::write(folder.path("d/f"), "x").unwrap();
        fs::rename(folder.path("d"), folder.path("e")).unwrap();
        symlink("e/f", folder.path("l")).unwrap();
        let mut below: Vec<_> = walk(Path::new("/mnt/lower"));
        below.sort();
        assert_eq!(below, ["e", "e/f", "l"].map(PathBuf::from));
        // A header of two pages, and one extent.
        assert_eq!(fs::metadata("/mnt/lower/e/f").unwrap().len(), 8192 + 4096);
    }
}

isolated_test! {
    fn the_longest_name_has_143_bytes_where_names_are_encrypted() {
        let folder = Folder::fresh(Path::new("/mnt/lower"), |options| {
            options.fnek = Some(passphrase_key("names").sig());
        });
        let longest = "n".repeat(143);
        fs::write(folder.path(&longest), "x").unwrap();
        let longer = fs::write(folder.path("n".repeat(144)), "x").unwrap_err();
        assert_eq!(longer.raw_os_error(), Some(libc::ENAMETOOLONG));
        let stat = nix::sys::statvfs::statvfs(folder.root()).unwrap();
        assert_eq!(stat.name_max(), 143);
        assert_eq!(fs::read(folder.path(&longest)).unwrap(), b"x");
    }
}

isolated_test! {
    fn a_file_that_was_made_and_never_written_reads_as_empty_and_gets_its_header_when_written() {
        let folder = Folder::fresh(Path::new("/mnt/lower"), |_| ());
        fs::write("/mnt/lower/f", "").unwrap();
        let path = folder.path("f");
        assert_eq!(fs::metadata(&path).unwrap().len(), 0);
        assert_eq!(fs::read(&path).unwrap(), b"");
        assert_eq!(fs::metadata("/mnt/lower/f").unwrap().len(), 0);
        fs::write(&path, "content").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"content");
        assert_eq!(fs::metadata("/mnt/lower/f").unwrap().len(), 8192 + 4096);
    }
}

isolated_test! {
    fn of_two_who_write_a_file_that_was_never_written_neither_loses_anything() {
        let folder = Folder::fresh(Path::new("/mnt/lower"), |_| ());
        fs::write("/mnt/lower/f", "").unwrap();
        let append = |path: &Path, line: &str| {
            let file = File::options().append(true).open(path);
            file.unwrap().write_all(line.as_bytes()).unwrap();
        };
        let (path, fs) = (folder.path("f"), Arc::clone(folder.fs()));
        folder.meanwhile(move || {
            append(&path, "first\n");
            wait_until("the kernel has said that it is closed", || fs.open_paths().is_empty());
        });
        append(&folder.path("f"), "second\n");
        assert_eq!(fs::read_to_string(folder.path("f")).unwrap(), "first\nsecond\n");
    }
}

isolated_test! {
    fn looking_at_a_file_leaves_its_access_time() {
        let mut folder = Folder::fresh(Path::new("/mnt/lower"), |_| ());
        fs::write(folder.path("f"), "content").unwrap();
        let times = fs::FileTimes::new().set_accessed(UNIX_EPOCH + Duration::new(981_173_106, 123_456_789));
        File::options().write(true).open("/mnt/lower/f").unwrap().set_times(times).unwrap();
        folder.remount();
        assert_eq!(fs::metadata(folder.path("f")).unwrap().len(), 7);
        let seen = |path: &Path| {
            let metadata = fs::metadata(path).unwrap();
            (metadata.atime(), metadata.atime_nsec())
        };
        assert_eq!(seen(Path::new("/mnt/lower/f")), (981_173_106, 123_456_789));
        assert_eq!(seen(&folder.path("f")), (981_173_106, 123_456_789));
    }
}

isolated_test! {
    fn files_that_are_not_of_ecryptfs_open_only_where_they_are_passed_through() {
        let lower = Path::new("/mnt/lower");
        let mut folder = Folder::fresh(lower, |_| ());
        fs::write("/mnt/lower/plain", "in clear").unwrap();
        let refused = fs::read(folder.path("plain")).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EIO));
        assert_eq!(fs::metadata(folder.path("plain")).unwrap().len(), 8);

        folder.remount_with(|options| options.plain_files = PlainFiles::PassedThrough);
        assert_eq!(fs::read(folder.path("plain")).unwrap(), b"in clear");
        let file = fs::File::options().write(true).open(folder.path("plain")).unwrap();
        file.write_all_at(b"IN", 0).unwrap();
        file.set_len(5).unwrap();
        drop(file);
        assert_eq!(fs::read("/mnt/lower/plain").unwrap(), b"IN cl");
        // What is new is encrypted all the same.
        fs::write(folder.path("new"), "secret").unwrap();
        assert!(fs::metadata("/mnt/lower/new").unwrap().len() > 8192);
    }
}

isolated_test! {
    fn the_encrypted_view_shows_lower_files_and_lets_nothing_be_changed() {
        let vector = Vector::unpack("aes16-xattr-fnek", Path::new("/mnt/lower"));
        let options = MountOptions {
            fnek: None,
            view: View::Encrypted,
            ..vector.options()
        };
        let folder = Folder::mount(&vector.lower, options, Vec::new());
        let mut files = 0;
        for name in walk(&vector.lower) {
            let (upper, lower) = (folder.path(&name), vector.lower.join(&name));
            if !lower.symlink_metadata().unwrap().is_file() {
                continue;
            }
            let below = fs::read(&lower).unwrap();
            // The header is in an attribute there, and in front here.
            let seen = fs::read(&upper).unwrap();
            assert_eq!(fs::metadata(&upper).unwrap().len(), seen.len() as u64);
            let (front, content) = seen.split_at(8192);
            assert_eq!(content, below);
            let moved = Header::parse(front, MetadataPlace::Header).unwrap();
            let header = Header::read(fs::File::open(&lower).unwrap()).unwrap();
            assert_eq!((moved.size, moved.packets), (header.size, header.packets));
            let written = fs::write(&upper, "x").unwrap_err();
            assert_eq!(written.raw_os_error(), Some(libc::EBADF), "{}", name.display());
            files += 1;
        }
        assert_eq!(files, 3);
    }
}

isolated_test! {
    fn without_its_key_a_file_does_not_open_and_says_which_it_wants() {
        let vector = Vector::unpack("aes16", Path::new("/mnt/lower"));
        let folder = Folder::mount(&vector.lower, vector.options(), vec![passphrase_key("other")]);
        let path = folder.path("size1");
        assert_eq!(fs::metadata(&path).unwrap().len(), 1);
        let refused = fs::read(&path).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::ENOKEY));
    }
}

isolated_test! {
    fn the_header_in_an_attribute_is_neither_shown_nor_lost() {
        let folder = Folder::fresh(Path::new("/mnt/lower"), |options| {
            options.place = MetadataPlace::Xattr;
        });
        let path = folder.path("f");
        fs::write(&path, "content").unwrap();
        set_attribute(&path, "user.tag", b"red");
        let header = try_set_attribute(&path, "user.ecryptfs", b"none").unwrap_err();
        assert_eq!(header.raw_os_error(), Some(libc::EPERM));
        let listed = Command::new("getfattr").arg("--absolute-names").arg(&path).output().unwrap();
        let listed = String::from_utf8(listed.stdout).unwrap();
        assert!(listed.contains("user.tag") && !listed.contains("ecryptfs"), "{listed}");
        assert_eq!(fs::read(&path).unwrap(), b"content");
    }
}

isolated_test! {
    fn what_a_full_disk_refuses_leaves_the_rest_of_the_file_readable() {
        let lower = Path::new("/mnt/small");
        fs::create_dir(lower).unwrap();
        let flags = nix::mount::MsFlags::empty();
        nix::mount::mount(Some("small"), lower, Some("tmpfs"), flags, Some("size=256k")).unwrap();
        let folder = Folder::over(lower, |_| ());
        let path = folder.path("f");
        fs::write(&path, "kept").unwrap();
        let file = fs::File::options().write(true).open(&path).unwrap();
        let full = file.write_all_at(&vec![7; 1 << 20], 4).unwrap_err();
        assert_eq!(full.kind(), ErrorKind::StorageFull);
        drop(file);
        let content = fs::read(&path).unwrap();
        assert_eq!(&content[..4], b"kept");
        assert!(content[4..].iter().all(|byte| *byte == 7));
        let none_left = fs::write(folder.path("g"), vec![1; 1 << 20]).unwrap_err();
        assert_eq!(none_left.kind(), ErrorKind::StorageFull);
        fs::remove_file(&path).unwrap();
        fs::write(folder.path("h"), "fits again").unwrap();
        let stat = fs::metadata(folder.path("h")).unwrap();
        assert_eq!((stat.len(), stat.nlink()), (10, 1));
    }
}

fn sha256(path: &Path) -> String {
    let output = Command::new("sha256sum").arg(path).output().unwrap();
    assert!(output.status.success(), "{}", path.display());
    let text = String::from_utf8(output.stdout).unwrap();
    text.trim_start_matches('\\')
        .split(' ')
        .next()
        .unwrap()
        .into()
}

/// Names of all that is below `root`, from there.
fn walk(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let name = entry.path().strip_prefix(root).unwrap().to_owned();
            found.push(name);
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
            }
        }
    }
    found
}
