//! Lower files that need no key: those in clear, and all of them in the encrypted view.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::error::EcryptfsError;
use super::header::{Header, MIN_HEADER_LEN, MetadataPlace};
use crate::format::{Content, FormatError, Ranges, Settles};
use crate::native::Access;
use crate::native::lower::{read_at, write_at};

/// A lower file that is above what it is below: the mount option `ecryptfs_passthrough`. Also a file that
/// was made and never written.
pub(super) struct ClearFile {
    lower: File,
    access: Access,
}

impl ClearFile {
    pub(super) fn new(lower: OwnedFd, access: Access) -> Self {
        Self {
            lower: lower.into(),
            access,
        }
    }

    fn to_write(&self) -> Result<&File, FormatError> {
        match self.access {
            Access::ReadOnly => Err(FormatError::ReadOnly),
            Access::ReadWrite => Ok(&self.lower),
        }
    }
}

impl AsFd for ClearFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.lower.as_fd()
    }
}

impl Content for ClearFile {
    fn size(&self) -> u64 {
        self.lower.metadata().map_or(0, |metadata| metadata.len())
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<usize, FormatError> {
        Ok(read_at(self.as_fd(), offset, out)?)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<(), FormatError> {
        Ok(write_at(self.to_write()?.as_fd(), offset, data)?)
    }

    fn truncate(&self, size: u64) -> Result<(), FormatError> {
        Ok(self.to_write()?.set_len(size)?)
    }

    fn flush(&self) -> Result<(), FormatError> {
        Ok(())
    }

    fn sync(&self) -> Result<(), FormatError> {
        Ok(self.lower.sync_all()?)
    }

    fn settles(&self) -> Option<&dyn Settles> {
        None
    }

    fn ranges(&self) -> Option<&dyn Ranges> {
        None
    }
}

/// A lower file as a backup takes it: the mount option `ecryptfs_encrypted_view`. One whose header is in
/// an extended attribute has 8192 zeros in front, as in Linux.
pub(super) struct EncryptedView {
    lower: File,
    zeros: u64,
}

impl EncryptedView {
    pub(super) fn new(lower: OwnedFd) -> Result<Self, EcryptfsError> {
        let in_xattr = matches!(
            Header::read(lower.as_fd()),
            Ok(Header {
                place: MetadataPlace::Xattr,
                ..
            })
        );
        Ok(Self {
            lower: lower.into(),
            zeros: if in_xattr { MIN_HEADER_LEN } else { 0 },
        })
    }
}

impl AsFd for EncryptedView {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.lower.as_fd()
    }
}

impl Content for EncryptedView {
    fn size(&self) -> u64 {
        let lower = self.lower.metadata().map_or(0, |metadata| metadata.len());
        lower + self.zeros
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<usize, FormatError> {
        let zeros = usize::try_from(self.zeros.saturating_sub(offset)).unwrap_or(usize::MAX);
        let (zeros, rest) = out.split_at_mut(zeros.min(out.len()));
        zeros.fill(0);
        let below = offset.saturating_sub(self.zeros);
        Ok(zeros.len() + read_at(self.as_fd(), below, rest)?)
    }

    fn write_at(&self, _offset: u64, _data: &[u8]) -> Result<(), FormatError> {
        Err(FormatError::ReadOnly)
    }

    fn truncate(&self, _size: u64) -> Result<(), FormatError> {
        Err(FormatError::ReadOnly)
    }

    fn flush(&self) -> Result<(), FormatError> {
        Ok(())
    }

    fn sync(&self) -> Result<(), FormatError> {
        Ok(())
    }

    fn settles(&self) -> Option<&dyn Settles> {
        None
    }

    fn ranges(&self) -> Option<&dyn Ranges> {
        None
    }
}
