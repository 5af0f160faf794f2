//! One random operation, and what it returned: enough to be compared.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, FallocateFlags, RenameFlags, fallocate, renameat2};
use nix::sys::stat::{Mode, SFlag, mknod};
use nix::unistd::{Whence, lseek64};

use super::random::Random;

/// Files held open on both sides, in pairs.
#[derive(Default)]
pub(crate) struct Handles {
    upper: Vec<File>,
    plain: Vec<File>,
}

impl Handles {
    pub(crate) fn len(&self) -> usize {
        self.upper.len().min(self.plain.len())
    }

    pub(crate) fn upper(&mut self) -> &mut Vec<File> {
        &mut self.upper
    }

    pub(crate) fn plain(&mut self) -> &mut Vec<File> {
        &mut self.plain
    }
}

/// An operation on paths relative to a root, or on a held handle by number.
#[derive(Debug)]
pub(crate) enum Operation {
    Open {
        path: PathBuf,
        flags: i32,
        mode: u32,
    },
    Close {
        handle: usize,
    },
    Write {
        handle: usize,
        offset: u64,
        len: usize,
        byte: u8,
    },
    Read {
        handle: usize,
        offset: u64,
        len: usize,
    },
    SetLen {
        handle: usize,
        len: u64,
    },
    Truncate {
        path: PathBuf,
        len: u64,
    },
    Allocate {
        handle: usize,
        mode: i32,
        offset: u64,
        len: u64,
    },
    Seek {
        handle: usize,
        offset: u64,
        whence: i32,
    },
    Sync {
        handle: usize,
    },
    StatHandle {
        handle: usize,
    },
    MakeDir {
        path: PathBuf,
        mode: u32,
    },
    RemoveDir {
        path: PathBuf,
    },
    Unlink {
        path: PathBuf,
    },
    Rename {
        from: PathBuf,
        to: PathBuf,
        flags: u32,
    },
    Link {
        from: PathBuf,
        to: PathBuf,
    },
    Symlink {
        target: PathBuf,
        path: PathBuf,
    },
    ReadLink {
        path: PathBuf,
    },
    MakeNode {
        path: PathBuf,
        kind: u32,
    },
    Chmod {
        path: PathBuf,
        mode: u32,
    },
    Chown {
        path: PathBuf,
        uid: u32,
        gid: u32,
    },
    SetTimes {
        path: PathBuf,
        seconds: i64,
        nanoseconds: i64,
    },
    SetAttribute {
        path: PathBuf,
        name: &'static str,
        len: usize,
        flags: i32,
    },
    RemoveAttribute {
        path: PathBuf,
        name: &'static str,
    },
    SyncDir {
        path: PathBuf,
    },
    List {
        path: PathBuf,
    },
}

/// Which of the two an operation runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Upper,
    Plain,
}

/// What an operation returned: an errno, or what it gave.
pub(crate) type Outcome = Result<Given, i32>;

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Given {
    Nothing,
    Bytes(Vec<u8>),
    Number(u64),
    Names(Vec<Vec<u8>>),
}

const OPEN_FLAGS: &[i32] = &[
    libc::O_RDONLY,
    libc::O_WRONLY,
    libc::O_RDWR,
    libc::O_RDWR | libc::O_CREAT,
    libc::O_RDWR | libc::O_CREAT,
    libc::O_RDWR | libc::O_CREAT | libc::O_EXCL,
    libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC,
    libc::O_RDWR | libc::O_TRUNC,
    libc::O_WRONLY | libc::O_CREAT | libc::O_APPEND,
    libc::O_RDWR | libc::O_CREAT | libc::O_DIRECT,
];
const MODES: &[u32] = &[0o644, 0o600, 0o755, 0o4755, 0o2755, 0o444, 0o000, 0o666];
const DIR_MODES: &[u32] = &[0o755, 0o700, 0o2777, 0o555, 0o000, 0o1777];
const ATTRIBUTES: &[&str] = &["user.a", "user.longer.name", "user.claviger"];
const KEEP: i32 = libc::FALLOC_FL_KEEP_SIZE;
const ALLOCATIONS: &[i32] = &[0, KEEP, libc::FALLOC_FL_PUNCH_HOLE | KEEP];

impl Operation {
    /// Any, with so many handles open.
    pub(crate) fn any(random: &mut Random, handles: usize) -> Self {
        let on_handle = handles > 0 && random.one_in(2);
        if on_handle {
            let handle = random.below(handles as u64) as usize;
            let (offset, len) = (offset(random), length(random));
            return match random.below(10) {
                0 => Self::Close { handle },
                1..=3 => Self::Write {
                    handle,
                    offset,
                    len,
                    byte: random.below(255) as u8 + 1,
                },
                4..=5 => Self::Read {
                    handle,
                    offset,
                    len,
                },
                6 => Self::SetLen {
                    handle,
                    len: offset,
                },
                7 => {
                    let mode = random.of(ALLOCATIONS);
                    Self::Allocate {
                        handle,
                        mode,
                        offset,
                        len: len as u64 + 1,
                    }
                }
                8 => {
                    let whence = random.of(&[libc::SEEK_DATA, libc::SEEK_HOLE]);
                    Self::Seek {
                        handle,
                        offset,
                        whence,
                    }
                }
                _ if random.one_in(2) => Self::Sync { handle },
                _ => Self::StatHandle { handle },
            };
        }
        let path = path(random);
        match random.below(24) {
            0..=5 if handles < 8 => Self::Open {
                path,
                flags: random.of(OPEN_FLAGS),
                mode: random.of(MODES),
            },
            0..=5 => Self::Truncate {
                path,
                len: offset(random),
            },
            6..=8 => Self::MakeDir {
                path,
                mode: random.of(DIR_MODES),
            },
            9 => Self::RemoveDir { path },
            10 => Self::Unlink { path },
            11..=13 => {
                let flags = random.of(&[0, 0, libc::RENAME_NOREPLACE, libc::RENAME_EXCHANGE]);
                Self::Rename {
                    from: path,
                    to: self::path(random),
                    flags,
                }
            }
            14 => Self::Link {
                from: path,
                to: self::path(random),
            },
            15 => Self::Symlink {
                target: self::path(random),
                path,
            },
            16 => Self::ReadLink { path },
            17 => Self::MakeNode {
                path,
                kind: random.of(&[libc::S_IFIFO, libc::S_IFSOCK, libc::S_IFREG]),
            },
            18 => Self::Chmod {
                path,
                mode: random.of(MODES),
            },
            19 => Self::Chown {
                path,
                uid: random.below(3) as u32 * 1000,
                gid: random.below(3) as u32,
            },
            20 => Self::SetTimes {
                path,
                seconds: random.below(1_000_000) as i64 - 10_000,
                nanoseconds: random.below(1_000_000_000) as i64,
            },
            21 => Self::SetAttribute {
                path,
                name: random.of(ATTRIBUTES),
                len: random.below(300) as usize,
                flags: random.of(&[0, 0, libc::XATTR_CREATE, libc::XATTR_REPLACE]),
            },
            22 => Self::RemoveAttribute {
                path,
                name: random.of(ATTRIBUTES),
            },
            _ if random.one_in(2) => Self::SyncDir { path },
            _ => Self::List { path },
        }
    }

    /// Bytes of the longest name in its paths.
    pub(crate) fn longest_name(&self) -> usize {
        let paths: [Option<&Path>; 2] = match self {
            Self::Rename { from, to, .. } | Self::Link { from, to } => [Some(from), Some(to)],
            Self::Symlink { target, path } => [Some(target), Some(path)],
            Self::Open { path, .. }
            | Self::Truncate { path, .. }
            | Self::MakeDir { path, .. }
            | Self::RemoveDir { path }
            | Self::Unlink { path }
            | Self::ReadLink { path }
            | Self::MakeNode { path, .. }
            | Self::Chmod { path, .. }
            | Self::Chown { path, .. }
            | Self::SetTimes { path, .. }
            | Self::SetAttribute { path, .. }
            | Self::RemoveAttribute { path, .. }
            | Self::SyncDir { path }
            | Self::List { path } => [Some(path), None],
            Self::Close { .. }
            | Self::Write { .. }
            | Self::Read { .. }
            | Self::SetLen { .. }
            | Self::Allocate { .. }
            | Self::Seek { .. }
            | Self::Sync { .. }
            | Self::StatHandle { .. } => [None, None],
        };
        let names = paths.into_iter().flatten().flat_map(Path::components);
        names
            .map(|name| name.as_os_str().len())
            .max()
            .unwrap_or_default()
    }

    /// Does it below `root`.
    pub(crate) fn run(&self, side: Side, root: &Path, handles: &mut Vec<File>) -> Outcome {
        let at = |path: &Path| root.join(path);
        match self {
            Self::Open { path, flags, mode } => {
                let special = fs::metadata(at(path)).is_ok_and(|found| !found.is_file());
                let flags = match side {
                    Side::Upper if !special => *flags,
                    // What alignment it wants is the plain filesystem's choice; pipes refuse it.
                    Side::Upper | Side::Plain => flags & !libc::O_DIRECT,
                };
                let file = OpenOptions::new()
                    .read(flags & libc::O_ACCMODE != libc::O_WRONLY)
                    .write(flags & libc::O_ACCMODE != libc::O_RDONLY)
                    .custom_flags(flags & !libc::O_ACCMODE | libc::O_NONBLOCK)
                    .mode(*mode)
                    .open(at(path));
                let file = file.map_err(errno)?;
                // A directory or a pipe: held open it would only be in the way.
                if file.metadata().is_ok_and(|m| m.is_file()) {
                    handles.push(file);
                }
                Ok(Given::Nothing)
            }
            Self::Close { handle } => {
                drop(handles.swap_remove(*handle));
                Ok(Given::Nothing)
            }
            Self::Write {
                handle,
                offset,
                len,
                byte,
            } => {
                let data = vec![*byte; *len];
                let appends = flags_of(&handles[*handle]) & libc::O_APPEND != 0;
                let file = &handles[*handle];
                let wrote = if appends {
                    nix::unistd::write(file, &data).map_err(|e| e as i32)
                } else {
                    file.write_at(&data, *offset).map_err(errno)
                };
                wrote.map(|n| Given::Number(n as u64))
            }
            Self::Read {
                handle,
                offset,
                len,
            } => {
                let mut data = vec![0; *len];
                let read = handles[*handle]
                    .read_at(&mut data, *offset)
                    .map_err(errno)?;
                Ok(Given::Bytes(data[..read].to_vec()))
            }
            Self::SetLen { handle, len } => nothing(handles[*handle].set_len(*len)),
            Self::Truncate { path, len } => {
                nix::unistd::truncate(&at(path), *len as i64).map_err(|e| e as i32)?;
                Ok(Given::Nothing)
            }
            Self::Allocate {
                handle,
                mode,
                offset,
                len,
            } => {
                let mode = FallocateFlags::from_bits_retain(*mode);
                fallocate(&handles[*handle], mode, *offset as i64, *len as i64)
                    .map_err(|e| e as i32)?;
                Ok(Given::Nothing)
            }
            Self::Seek {
                handle,
                offset,
                whence,
            } => {
                let whence = if *whence == libc::SEEK_DATA {
                    Whence::SeekData
                } else {
                    Whence::SeekHole
                };
                let file = &handles[*handle];
                let size = file.metadata().map_err(errno)?.len();
                let found = lseek64(file, *offset as i64, whence);
                // What is a hole is the filesystem's choice; that there is none beyond the end is not.
                match found {
                    Ok(found) if (*offset..=size).contains(&(found as u64)) => Ok(Given::Nothing),
                    Ok(found) => Ok(Given::Number(found as u64)),
                    Err(_) if *offset < size => Ok(Given::Nothing),
                    Err(errno) => Err(errno as i32),
                }
            }
            Self::Sync { handle } => nothing(handles[*handle].sync_all()),
            Self::StatHandle { handle } => {
                let stat = handles[*handle].metadata().map_err(errno)?;
                let told = format!("{:o} {} {}", stat.mode(), stat.nlink(), stat.len());
                Ok(Given::Bytes(told.into_bytes()))
            }
            Self::MakeDir { path, mode } => {
                let mode = Mode::from_bits_truncate(*mode);
                nix::unistd::mkdir(&at(path), mode).map_err(|e| e as i32)?;
                Ok(Given::Nothing)
            }
            Self::RemoveDir { path } => nothing(fs::remove_dir(at(path))),
            Self::Unlink { path } => nothing(fs::remove_file(at(path))),
            Self::Rename { from, to, flags } => {
                let flags = RenameFlags::from_bits_retain(*flags);
                renameat2(AT_FDCWD, &at(from), AT_FDCWD, &at(to), flags).map_err(|e| e as i32)?;
                Ok(Given::Nothing)
            }
            // A symlink gets a second one instead, in another directory: `names` tests that.
            Self::Link { from, .. } if at(from).is_symlink() => Ok(Given::Nothing),
            Self::Link { from, to } => nothing(fs::hard_link(at(from), at(to))),
            Self::Symlink { target, path } => nothing(symlink(target, at(path))),
            Self::ReadLink { path } => {
                let target = fs::read_link(at(path)).map_err(errno)?;
                Ok(Given::Bytes(target.as_os_str().as_bytes().to_vec()))
            }
            Self::MakeNode { path, kind } => {
                let kind = SFlag::from_bits_truncate(*kind);
                mknod(&at(path), kind, Mode::from_bits_truncate(0o640), 0).map_err(|e| e as i32)?;
                Ok(Given::Nothing)
            }
            Self::Chmod { path, mode } => nothing(fs::set_permissions(
                at(path),
                fs::Permissions::from_mode(*mode),
            )),
            Self::Chown { path, uid, gid } => {
                nothing(std::os::unix::fs::lchown(at(path), Some(*uid), Some(*gid)))
            }
            Self::SetTimes {
                path,
                seconds,
                nanoseconds,
            } => {
                let time = nix::sys::time::TimeSpec::new(*seconds, *nanoseconds);
                let flags = nix::sys::stat::UtimensatFlags::NoFollowSymlink;
                nix::sys::stat::utimensat(AT_FDCWD, &at(path), &time, &time, flags)
                    .map_err(|e| e as i32)?;
                Ok(Given::Nothing)
            }
            Self::SetAttribute {
                path,
                name,
                len,
                flags,
            } => attribute(
                &at(path),
                name,
                AttributeCall::Set(&vec![b'x'; *len], *flags),
            ),
            Self::RemoveAttribute { path, name } => {
                attribute(&at(path), name, AttributeCall::Remove)
            }
            Self::SyncDir { path } => {
                let mut options = OpenOptions::new();
                options.read(true).custom_flags(libc::O_DIRECTORY);
                nothing(options.open(at(path)).map_err(errno)?.sync_all())
            }
            Self::List { path } => {
                let entries = fs::read_dir(at(path)).map_err(errno)?;
                let names = entries.map(|e| Ok(e?.file_name().as_bytes().to_vec()));
                let mut names = names.collect::<io::Result<Vec<_>>>().map_err(errno)?;
                names.sort();
                Ok(Given::Names(names))
            }
        }
    }
}

enum AttributeCall<'a> {
    Set(&'a [u8], i32),
    Remove,
}

#[allow(unsafe_code)] // libc has no safe form of these.
fn attribute(path: &Path, name: &str, call: AttributeCall<'_>) -> Outcome {
    let path = CString::new(path.as_os_str().as_bytes()).unwrap();
    let name = CString::new(name).unwrap();
    // SAFETY: both strings end in NUL; the value is read for its length only.
    let done = unsafe {
        match call {
            AttributeCall::Set(value, flags) => libc::lsetxattr(
                path.as_ptr(),
                name.as_ptr(),
                value.as_ptr().cast(),
                value.len(),
                flags,
            ),
            AttributeCall::Remove => libc::lremovexattr(path.as_ptr(), name.as_ptr()),
        }
    };
    if done == 0 {
        Ok(Given::Nothing)
    } else {
        Err(errno(io::Error::last_os_error()))
    }
}

fn flags_of(file: &File) -> i32 {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd())).unwrap();
    let flags = info
        .lines()
        .find_map(|line| line.strip_prefix("flags:\t"))
        .unwrap();
    i32::from_str_radix(flags.trim(), 8).unwrap()
}

fn nothing(done: io::Result<()>) -> Outcome {
    done.map(|()| Given::Nothing).map_err(errno)
}

fn errno(error: io::Error) -> i32 {
    error.raw_os_error().expect("an error of the kernel")
}

/// A path of at most three components of few names, so that they meet; some are long.
fn path(random: &mut Random) -> PathBuf {
    let depth = 1 + random.below(3);
    (0..depth).map(|_| name(random)).collect()
}

fn name(random: &mut Random) -> String {
    match random.below(8) {
        0 => "n".repeat(176),
        1 => "m".repeat(255),
        n => char::from(b'a' + n as u8).to_string(),
    }
}

/// Around the boundaries of blocks and segments.
fn offset(random: &mut Random) -> u64 {
    let block = random.of(&[0, 1, 2, 7, 47, 48, 49, 111, 112]);
    let within = random.of(&[0, 0, 1, 100, 4095]);
    block * 4096 + within
}

fn length(random: &mut Random) -> usize {
    random.of(&[0, 1, 100, 4096, 4097, 8192, 20_000, 200_000])
}
