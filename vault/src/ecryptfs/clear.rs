//! Lower files that need no key: those in clear, and all of them in the encrypted view.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::error::EcryptfsError;
use super::header::{Header, MetadataPlace};
use super::mount_options::PlainFiles;
use crate::format::{Content, Edition, FormatError, Ranges, Settles};
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

    fn sync(&self) -> Result<(), FormatError> {
        Ok(self.lower.sync_all()?)
    }

    fn edition(&self) -> Option<Edition> {
        None
    }

    fn settles(&self) -> Option<&dyn Settles> {
        None
    }

    fn ranges(&self) -> Option<&dyn Ranges> {
        None
    }
}

/// A lower file as a backup takes it: the mount option `ecryptfs_encrypted_view`. A header that is in an
/// extended attribute is put in front, as in Linux: a copy needs no attributes.
pub(super) struct EncryptedView {
    lower: File,
    /// What is before the lower file's bytes.
    front: Vec<u8>,
}

impl EncryptedView {
    /// # Errors
    /// [`EcryptfsError::NotEcryptfs`], unless such files are passed through; [`EcryptfsError::Io`].
    pub(super) fn new(lower: OwnedFd, plain_files: PlainFiles) -> Result<Self, EcryptfsError> {
        let front = match Header::read(lower.as_fd()) {
            Ok(header) if header.place == MetadataPlace::Xattr => header.moved_to_front().write(),
            Err(EcryptfsError::NotEcryptfs) if plain_files == PlainFiles::Refused => {
                return Err(EcryptfsError::NotEcryptfs);
            }
            // One that is damaged is for the backup, too.
            Ok(_) | Err(_) => Vec::new(),
        };
        Ok(Self {
            lower: lower.into(),
            front,
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
        lower + self.front.len() as u64
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<usize, FormatError> {
        let skipped = usize::try_from(offset).unwrap_or(usize::MAX);
        let front = self.front.get(skipped..).unwrap_or_default();
        let (place, rest) = out.split_at_mut(front.len().min(out.len()));
        place.copy_from_slice(front.get(..place.len()).unwrap_or_default());
        let below = offset.saturating_sub(self.front.len() as u64);
        Ok(place.len() + read_at(self.as_fd(), below, rest)?)
    }

    fn write_at(&self, _offset: u64, _data: &[u8]) -> Result<(), FormatError> {
        Err(FormatError::ReadOnly)
    }

    fn truncate(&self, _size: u64) -> Result<(), FormatError> {
        Err(FormatError::ReadOnly)
    }

    fn sync(&self) -> Result<(), FormatError> {
        Ok(())
    }

    fn edition(&self) -> Option<Edition> {
        None
    }

    fn settles(&self) -> Option<&dyn Settles> {
        None
    }

    fn ranges(&self) -> Option<&dyn Ranges> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ecryptfs::{EXTENT, Fek, Flags, KeyLen, LowerFile, NamesAre, Packet};
    use crate::ecryptfs::{PassphraseKey, Salt};

    #[test]
    fn a_header_in_an_attribute_is_in_front_of_what_a_backup_takes() {
        let key = PassphraseKey::derive(b"passphrase", Salt::DEFAULT).unwrap();
        let fek = Fek::random(KeyLen::Aes128);
        let packets = vec![Packet::wrap(&fek, &key)];
        let header = Header::fresh(packets, MetadataPlace::Xattr, NamesAre::Encrypted).unwrap();
        let lower = tempfile::tempfile().unwrap();
        let file = LowerFile::create(lower.try_clone().unwrap().into(), &header, &fek).unwrap();
        file.write_at(0, b"content").unwrap();

        let view = EncryptedView::new(lower.into(), PlainFiles::Refused).unwrap();
        let mut seen = vec![0; 8192 + EXTENT];
        assert_eq!(view.size(), seen.len() as u64);
        // Over the end of the header, too.
        for (start, len) in [(0, 8000), (8000, 1000), (9000, 3288)] {
            let (_, rest) = seen.split_at_mut(start);
            let (part, _) = rest.split_at_mut(len);
            assert_eq!(view.read_at(start as u64, part).unwrap(), len);
        }
        assert_eq!(view.read_at(view.size() + 1, &mut [0]).unwrap(), 0);

        // A file of its own.
        let moved = Header::parse(&seen, MetadataPlace::Header).unwrap();
        assert_eq!(moved.flags, Flags(Flags::ENCRYPTED.0 | Flags::NAMES.0));
        let copy = tempfile::tempfile().unwrap();
        write_at(copy.as_fd(), 0, &seen).unwrap();
        let copy = LowerFile::open(copy.into(), &moved, &fek, Access::ReadOnly).unwrap();
        let mut content = [0; 7];
        assert_eq!(copy.read_at(0, &mut content).unwrap(), 7);
        assert_eq!(&content, b"content");
    }

    #[test]
    fn a_file_that_is_not_of_ecryptfs_is_in_the_view_only_if_such_are_passed_through() {
        let plain = tempfile::tempfile().unwrap();
        write_at(plain.as_fd(), 0, &[7; 9000]).unwrap();
        let view = |plain_files| EncryptedView::new(plain.try_clone().unwrap().into(), plain_files);
        let refused = view(PlainFiles::Refused).err();
        assert!(matches!(refused, Some(EcryptfsError::NotEcryptfs)));
        assert_eq!(view(PlainFiles::PassedThrough).unwrap().size(), 9000);
    }
}
