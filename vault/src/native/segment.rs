//! Segments of an open file: their slots and ciphers, kept for the next request.

use core::sync::atomic::{AtomicU64, Ordering};
use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use aws_lc_rs::aead::LessSafeKey;

use super::aead::{self, Refused};
use super::feks::{ContentKeys, MAX_FEKS};
use super::layout::{HEADER_BLOCKS, HEADER_SLOTS, Layout, SEGMENT_BLOCKS};
use super::lower::Lower;
use super::slot::{Half, Kind, SLOT_LEN, Slot};
use super::{PAGE, PAGE_LEN};

/// How many segments a file keeps: 64 MiB of it, in about 1.5 MiB of memory.
const KEPT: usize = 256;

/// The slots of a segment as they are on disk, with what decrypts its blocks.
pub(super) struct Segment {
    number: u64,
    slots: Box<[Slot]>,
    ciphers: [OnceLock<Option<Box<LessSafeKey>>>; MAX_FEKS],
    /// One bit a block: the newer half of its slot is known to verify, since it was read so or
    /// written here.
    verified: AtomicU64,
    used: AtomicU64,
}

impl Segment {
    /// A segment whose slots are `bytes`.
    pub(super) fn parse(number: u64, bytes: &[u8]) -> Self {
        let (halves, _) = bytes.as_chunks::<SLOT_LEN>();
        let slots = halves.iter().map(|slot| {
            let (halves, _) = slot.as_chunks();
            halves.try_into().map_or(Slot::ZERO, Slot)
        });
        Self {
            number,
            slots: slots.collect(),
            ciphers: Default::default(),
            verified: AtomicU64::new(0),
            used: AtomicU64::new(0),
        }
    }

    /// Length in bytes of the slots of a segment.
    pub(super) fn slots_len(number: u64) -> usize {
        let slots = if number == 0 {
            HEADER_BLOCKS
        } else {
            SEGMENT_BLOCKS
        };
        slots as usize * SLOT_LEN
    }

    pub(super) fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// The slot of a block by its index in the segment.
    pub(super) fn slot(&self, index: usize) -> Slot {
        self.slots.get(index).copied().unwrap_or(Slot::ZERO)
    }

    /// Notes what was written to a slot. What a writer wrote verifies.
    pub(super) fn set_slot(&mut self, index: usize, slot: Slot) {
        if let Some(place) = self.slots.get_mut(index) {
            *place = slot;
            self.note_verified(index);
        }
    }

    pub(super) fn is_verified(&self, index: usize) -> bool {
        self.verified.load(Ordering::Relaxed) & (1 << index) != 0
    }

    /// Notes that the newer half of a slot verifies.
    pub(super) fn note_verified(&self, index: usize) {
        self.verified.fetch_or(1 << index, Ordering::Relaxed);
    }

    /// Notes that the newer half of a slot may not verify.
    pub(super) fn doubt(&self, index: usize) {
        self.verified.fetch_and(!(1 << index), Ordering::Relaxed);
    }

    /// The cipher for blocks under FEK number `fek`; none if the file has no such FEK.
    pub(super) fn cipher(&self, keys: &ContentKeys, fek: u8) -> Option<&LessSafeKey> {
        self.ciphers
            .get(usize::from(fek))?
            .get_or_init(|| keys.segment(fek, self.number).map(Box::new))
            .as_deref()
    }

    /// Decrypts in place what `half` names.
    pub(super) fn open(
        &self,
        keys: &ContentKeys,
        block: u64,
        half: &Half,
        text: &mut [u8],
    ) -> Result<(), Refused> {
        let cipher = self.cipher(keys, half.fek).ok_or(Refused)?;
        aead::open(
            cipher,
            &half.nonce,
            &half.associated(block),
            text,
            &half.tag,
        )
    }

    /// Decrypts what `half` names of `sealed` into `plain` and returns how much there is; of a hole,
    /// nothing.
    pub(super) fn open_into(
        &self,
        keys: &ContentKeys,
        block: u64,
        half: &Half,
        sealed: &[u8],
        plain: &mut [u8; PAGE],
    ) -> Result<usize, Refused> {
        let len = match half.kind() {
            Kind::Hole => 0,
            Kind::Data => usize::from(half.length),
        };
        let cipher = self.cipher(keys, half.fek).ok_or(Refused)?;
        let (sealed, _) = sealed.split_at_checked(len).ok_or(Refused)?;
        let (plain, _) = plain.split_at_mut_checked(len).ok_or(Refused)?;
        let associated = half.associated(block);
        aead::open_into(cipher, &half.nonce, &associated, sealed, &half.tag, plain)?;
        Ok(len)
    }
}

/// The segments of a file that were used last.
///
/// Readers fill it while they share the file's lock, so it has one of its own, held for no longer
/// than a look-up. Writers hold the file's lock alone: no reader has a segment then.
pub(super) struct Segments {
    kept: Mutex<HashMap<u64, Arc<Segment>>>,
    clock: AtomicU64,
}

impl Segments {
    pub(super) fn new() -> Self {
        Self {
            kept: Mutex::new(HashMap::new()),
            clock: AtomicU64::new(0),
        }
    }

    /// A segment if it is in memory.
    pub(super) fn find(&self, number: u64) -> Option<Arc<Segment>> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let segment = kept.get(&number)?;
        self.touch(segment);
        Some(Arc::clone(segment))
    }

    /// Keeps a segment that was read, unless another reader was faster.
    pub(super) fn keep(&self, segment: Segment) -> Arc<Segment> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= KEPT && !kept.contains_key(&segment.number) {
            let oldest = kept
                .values()
                .min_by_key(|kept| kept.used.load(Ordering::Relaxed));
            if let Some(number) = oldest.map(|oldest| oldest.number) {
                kept.remove(&number);
            }
        }
        self.touch(&segment);
        Arc::clone(
            kept.entry(segment.number)
                .or_insert_with(|| Arc::new(segment)),
        )
    }

    /// A segment, from memory or from the lower file.
    pub(super) fn read(
        &self,
        lower: &Lower,
        layout: Layout,
        number: u64,
    ) -> io::Result<Arc<Segment>> {
        if let Some(segment) = self.find(number) {
            return Ok(segment);
        }
        let mut page = [0; PAGE];
        let (slots, _) = page.split_at_mut(Segment::slots_len(number));
        // A slot page behind the end of the lower file has no slots in use.
        lower.read_at(layout.slots(number), slots)?;
        Ok(self.keep(Segment::parse(number, slots)))
    }

    /// A segment, to be changed.
    pub(super) fn read_mut(
        &mut self,
        lower: &Lower,
        layout: Layout,
        number: u64,
    ) -> io::Result<&mut Segment> {
        drop(self.read(lower, layout, number)?);
        let kept = self.kept.get_mut().unwrap_or_else(PoisonError::into_inner);
        let segment = kept.get_mut(&number).expect("just read");
        Ok(Arc::get_mut(segment).expect("readers drop their segments before the file's lock"))
    }

    /// Forgets the segments from `first` on.
    pub(super) fn forget_from(&mut self, first: u64) {
        let kept = self.kept.get_mut().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|number, _| *number < first);
    }

    /// How many there are in memory.
    #[cfg(test)]
    pub(super) fn kept(&self) -> usize {
        self.kept.lock().unwrap().len()
    }

    fn touch(&self, segment: &Segment) {
        let now = self.clock.fetch_add(1, Ordering::Relaxed);
        segment.used.store(now, Ordering::Relaxed);
    }
}

// The slots of segment 0 fill the header page behind its records.
const _: () = assert!(HEADER_SLOTS + HEADER_BLOCKS * SLOT_LEN as u64 == PAGE_LEN);
const _: () = assert!(SEGMENT_BLOCKS as usize * SLOT_LEN == PAGE);
