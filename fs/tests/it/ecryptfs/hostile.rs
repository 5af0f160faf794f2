//! Lower files that somebody has changed, an error or other content and never more than that; and a user
//! whose daemon invents FEKs.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

use claviger_hw_tests::wait_until;
use claviger_vault::ecryptfs::{Header, MountOptions};

use super::folder::{FeksAre, Folder, Vector};
use crate::grants::is_refused;
use crate::model::Subject;
use crate::namespaces::isolated_test;

/// All folders, those of RSA keys among them, whose files open here with no key.
const ALL: [&str; 9] = [
    "aes16",
    "aes16-xattr-fnek",
    "aes24-fnek",
    "aes32-fnek",
    "aes32-two-keys",
    "blowfish-16",
    "rsa2048-aes32",
    "rsa2048-aes32-plus-passphrase",
    "rsa4096-aes32",
];

/// What the length fields of a header and its packets are set to.
const EXTREMES: [u8; 6] = [0, 1, 0x7f, 0xbf, 0xc0, 0xff];

isolated_test! {
    fn no_byte_changed_in_a_header_does_more_than_give_an_error_or_other_content() {
        for name in ALL {
            let vector = Vector::unpack(name, Path::new("/mnt/kernels"));
            let victim = a_file_with_content(&vector.lower);
            let header = Header::read(fs::File::open(&victim).unwrap()).unwrap();
            let in_xattr = header.content_offset() == 0;
            // Fixed fields and packets; of RSA packets the blob's first bytes stand for the rest.
            let reach = if name.starts_with("rsa") { 80 } else { 110 };
            fs::create_dir("/mnt/lower").unwrap();
            let mut made = Vec::new();
            for at in 0..reach {
                let mut change = |tag: &str, with: &dyn Fn(u8) -> u8| {
                    let path = PathBuf::from(format!("/mnt/lower/{at}-{tag}"));
                    if changed(&victim, &path, in_xattr, at, with) {
                        made.push(path.file_name().unwrap().to_owned());
                    }
                };
                for bit in 0..8 {
                    change(&format!("bit{bit}"), &|byte| byte ^ 1 << bit);
                }
                for extreme in EXTREMES {
                    change(&format!("is{extreme}"), &|_| extreme);
                }
            }
            assert!(made.len() > 700, "{name}: {}", made.len());
            let options = MountOptions { fnek: None, ..vector.options() };
            let folder = Folder::mount(Path::new("/mnt/lower"), options, vector.keys());
            let (mut refused, mut read) = (0, 0);
            for file in &made {
                let path = folder.path(file);
                // Sizes that a header claims are not believed by whoever allocates.
                let _ = fs::symlink_metadata(&path).unwrap();
                match read_at_most(&path, 1 << 20) {
                    Ok(_) => read += 1,
                    Err(error) => {
                        let errno = error.raw_os_error().unwrap();
                        let known = [libc::EIO, libc::ENOKEY, libc::EOPNOTSUPP];
                        assert!(known.contains(&errno), "{name} {file:?}: {error}");
                        refused += 1;
                    }
                }
            }
            assert!(refused > 0, "{name}");
            assert!(read > 0 || name.starts_with("rsa") || name == "blowfish-16", "{name}");
            // It serves on.
            fs::write(folder.path("new"), "content").unwrap_or_else(|error| {
                assert!(!vector.options().sigs.is_empty() && name.starts_with("rsa"), "{name}: {error}");
            });
            drop(folder);
            fs::remove_dir_all("/mnt/lower").unwrap();
            fs::remove_dir_all("/mnt/kernels").unwrap();
        }
    }
}

isolated_test! {
    fn a_lower_file_cut_short_anywhere_is_an_error_and_never_stray_bytes() {
        let vector = Vector::unpack("aes16", Path::new("/mnt/kernels"));
        let victim = vector.lower.join("size4097");
        let whole = fs::read(&victim).unwrap();
        let expected = {
            let folder = Folder::mount(&vector.lower, vector.options(), vector.keys());
            fs::read(folder.path("size4097")).unwrap()
        };
        fs::create_dir("/mnt/lower").unwrap();
        let cuts: Vec<usize> = (1..whole.len()).step_by(97).chain([8192, 12288]).collect();
        for cut in &cuts {
            fs::write(format!("/mnt/lower/{cut}"), &whole[..*cut]).unwrap();
        }
        let folder = Folder::mount(Path::new("/mnt/lower"), vector.options(), vector.keys());
        for cut in cuts {
            let path = folder.path(cut.to_string());
            let read = fs::read(&path);
            assert_eq!(read.unwrap_err().raw_os_error(), Some(libc::EIO), "cut at {cut}");
            if cut >= 8192 + 4096 {
                // What is there can be had.
                let file = fs::File::open(&path).unwrap();
                let mut first = vec![0; 4096];
                std::os::unix::fs::FileExt::read_exact_at(&file, &mut first, 0).unwrap();
                assert_eq!(first, expected[..4096]);
            }
        }
    }
}

isolated_test! {
    fn names_that_are_not_of_the_folders_key_are_left_out_and_harm_no_other() {
        let vector = Vector::unpack("aes32-fnek", Path::new("/mnt/lower"));
        let genuine = Folder::mount(&vector.lower, vector.options(), vector.keys()).count();
        let victim = a_file_with_content(&vector.lower);
        let name = victim.file_name().unwrap().to_str().unwrap().to_owned();
        let mut planted = 0;
        for at in 24..name.len() {
            let mut other = name.clone().into_bytes();
            other[at] = if other[at] == b'-' { b'z' } else { b'-' };
            let other = String::from_utf8(other).unwrap();
            planted += usize::from(fs::write(vector.lower.join(other), "").is_ok());
        }
        for foreign in ["plain", "ECRYPTFS_FNEK_ENCRYPTED.", "ECRYPTFS_FNEK_ENCRYPTED.FW"] {
            fs::write(vector.lower.join(foreign), "").unwrap();
        }
        let folder = Folder::mount(&vector.lower, vector.options(), vector.keys());
        let shown = folder.count();
        // ECB: a change in the prefix or behind the name may leave a name that decrypts.
        assert!((genuine..genuine + planted).contains(&shown), "{shown} of {planted}");
        for line in vector.plain().lines().filter(|line| line.starts_with("file")) {
            let path = line.rsplit('\t').next().unwrap();
            assert!(fs::symlink_metadata(folder.path(path)).is_ok(), "{path}");
        }
    }
}

isolated_test! {
    /// Though nothing in the format tells a FEK from another.
    fn an_invented_fek_opens_nothing_that_another_has_open_and_harms_nothing_of_it() {
        const MALLORY: u32 = 1234;
        let folder = Folder::fresh(Path::new("/mnt/lower"), |_| ());
        let path = folder.path("file");
        fs::write(&path, "secret").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        wait_until("it is closed", || folder.fs().open_paths().is_empty());
        let reader = File::open(&path).unwrap();
        folder.unwraps_bring(FeksAre::Invented);
        is_refused(MALLORY, &path);
        folder.unwraps_bring(FeksAre::Genuine);
        let writer = OpenOptions::new().write(true).open(&path).unwrap();
        writer.write_all_at(b"S", 0).unwrap();
        folder.unwraps_bring(FeksAre::Invented);
        is_refused(MALLORY, &path);
        let mut content = [0; 6];
        reader.read_exact_at(&mut content, 0).unwrap();
        assert_eq!(&content, b"Secret");
    }
}

/// Copies `victim` to `path` with one byte of its header changed; whether that changed anything.
fn changed(victim: &Path, path: &Path, in_xattr: bool, at: usize, with: &dyn Fn(u8) -> u8) -> bool {
    let mut content = fs::read(victim).unwrap();
    let mut header = match in_xattr {
        true => attribute(victim),
        false => content.clone(),
    };
    let Some(byte) = header.get_mut(at) else {
        return false;
    };
    let before = std::mem::replace(byte, with(*byte));
    if header[at] == before {
        return false;
    }
    if !in_xattr {
        content = header;
        fs::write(path, content).unwrap();
        return true;
    }
    fs::write(path, content).unwrap();
    crate::names::set_attribute(path, "user.ecryptfs", &header);
    true
}

fn attribute(path: &Path) -> Vec<u8> {
    let output = std::process::Command::new("getfattr")
        .args(["--only-values", "--absolute-names", "-n", "user.ecryptfs"])
        .arg(path)
        .output()
        .unwrap();
    assert!(output.status.success());
    output.stdout
}

fn read_at_most(path: &Path, limit: u64) -> std::io::Result<Vec<u8>> {
    use std::io::Read;
    let mut content = Vec::new();
    fs::File::open(path)?
        .take(limit)
        .read_to_end(&mut content)?;
    Ok(content)
}

/// A lower file of more than one extent.
fn a_file_with_content(lower: &Path) -> PathBuf {
    let mut files: Vec<PathBuf> = super::walk(lower)
        .into_iter()
        .map(|name| lower.join(name))
        .filter(|path| path.symlink_metadata().unwrap().is_file())
        .collect();
    files.sort_by_key(|path| path.metadata().unwrap().len());
    files
        .into_iter()
        .find(|path| path.metadata().unwrap().len() > 0)
        .unwrap()
}
