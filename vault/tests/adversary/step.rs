//! What someone who holds the lower folder can do to it, each undone by what it gives.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use rustix::fs::{XattrFlags, fgetxattr, flistxattr, fremovexattr, fsetxattr};

/// One change below.
#[derive(Clone, Debug)]
pub enum Step {
    Write {
        file: PathBuf,
        offset: u64,
        bytes: Vec<u8>,
    },
    /// Replaces what a small file holds.
    Content {
        file: PathBuf,
        bytes: Vec<u8>,
    },
    Cut {
        file: PathBuf,
        len: u64,
    },
    /// Files or directories exchange their names, contents and all.
    Exchange {
        one: PathBuf,
        other: PathBuf,
    },
    Rename {
        from: PathBuf,
        to: PathBuf,
    },
    Link {
        from: PathBuf,
        to: PathBuf,
    },
    /// A symlink's target is replaced, or one made.
    Target {
        path: PathBuf,
        target: String,
    },
    /// An attribute is set, or removed.
    Attribute {
        of: PathBuf,
        name: String,
        value: Option<Vec<u8>>,
    },
}

/// Takes a step back.
pub type Undo = Box<dyn FnOnce()>;

impl Step {
    pub fn take(self) -> Undo {
        match self {
            Self::Write {
                file,
                offset,
                bytes,
            } => {
                let opened = OpenOptions::new()
                    .read(true)
                    .write(true)
                    .open(file)
                    .unwrap();
                let len = opened.metadata().unwrap().len();
                let there = len.saturating_sub(offset).min(bytes.len() as u64);
                let mut before = vec![0; there as usize];
                opened.read_exact_at(&mut before, offset).unwrap();
                opened.write_all_at(&bytes, offset).unwrap();
                Box::new(move || {
                    opened.write_all_at(&before, offset).unwrap();
                    opened.set_len(len).unwrap();
                })
            }
            Self::Content { file, bytes } => {
                let before = fs::read(&file).unwrap();
                fs::write(&file, bytes).unwrap();
                Box::new(move || fs::write(&file, before).unwrap())
            }
            Self::Cut { file, len } => {
                let opened = OpenOptions::new()
                    .read(true)
                    .write(true)
                    .open(file)
                    .unwrap();
                let whole = opened.metadata().unwrap().len();
                let mut before = vec![0; whole.saturating_sub(len) as usize];
                opened.read_exact_at(&mut before, len.min(whole)).unwrap();
                opened.set_len(len.min(whole)).unwrap();
                Box::new(move || opened.write_all_at(&before, len.min(whole)).unwrap())
            }
            Self::Exchange { one, other } => {
                exchange(&one, &other);
                Box::new(move || exchange(&one, &other))
            }
            Self::Rename { from, to } => {
                rename(&from, &to);
                Box::new(move || rename(&to, &from))
            }
            Self::Link { from, to } => {
                fs::hard_link(&from, &to).unwrap();
                Box::new(move || fs::remove_file(&to).unwrap())
            }
            Self::Target { path, target } => {
                let before = fs::read_link(&path).ok();
                let replace = |target: &Path, path: &Path| {
                    let _ = fs::remove_file(path);
                    symlink(target, path).unwrap();
                };
                replace(Path::new(&target), &path);
                Box::new(move || match before {
                    Some(before) => replace(&before, &path),
                    None => fs::remove_file(&path).unwrap(),
                })
            }
            Self::Attribute { of, name, value } => {
                let before = attribute(&of, &name);
                set_attribute(&of, &name, value.as_deref());
                Box::new(move || set_attribute(&of, &name, before.as_deref()))
            }
        }
    }
}

/// The value of an attribute of a lower file or directory.
pub fn attribute(of: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 1 << 16];
    let len = fgetxattr(File::open(of).unwrap(), name, &mut value).ok()?;
    value.truncate(len);
    Some(value)
}

/// The lower names of the attributes that Claviger has set on a lower file or directory.
pub fn attribute_names(of: &Path) -> Vec<String> {
    let mut names = vec![0; 1 << 16];
    let len = flistxattr(File::open(of).unwrap(), &mut names).unwrap();
    let names = names[..len].split(|byte| *byte == 0);
    names
        .filter(|name| name.starts_with(b"user.claviger."))
        .map(|name| String::from_utf8(name.into()).unwrap())
        .collect()
}

fn set_attribute(of: &Path, name: &str, value: Option<&[u8]>) {
    let file = File::open(of).unwrap();
    match value {
        Some(value) => fsetxattr(&file, name, value, XattrFlags::empty()).unwrap(),
        None => fremovexattr(&file, name).unwrap_or_default(),
    }
}

fn exchange(one: &Path, other: &Path) {
    renameat2(AT_FDCWD, one, AT_FDCWD, other, RenameFlags::RENAME_EXCHANGE)
        .unwrap_or_else(|errno| panic!("{} and {}: {errno}", one.display(), other.display()));
}

fn rename(from: &Path, to: &Path) {
    renameat2(AT_FDCWD, from, AT_FDCWD, to, RenameFlags::RENAME_NOREPLACE)
        .unwrap_or_else(|errno| panic!("{} to {}: {errno}", from.display(), to.display()));
}
