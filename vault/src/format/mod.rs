//! What a mount needs of an on-disk format: the seam between file operations and layouts.
//!
//! [`Format`] is there from the mount on, and knows no key. A [`Tree`] is there while the volume is
//! unlocked; a [`Folder`] is one of its directories, [`Content`] one of its files while that is open.
//! What an unwrap or the daemon's stock brings is [`FileKeys`] or a [`NewFile`], made by whoever has
//! asked the daemon.
//!
//! Two formats implement it: the native one, by [`NativeFormat`](crate::native::NativeFormat) and
//! [`NamesKeys`], and eCryptfs, in [`crate::ecryptfs`].
//!
//! Lower names are bytes. Nothing here follows a symlink, and no input panics.

mod attributes;
mod error;
mod mark;

use core::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

pub use attributes::{Attribute, AttributeError, Attributes};
pub use error::FormatError;
pub use mark::KeysMark;

use crate::dir::Location;
use crate::ids::{DirId, Epoch, FileId};
use crate::names::{LowerName, NamesKeys};
use crate::native::{Access, Links};
use crate::tree::EntryError;

/// An on-disk format, as one mount uses it. Needs no key.
pub trait Format: Send + Sync {
    /// Longest upper name, bytes: `f_namemax`.
    fn name_max(&self) -> u32;

    /// How many of the directories in the lower root are not shown above.
    fn hidden_in_root(&self) -> u32;

    /// Looks at a lower file that is to be opened, and opens it if that needs no key.
    ///
    /// # Errors
    /// [`FormatError`], also for a file of another volume.
    fn begin(&self, lower: OwnedFd, access: Access) -> Result<Begun, FormatError>;
}

/// What a lower file turns out to be.
pub enum Begun {
    /// Its FEK has to be unwrapped.
    Sealed {
        /// The lower file.
        lower: OwnedFd,
        /// What the daemon needs of it.
        head: Vec<u8>,
    },
    /// It opened without a key.
    Open(Box<dyn Content>),
    /// Made and never written: as good as empty, and gets its header now.
    Empty(OwnedFd),
    /// A crash came before its header reached the disk, and what was in it is lost. Never read as
    /// empty; whoever wants nothing of its content may have it made anew.
    NeverReachedDisk(OwnedFd),
}

/// An unlocked volume, seen from its directories.
pub trait Tree: Send + Sync {
    /// Opens the lower directory `dir`, which must belong at `at`.
    ///
    /// # Errors
    /// [`FormatError`].
    fn folder(&self, dir: BorrowedFd<'_>, at: Location<'_>)
    -> Result<Box<dyn Folder>, FormatError>;

    /// Bytes that a regular file or a symlink has above, while it is not open; nothing vouches for
    /// them. `lower_len` are those that it has below.
    fn size(&self, kind: Sized, lower_len: u64, object: &dyn LowerObject) -> u64;

    /// The extended attributes in `user.` of what `carrier` is.
    ///
    /// # Errors
    /// [`FormatError`].
    fn attributes<'a>(
        &'a self,
        carrier: Carrier<'_>,
    ) -> Result<Box<dyn Attributes + 'a>, FormatError>;

    /// The keys that bind files and directories to their places and make the records of directories.
    /// `None` where the format binds nothing, and keeps nothing of its own in a directory.
    fn names_keys(&self) -> Option<&NamesKeys>;
}

/// What has a size that the format decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sized {
    /// A regular file.
    File,
    /// A symbolic link: the size is its target's length.
    Symlink,
}

/// A lower object that is only opened if the format has to look at it.
pub trait LowerObject {
    /// Opens a regular file for reading.
    ///
    /// # Errors
    /// Those of open(2).
    fn open(&self) -> io::Result<OwnedFd>;

    /// The lower target of a symlink.
    ///
    /// # Errors
    /// Those of readlink(2).
    fn link_target(&self) -> io::Result<Vec<u8>>;
}

/// What carries extended attributes.
pub enum Carrier<'a> {
    /// A directory.
    Folder(&'a dyn Folder),
    /// A regular file.
    File(&'a dyn LowerObject),
}

/// The names in one directory.
pub trait Folder: Send + Sync {
    /// The directory's id; zero where the format gives directories none.
    fn id(&self) -> DirId;

    /// The lower name of `name`.
    ///
    /// # Errors
    /// [`FormatError::NameTooLong`] or [`FormatError::InvalidName`].
    fn encrypt(&self, name: &[u8]) -> Result<LowerName, FormatError>;

    /// What the lower name `lower` in this directory, open as `dir`, is called above; `None` if it is a
    /// name that the format keeps for itself, and `.` and `..`.
    fn upper_name(&self, dir: BorrowedFd<'_>, lower: &[u8]) -> Option<Result<Vec<u8>, EntryError>>;

    /// The lower target of a symlink to `target` in this directory.
    ///
    /// # Errors
    /// [`FormatError::NameTooLong`].
    fn seal_target(&self, target: &[u8]) -> Result<Vec<u8>, FormatError>;

    /// The upper target of a symlink in this directory whose lower target is `lower`.
    ///
    /// # Errors
    /// [`FormatError::Damaged`].
    fn open_target(&self, lower: &[u8]) -> Result<Vec<u8>, FormatError>;
}

/// Which of its states a file is in: a later one has a higher number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edition {
    /// The file.
    pub file: FileId,
    /// 1 when it is made; one more whenever its size changes or what vouches for it.
    pub seq: u64,
    /// Bytes that can be read.
    pub size: u64,
}

/// An open file: one an inode, shared by all who have it open.
pub trait Content: AsFd + Send + Sync {
    /// Bytes that can be read.
    fn size(&self) -> u64;

    /// Reads up to the end of `out` or of the file, whichever is first.
    ///
    /// # Errors
    /// [`FormatError`].
    fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<usize, FormatError>;

    /// Writes all of `data`. Whoever looks at the lower file next finds the size it has then.
    ///
    /// # Errors
    /// [`FormatError`].
    fn write_at(&self, offset: u64, data: &[u8]) -> Result<(), FormatError>;

    /// Makes the file shorter, or longer by zeros; the lower file tells the size at once.
    ///
    /// # Errors
    /// [`FormatError`].
    fn truncate(&self, size: u64) -> Result<(), FormatError>;

    /// Makes everything durable.
    ///
    /// # Errors
    /// [`FormatError`].
    fn sync(&self) -> Result<(), FormatError>;

    /// What its lower file is found to be when it is opened again, unless somebody else writes it. `None` where the format does not tell,
    /// or nobody knows what the lower file has come to.
    fn edition(&self) -> Option<Edition>;

    /// What there is to do once what was written is known to be durable; `None` if nothing.
    fn settles(&self) -> Option<&dyn Settles>;

    /// What the format can do with ranges of a file; `None` if it has no holes.
    fn ranges(&self) -> Option<&dyn Ranges>;
}

/// A file that was written and has more to write when that is durable.
pub trait Settles {
    /// Tells that all that was written so far is durable, as after syncfs(2): the lower file is to say so.
    ///
    /// # Errors
    /// [`FormatError`].
    fn made_durable(&self) -> Result<(), FormatError>;

    /// Whether something that was written waits in memory for a barrier: [`Content::sync`] writes it out.
    fn announces(&self) -> bool;
}

/// Holes and reserved room.
pub trait Ranges {
    /// Makes the file at least as long as the end of the range.
    ///
    /// # Errors
    /// [`FormatError`].
    fn allocate(&self, offset: u64, len: u64) -> Result<(), FormatError>;

    /// Makes the range, which lies within the size, read as zeros.
    ///
    /// # Errors
    /// [`FormatError`].
    fn punch(&self, offset: u64, len: u64) -> Result<(), FormatError>;

    /// Reserves lower room for the range; the lower length stays as it is.
    ///
    /// # Errors
    /// [`FormatError`].
    fn reserve(&self, offset: u64, end: u64) -> Result<(), FormatError>;

    /// The first offset from `offset` on that holds data; `None` if there is none.
    ///
    /// # Errors
    /// [`FormatError`].
    fn seek_data(&self, offset: u64) -> Result<Option<u64>, FormatError>;

    /// The first offset from `offset` on that is a hole, as the end of the file is; `None` beyond it.
    ///
    /// # Errors
    /// [`FormatError`].
    fn seek_hole(&self, offset: u64) -> Result<Option<u64>, FormatError>;
}

/// The keys of one existing file.
pub trait FileKeys: Send {
    /// Tells them from others. Keys prove nothing by being keys: only [`FileKeys::open`], or being those
    /// that the file is open by, shows that they are the file's.
    fn mark(&self) -> KeysMark;

    /// Opens the file that they are of. `at` is where it was found, if it has a name.
    ///
    /// # Errors
    /// [`FormatError`]: keys of another file, a file that does not belong at `at`.
    fn open(
        self: Box<Self>,
        lower: OwnedFd,
        access: Access,
        tree: &dyn Tree,
        at: Option<Location<'_>>,
    ) -> Result<Box<dyn Content>, FormatError>;
}

/// What a new file starts with.
pub trait NewFile: fmt::Debug + Send {
    /// The epoch it is made for: of no use once another has begun. `None` where the format has none.
    fn epoch(&self) -> Option<Epoch>;

    /// Tells the keys of the new file from others.
    fn mark(&self) -> KeysMark;

    /// Writes the header of a new file to `lower`, which is empty and open for reading and writing,
    /// without O_APPEND.
    ///
    /// # Errors
    /// [`FormatError`].
    fn create(
        self: Box<Self>,
        lower: OwnedFd,
        tree: &dyn Tree,
        at: Location<'_>,
        links: Links,
    ) -> Result<Box<dyn Content>, FormatError>;
}
