//! An open native file: what the filesystem reads and writes.

mod barrier;
mod punch;
mod put;
mod read;
mod resize;
mod seek;
mod settle;
#[cfg(test)]
mod tests;
mod version;
mod write;

use core::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::aead::Random;
use super::announced::Announced;
use super::error::{FileError, Part};
use super::feks::{ContentKeys, Feks};
use super::fixed::FixedPart;
use super::layout::{self, Layout, MAX_SIZE, PLACES, SHAPES};
use super::lower::Lower;
use super::octets::Octets;
use super::place::{PLACE_LEN, PlaceSeal};
use super::segment::{Segment, Segments};
use super::shape::{SHAPE_LEN, Settled, Shape, Shapes};
use super::unsynced::Unsynced;
use super::{HEAD_LEN, PAGE};

/// What an open file may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// The lower file is open for reading only.
    ReadOnly,
    /// The lower file is open for reading and writing.
    ReadWrite,
}

/// A native file, opened: one an inode, shared by all who have it open.
///
/// Reads run beside each other, writes alone. Nothing that may be durable is rewritten in place:
/// each block has two slot halves and each record two copies (`docs/format.md`).
///
/// There must be no other `NativeFile` of the same lower file, in any process: what is known to be
/// durable is known here only. Dropping it writes nothing: what was announced and not synced is lost.
pub struct NativeFile {
    lower: Lower,
    access: Access,
    fixed: FixedPart,
    layout: Layout,
    random: Random,
    state: RwLock<State>,
}

struct State {
    keys: ContentKeys,
    size: u64,
    /// Blocks below are durable, each named by its slot, with no stale hole record beside (rule W8).
    solid: u64,
    /// The first of the blocks whose old hole record was wiped since the last barrier: until the next, a
    /// shape counts no further.
    wiped_from: u64,
    /// The shape found at opening was unsettled: from `solid` up to here, slots may name blocks that
    /// a crash has kept from the disk.
    doubtful_end: u64,
    shapes: Shapes,
    segments: Segments,
    unsynced: Unsynced,
    announced: Announced,
    earlier: Earlier,
    cut: Cut,
    health: Health,
}

/// What was written before this file was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Earlier {
    Durable,
    /// Maybe a moment ago: no barrier since is known of.
    Unknown,
}

/// Blocks that were cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    Durable,
    /// From this one on, a crash may bring them back, or of the first what was behind the end: none may
    /// get longer, nor be within a size that grows, before a barrier (rule W6).
    From(u64),
    /// The lower file may hold more than the size shows: what a crash has left of a shrink, or of an
    /// append whose size it lost. It has to go before the file grows over it.
    Unchecked,
}

/// Whether what is written can still be made durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Health {
    Well,
    /// A barrier failed. The kernel reports a lost write once and then forgets it.
    Poisoned,
}

impl NativeFile {
    /// Makes a new file of `head` in `lower`, which is empty: writes its header in one piece.
    ///
    /// `lower` is open for reading and writing, without O_APPEND, which moves every write to the end.
    ///
    /// # Errors
    /// [`FileError::Unsupported`] if `head` is not a head; [`FileError::Io`].
    pub fn create(
        lower: OwnedFd,
        head: &[u8],
        feks: Feks,
        place: PlaceSeal,
    ) -> Result<Self, FileError> {
        Self::create_with(lower, head, &feks, &place, Random::Kernel)
    }

    pub(super) fn create_with(
        lower: OwnedFd,
        head: &[u8],
        feks: &Feks,
        place: &PlaceSeal,
        random: Random,
    ) -> Result<Self, FileError> {
        let (fixed, page_0, page_1) = parse_head(head)?;
        let keys = ContentKeys::new(fixed.file, feks);
        let shape = Shape {
            seq: 1,
            size: 0,
            solid: 0,
            settled: Settled::Yes,
        };
        let mut header = Vec::with_capacity(2 * PAGE);
        header.extend(page_0);
        header.extend(shape.write(keys.shape()));
        header.resize(PLACES as usize, 0);
        header.extend(place.write(0, &[]));
        header.resize(PAGE, 0);
        // Nobody has to read back what is known to be zeros.
        let (_, slots) = header.split_at(PLACES as usize + 2 * PLACE_LEN);
        let segments = Segments::new();
        segments.keep(Segment::parse(0, slots));
        header.extend(page_1);
        let lower = Lower::new(lower);
        lower.write_at(0, &header)?;
        Ok(Self {
            lower,
            access: Access::ReadWrite,
            fixed,
            layout: Layout::new(fixed.header_pages()),
            random,
            state: RwLock::new(State {
                keys,
                size: 0,
                solid: 0,
                wiped_from: u64::MAX,
                doubtful_end: 0,
                shapes: Shapes::of_new_file(shape),
                segments,
                unsynced: Unsynced::default(),
                announced: Announced::default(),
                earlier: Earlier::Durable,
                cut: Cut::Durable,
                health: Health::Well,
            }),
        })
    }

    /// Reads the head of a lower file: what [`super::head::open`] takes.
    ///
    /// # Errors
    /// [`FileError::NeverReachedDisk`] if the file is shorter than its header or begins with zeros;
    /// [`FileError::Unsupported`]; [`FileError::Io`].
    pub fn read_head(lower: BorrowedFd<'_>) -> Result<Vec<u8>, FileError> {
        let mut pages = [0; 2 * PAGE];
        let read = super::lower::read_at(lower, 0, &mut pages)?;
        let (page_0, page_1) = pages.split_at(PAGE);
        let (head, _) = page_0.split_at(HEAD_LEN);
        if read < PAGE || super::octets::is_zero(head) {
            return Err(FileError::NeverReachedDisk);
        }
        let fixed = head.first_chunk().ok_or(FileError::NeverReachedDisk)?;
        match FixedPart::parse(fixed)?.header_pages() {
            1 => Ok(head.to_vec()),
            _ if read < 2 * PAGE => Err(FileError::NeverReachedDisk),
            _ => Ok([head, page_1].concat()),
        }
    }

    /// Opens an existing file by the FEKs that its head gave; `lower` without O_APPEND.
    ///
    /// # Errors
    /// [`FileError::Integrity`] with [`Part::Shape`] if these are not the file's FEKs, or its shape
    /// was changed; [`FileError::NeverReachedDisk`]; [`FileError::Unsupported`]; [`FileError::Io`].
    pub fn open(
        lower: OwnedFd,
        head: &[u8],
        feks: Feks,
        access: Access,
    ) -> Result<Self, FileError> {
        Self::open_with(lower, head, &feks, access, Random::Kernel)
    }

    fn open_with(
        lower: OwnedFd,
        head: &[u8],
        feks: &Feks,
        access: Access,
        random: Random,
    ) -> Result<Self, FileError> {
        let (fixed, _, _) = parse_head(head)?;
        let keys = ContentKeys::new(fixed.file, feks);
        let lower = Lower::new(lower);
        // Shapes, places and the slots of segment 0 in one read.
        let mut records = [0; PAGE - HEAD_LEN];
        if lower.read_at(SHAPES, &mut records)? < records.len() {
            return Err(FileError::NeverReachedDisk);
        }
        let mut octets = Octets(&records);
        let shapes = octets
            .array()
            .and_then(|copies| Shapes::parse(copies, keys.shape()));
        let shapes = shapes.ok_or(FileError::Integrity(Part::Shape))?;
        let places = octets.slice(2 * PLACE_LEN);
        let segments = Segments::new();
        if places.is_some() {
            segments.keep(Segment::parse(0, octets.0));
        }
        let Shape {
            size,
            solid,
            settled,
            ..
        } = *shapes.last();
        let doubtful_end = match settled {
            Settled::Yes => solid,
            Settled::No => layout::blocks(size),
        };
        Ok(Self {
            lower,
            access,
            fixed,
            layout: Layout::new(fixed.header_pages()),
            random,
            state: RwLock::new(State {
                keys,
                size,
                solid,
                wiped_from: u64::MAX,
                doubtful_end,
                shapes,
                segments,
                unsynced: Unsynced::default(),
                announced: Announced::default(),
                earlier: Earlier::Unknown,
                cut: Cut::Unchecked,
                health: Health::Well,
            }),
        })
    }

    /// Tells that all that was written to the lower file before it was opened is durable, as after
    /// syncfs(2). Without this the first write to something that may be the only durable version
    /// begins with a barrier.
    pub fn assume_durable(&self) {
        let mut state = self.write_state();
        if state.unsynced.is_empty() {
            state.earlier = Earlier::Durable;
            state.shapes.synced();
        }
    }

    /// What the file is.
    pub fn fixed(&self) -> &FixedPart {
        &self.fixed
    }

    /// Bytes that can be read.
    pub fn size(&self) -> u64 {
        self.read_state().size
    }

    /// What the newest shape tells: its sequence number and the size. `None` after a failed barrier, which
    /// may have lost it.
    pub fn told(&self) -> Option<(u64, u64)> {
        let state = self.read_state();
        let Shape { seq, size, .. } = *state.shapes.last();
        (state.health == Health::Well).then_some((seq, size))
    }

    /// The lower file.
    pub fn lower(&self) -> BorrowedFd<'_> {
        self.lower.as_fd()
    }

    /// Whether something that was written waits in memory for a barrier (rule W3).
    pub fn announces(&self) -> bool {
        !self.read_state().announced.is_empty()
    }

    /// Takes the FEKs of a head that was sealed anew: blocks from now on use the newest.
    pub fn adopt(&self, feks: Feks) {
        self.write_state().keys = ContentKeys::new(self.fixed.file, &feks);
    }

    /// Makes everything durable: data, slots and shape. Then the shape says so, if it did not yet.
    ///
    /// # Errors
    /// [`FileError::Poisoned`] or [`FileError::Io`].
    pub fn sync(&self) -> Result<(), FileError> {
        let mut state = self.write_state();
        self.check_health(&state)?;
        let all_durable = state.unsynced.is_empty()
            && state.shapes.durable_size() == Some(state.size)
            && state.earlier == Earlier::Durable
            && !matches!(state.cut, Cut::From(_));
        if all_durable {
            return Ok(());
        }
        match self.access {
            Access::ReadOnly => self.barrier(&mut state),
            Access::ReadWrite => {
                if !state.announced.is_empty() {
                    self.barrier(&mut state)?;
                }
                let size = state.size;
                let resized = state.shapes.last().size != size
                    || state.shapes.durable_size().is_some_and(|told| told != size);
                self.write_shape_if_changed(&mut state)?;
                self.barrier(&mut state)?;
                let told = state.shapes.last().seq;
                self.write_shape_if_changed(&mut state)?;
                if resized && state.shapes.last().seq == told {
                    // Should one copy be damaged below, the other tells the same size.
                    self.write_shape_again(&mut state)?;
                }
                Ok(())
            }
        }
    }

    fn read_state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_state(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state, to write: not of a file that is read-only or has lost writes.
    fn writable_state(&self) -> Result<RwLockWriteGuard<'_, State>, FileError> {
        if self.access == Access::ReadOnly {
            return Err(FileError::ReadOnly);
        }
        let state = self.write_state();
        self.check_health(&state)?;
        Ok(state)
    }

    fn check_health(&self, state: &State) -> Result<(), FileError> {
        match state.health {
            Health::Well => Ok(()),
            Health::Poisoned => Err(FileError::Poisoned),
        }
    }
}

impl AsFd for NativeFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.lower()
    }
}

impl fmt::Debug for NativeFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NativeFile")
            .field("fixed", &self.fixed)
            .finish_non_exhaustive()
    }
}

/// The end of a range, if a file can be that large.
fn checked_end(offset: u64, len: u64) -> Result<u64, FileError> {
    offset
        .checked_add(len)
        .filter(|&end| end <= MAX_SIZE)
        .ok_or(FileError::TooLarge)
}

/// The fixed part, and what of a head goes to page 0 and what to page 1.
fn parse_head(head: &[u8]) -> Result<(FixedPart, &[u8], &[u8]), FileError> {
    let bytes = head.first_chunk().ok_or(FileError::NeverReachedDisk)?;
    let fixed = FixedPart::parse(bytes)?;
    match head.split_at_checked(HEAD_LEN) {
        Some((page_0, page_1))
            if page_1.len() == (usize::from(fixed.header_pages()) - 1) * PAGE =>
        {
            Ok((fixed, page_0, page_1))
        }
        _ => Err(FileError::Integrity(Part::KeyRecord)),
    }
}

const _: () = assert!(SHAPES + 2 * SHAPE_LEN as u64 == PLACES);
