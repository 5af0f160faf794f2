//! Comparing two trees: everything that a program can see of them, but for times that are not set.

use std::collections::BTreeMap;
use std::ffi::{CString, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Times that an operation sets are before this, and those that the clock gives after.
const SET_BEFORE: i64 = 1_000_000_000;

#[derive(Debug, PartialEq, Eq)]
struct Seen {
    mode: u32,
    owner: (u32, u32),
    links: u64,
    size: Option<u64>,
    set_time: Option<(i64, i64)>,
    target: Option<OsString>,
    /// Names, and lengths of the values: an operation sets them to as many `x`.
    attributes: BTreeMap<String, usize>,
}

/// Fails unless both trees show the same.
pub(crate) fn compare(upper: &Path, plain: &Path) {
    let ours = names(upper);
    assert_eq!(ours, names(plain), "names in {}", plain.display());
    for name in ours {
        let (ours, theirs) = (upper.join(&name), plain.join(&name));
        assert_eq!(seen(&ours), seen(&theirs), "{}", theirs.display());
        let kind = fs::symlink_metadata(&theirs).unwrap().file_type();
        if kind.is_dir() {
            compare(&ours, &theirs);
        } else if kind.is_file() {
            let same = fs::read(&ours).unwrap() == fs::read(&theirs).unwrap();
            assert!(same, "contents of {}", theirs.display());
        }
    }
}

fn names(dir: &Path) -> Vec<OsString> {
    let mut names: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    names.sort();
    names
}

fn seen(path: &Path) -> Seen {
    let stat = fs::symlink_metadata(path).unwrap();
    let kind = stat.file_type();
    let is_set = stat.mtime() < SET_BEFORE;
    Seen {
        mode: stat.mode(),
        owner: (stat.uid(), stat.gid()),
        links: stat.nlink(),
        size: (!kind.is_dir()).then_some(stat.len()),
        set_time: is_set.then_some((stat.mtime(), stat.mtime_nsec())),
        target: kind
            .is_symlink()
            .then(|| fs::read_link(path).unwrap().into_os_string()),
        attributes: if kind.is_file() || kind.is_dir() {
            attributes(path)
        } else {
            BTreeMap::new()
        },
    }
}

#[allow(unsafe_code)] // libc has no safe form of these.
fn attributes(path: &Path) -> BTreeMap<String, usize> {
    let path = CString::new(path.as_os_str().as_bytes()).unwrap();
    let mut names = vec![0_u8; 65536];
    // SAFETY: the string ends in NUL; the kernel writes at most the buffer's length.
    let len = unsafe { libc::llistxattr(path.as_ptr(), names.as_mut_ptr().cast(), names.len()) };
    names.truncate(usize::try_from(len).expect("attributes list"));
    let names = names.split(|b| *b == 0).filter(|n| n.starts_with(b"user."));
    let value = |name: &[u8]| {
        let name = CString::new(name).unwrap();
        let mut value = vec![0_u8; 65536];
        // SAFETY: as above.
        let len = unsafe {
            libc::lgetxattr(
                path.as_ptr(),
                name.as_ptr(),
                value.as_mut_ptr().cast(),
                value.len(),
            )
        };
        value.truncate(usize::try_from(len).expect("the attribute is there"));
        assert!(
            value.iter().all(|byte| *byte == b'x'),
            "the value of {name:?} changed"
        );
        value.len()
    };
    names
        .map(|name| (String::from_utf8_lossy(name).into_owned(), value(name)))
        .collect()
}
