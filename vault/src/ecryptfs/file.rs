//! An open lower file.

use core::fmt;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use zeroize::Zeroizing;

use super::content::{ContentCipher, EXTENT};
use super::error::EcryptfsError;
use super::fek::Fek;
use super::header::{Header, MAX_SIZE, MetadataPlace};
use super::sys;
use crate::native::Access;
use crate::native::lower::{read_at, write_at};

/// A lower file of eCryptfs, opened: one an inode, shared by all who have it open.
///
/// Reads run beside each other, writes alone. Extents are rewritten in place, as the kernel does: a
/// crash in the middle may lose an extent, and nothing tells. There must be no other `LowerFile` of the
/// same file that is written through.
pub struct LowerFile {
    lower: File,
    access: Access,
    cipher: ContentCipher,
    content_offset: u64,
    state: RwLock<State>,
}

struct State {
    size: u64,
    header: SizeField,
}

/// Where the size is kept.
enum SizeField {
    /// In the first 8 bytes of the file.
    Header,
    /// In the first 8 bytes of the extended attribute, of which this is the value.
    Xattr(Vec<u8>),
}

impl LowerFile {
    /// Writes the header of a new file to `lower`, which is empty and open for reading and writing,
    /// without O_APPEND.
    ///
    /// # Errors
    /// [`EcryptfsError::Io`].
    pub fn create(lower: OwnedFd, header: &Header, fek: &Fek) -> Result<Self, EcryptfsError> {
        let bytes = header.write();
        match header.place {
            MetadataPlace::Header => write_at(lower.as_fd(), 0, &bytes)?,
            MetadataPlace::Xattr => sys::set_xattr(lower.as_fd(), &bytes)?,
        }
        Self::open(lower, header, fek, Access::ReadWrite)
    }

    /// Opens an existing file by its header and FEK; `lower` without O_APPEND.
    ///
    /// # Errors
    /// [`EcryptfsError::NotEcryptfs`] if the extended attribute is gone; [`EcryptfsError::Io`].
    pub fn open(
        lower: OwnedFd,
        header: &Header,
        fek: &Fek,
        access: Access,
    ) -> Result<Self, EcryptfsError> {
        let size_field = match header.place {
            MetadataPlace::Header => SizeField::Header,
            // As it is, since what is written back should be what was there but for the size.
            MetadataPlace::Xattr => {
                SizeField::Xattr(sys::xattr(lower.as_fd())?.ok_or(EcryptfsError::NotEcryptfs)?)
            }
        };
        Ok(Self {
            lower: lower.into(),
            access,
            cipher: ContentCipher::new(fek),
            content_offset: header.content_offset(),
            state: RwLock::new(State {
                size: header.size,
                header: size_field,
            }),
        })
    }

    /// Bytes that can be read. The header's word; not verified.
    pub fn size(&self) -> u64 {
        self.read_state().size
    }

    /// Reads up to the end of `out` or of the file, whichever is first.
    ///
    /// # Errors
    /// [`EcryptfsError::CutShort`] where the lower file has less than the header says; the kernel gives
    /// bytes of no meaning there. [`EcryptfsError::Io`].
    pub fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<usize, EcryptfsError> {
        let state = self.read_state();
        let len = within(state.size.saturating_sub(offset), out.len());
        let (out, _) = out.split_at_mut(len);
        let (head, body, tail) = split(offset, out);
        if !head.is_empty() {
            let extent = self.load(index(offset))?;
            head.copy_from_slice(part(&extent, within_extent(offset), head.len()));
        }
        let offset = offset + head.len() as u64;
        if !body.is_empty() {
            self.load_into(index(offset), body)?;
        }
        let offset = offset + body.len() as u64;
        if !tail.is_empty() {
            let extent = self.load(index(offset))?;
            tail.copy_from_slice(part(&extent, 0, tail.len()));
        }
        Ok(len)
    }

    /// Writes; a gap between the end of the file and `offset` becomes encrypted zeros, as the format
    /// has no holes.
    ///
    /// # Errors
    /// [`EcryptfsError::ReadOnly`], [`EcryptfsError::TooLarge`], [`EcryptfsError::CutShort`],
    /// [`EcryptfsError::Io`].
    pub fn write_at(&self, offset: u64, data: &[u8]) -> Result<(), EcryptfsError> {
        let mut state = self.writable()?;
        self.write(&mut state, offset, data)
    }

    /// Writes at the end; the offset of what was written.
    ///
    /// # Errors
    /// As [`LowerFile::write_at`].
    pub fn append(&self, data: &[u8]) -> Result<u64, EcryptfsError> {
        let mut state = self.writable()?;
        let offset = state.size;
        self.write(&mut state, offset, data)?;
        Ok(offset)
    }

    /// Makes the file shorter or, with encrypted zeros, longer.
    ///
    /// # Errors
    /// As [`LowerFile::write_at`].
    pub fn truncate(&self, size: u64) -> Result<(), EcryptfsError> {
        let mut state = self.writable()?;
        if size > MAX_SIZE {
            return Err(EcryptfsError::TooLarge);
        }
        if size > state.size {
            return self.grow(&mut state, size, size, &[]);
        }
        if size < state.size {
            // The size first: who sees the file after a crash sees all of it or none of what was cut.
            self.put_size(&mut state, size)?;
            let rest = EXTENT - within_extent(size);
            if rest < EXTENT {
                self.put(size, size, &vec![0; rest])?;
            }
            self.lower.set_len(self.lower_len(size))?;
        }
        Ok(())
    }

    /// Makes all that was written durable, the size included.
    ///
    /// # Errors
    /// [`EcryptfsError::Io`].
    pub fn sync(&self) -> Result<(), EcryptfsError> {
        Ok(self.lower.sync_all()?)
    }

    fn write(&self, state: &mut State, offset: u64, data: &[u8]) -> Result<(), EcryptfsError> {
        let end = offset.checked_add(data.len() as u64);
        let end = end.filter(|&end| end <= MAX_SIZE);
        let end = end.ok_or(EcryptfsError::TooLarge)?;
        if data.is_empty() {
            return Ok(());
        }
        if end > state.size {
            return self.grow(state, end, offset, data);
        }
        self.put(state.size, offset, data)
    }

    /// Writes `data`, which ends at `end`, beyond the end of the file, with zeros before it.
    fn grow(
        &self,
        state: &mut State,
        end: u64,
        offset: u64,
        data: &[u8],
    ) -> Result<(), EcryptfsError> {
        let written = self
            .put_zeros(state.size, offset)
            .and_then(|()| self.put(state.size.max(offset), offset, data))
            .and_then(|()| self.put_size(state, end));
        if written.is_err() {
            // Of a full disk, say, as little as possible is taken. The error is what counts.
            let _ = self.lower.set_len(self.lower_len(state.size));
        }
        written
    }

    fn put_zeros(&self, size: u64, end: u64) -> Result<(), EcryptfsError> {
        let zeros = vec![0; BATCH];
        let mut done = size;
        while done < end {
            // Up to the end of an extent, so that each extent but the first is written once.
            let room = BATCH - within_extent(done);
            let (zeros, _) = zeros.split_at(within(end - done, room));
            self.put(done, done, zeros)?;
            done += zeros.len() as u64;
        }
        Ok(())
    }

    /// Writes the extents that `data` touches; of those that it does not fill, the file has the rest,
    /// up to `size`. Does not touch the header.
    fn put(&self, size: u64, offset: u64, data: &[u8]) -> Result<(), EcryptfsError> {
        let mut extents = Zeroizing::new(Vec::with_capacity(data.len().min(BATCH) + 2 * EXTENT));
        let mut offset = offset;
        let mut data = data;
        while !data.is_empty() {
            let room = BATCH - within_extent(offset);
            let (now, later) = data.split_at(data.len().min(room));
            let first = index(offset);
            let skipped = within_extent(offset);
            let whole = (skipped + now.len()).next_multiple_of(EXTENT);
            extents.clear();
            extents.resize(whole, 0);
            let last = first + (whole / EXTENT) as u64 - 1;
            let end = offset + now.len() as u64;
            if skipped > 0 {
                self.load_edge(first, size, &mut extents, 0)?;
            }
            // The one at the end too, unless it has just been loaded, is filled, or is new.
            if !end.is_multiple_of(EXTENT_LEN) && end < size && (last > first || skipped == 0) {
                self.load_edge(last, size, &mut extents, whole - EXTENT)?;
            }
            let (_, place) = extents.split_at_mut(skipped);
            let (place, _) = place.split_at_mut(now.len());
            place.copy_from_slice(now);
            self.cipher.encrypt(first, &mut extents);
            write_at(self.lower.as_fd(), self.lower_offset(first), &extents)?;
            offset = end;
            data = later;
        }
        Ok(())
    }

    /// Loads extent `index` to `at` in `extents`. What lies beyond `size` is zero, whatever the lower
    /// file has there.
    fn load_edge(
        &self,
        index: u64,
        size: u64,
        extents: &mut [u8],
        at: usize,
    ) -> Result<(), EcryptfsError> {
        let kept = within(size.saturating_sub(index * EXTENT_LEN), EXTENT);
        if kept == 0 {
            return Ok(());
        }
        let extent = self.load(index)?;
        let (_, place) = extents.split_at_mut(at);
        let (place, _) = place.split_at_mut(kept);
        place.copy_from_slice(part(&extent, 0, kept));
        Ok(())
    }

    fn load(&self, index: u64) -> Result<Zeroizing<[u8; EXTENT]>, EcryptfsError> {
        let mut extent = Zeroizing::new([0; EXTENT]);
        self.load_into(index, extent.as_mut_slice())?;
        Ok(extent)
    }

    /// Loads whole extents.
    fn load_into(&self, first: u64, extents: &mut [u8]) -> Result<(), EcryptfsError> {
        let read = read_at(self.lower.as_fd(), self.lower_offset(first), extents)?;
        if read < extents.len() {
            return Err(EcryptfsError::CutShort(first + (read / EXTENT) as u64));
        }
        self.cipher.decrypt(first, extents);
        Ok(())
    }

    fn put_size(&self, state: &mut State, size: u64) -> Result<(), EcryptfsError> {
        let bytes = size.to_be_bytes();
        match &mut state.header {
            SizeField::Header => write_at(self.lower.as_fd(), 0, &bytes)?,
            SizeField::Xattr(value) => {
                for (place, byte) in value.iter_mut().zip(bytes) {
                    *place = byte;
                }
                sys::set_xattr(self.lower.as_fd(), value)?;
            }
        }
        state.size = size;
        Ok(())
    }

    fn lower_offset(&self, index: u64) -> u64 {
        self.content_offset + index * EXTENT_LEN
    }

    /// Length of the lower file for an upper file of `size`.
    fn lower_len(&self, size: u64) -> u64 {
        self.lower_offset(size.div_ceil(EXTENT_LEN))
    }

    fn read_state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn writable(&self) -> Result<RwLockWriteGuard<'_, State>, EcryptfsError> {
        match self.access {
            Access::ReadOnly => Err(EcryptfsError::ReadOnly),
            Access::ReadWrite => Ok(self.state.write().unwrap_or_else(PoisonError::into_inner)),
        }
    }
}

const EXTENT_LEN: u64 = EXTENT as u64;

/// Bytes that are encrypted and written at once.
const BATCH: usize = 256 * EXTENT;

fn index(offset: u64) -> u64 {
    offset / EXTENT_LEN
}

fn within_extent(offset: u64) -> usize {
    (offset % EXTENT_LEN) as usize
}

/// The smaller of the two.
fn within(len: u64, limit: usize) -> usize {
    usize::try_from(len).map_or(limit, |len| len.min(limit))
}

/// `len` bytes of an extent; callers stay within it.
fn part(extent: &[u8; EXTENT], at: usize, len: usize) -> &[u8] {
    let (_, rest) = extent.split_at(at);
    let (part, _) = rest.split_at(len);
    part
}

/// Divides what is read at `offset` into a part of one extent, whole extents, and a part of the last.
fn split(offset: u64, out: &mut [u8]) -> (&mut [u8], &mut [u8], &mut [u8]) {
    let head_len = match within_extent(offset) {
        0 => 0,
        within => out.len().min(EXTENT - within),
    };
    let (head, rest) = out.split_at_mut(head_len);
    let body_len = rest.len() - rest.len() % EXTENT;
    let (body, tail) = rest.split_at_mut(body_len);
    (head, body, tail)
}

impl AsFd for LowerFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.lower.as_fd()
    }
}

impl fmt::Debug for LowerFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LowerFile")
            .field("access", &self.access)
            .field("content_offset", &self.content_offset)
            .finish_non_exhaustive()
    }
}
