//! Blocks that are announced: a half of their slot names a new version, which is not written yet.

use core::sync::atomic::{AtomicUsize, Ordering};
use std::collections::BTreeMap;

use super::PAGE;
use super::layout::segment_of;

/// Ciphertext in bytes that one file keeps back at most before it is written out.
const OF_A_FILE: usize = 16 << 20;

/// The same of all files of this process.
const OF_ALL: usize = 64 << 20;

/// What is kept back by all files.
static KEPT_BACK: AtomicUsize = AtomicUsize::new(0);

/// New versions of blocks that have a durable one, which they may be written over only when the halves
/// that name them are durable (rule W3): their ciphertext, by block.
#[derive(Debug, Default)]
pub(super) struct Announced {
    blocks: BTreeMap<u64, Box<[u8]>>,
    bytes: usize,
}

impl Announced {
    pub(super) fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// Whether it is time to write them.
    pub(super) fn is_full(&self) -> bool {
        self.bytes > OF_A_FILE || (self.bytes > 0 && KEPT_BACK.load(Ordering::Relaxed) > OF_ALL)
    }

    pub(super) fn get(&self, block: u64) -> Option<&[u8]> {
        self.blocks.get(&block).map(|sealed| &**sealed)
    }

    pub(super) fn put(&mut self, block: u64, sealed: &[u8]) {
        self.add(sealed.len());
        if let Some(before) = self.blocks.insert(block, sealed.into()) {
            self.subtract(before.len());
        }
    }

    pub(super) fn remove(&mut self, block: u64) {
        if let Some(sealed) = self.blocks.remove(&block) {
            self.subtract(sealed.len());
        }
    }

    /// Forgets blocks from `first` on.
    pub(super) fn forget_from(&mut self, first: u64) {
        let gone = self.blocks.split_off(&first);
        self.subtract(gone.values().map(|sealed| sealed.len()).sum());
    }

    /// The first blocks from `first` on that lie beside each other below.
    pub(super) fn run(&self, first: u64) -> Option<Run> {
        let (&block, _) = self.blocks.range(first..).next()?;
        let mut sealed = Vec::new();
        let mut lengths = Vec::new();
        for (next, (&number, text)) in (block..).zip(self.blocks.range(block..)) {
            let full = lengths.last().is_none_or(|&length| length == PAGE);
            if number != next || !full || segment_of(number) != segment_of(block) {
                break;
            }
            sealed.extend_from_slice(text);
            lengths.push(text.len());
        }
        Some(Run {
            block,
            sealed,
            count: lengths.len(),
        })
    }

    fn add(&mut self, bytes: usize) {
        self.bytes += bytes;
        KEPT_BACK.fetch_add(bytes, Ordering::Relaxed);
    }

    fn subtract(&mut self, bytes: usize) {
        self.bytes -= bytes;
        KEPT_BACK.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Drop for Announced {
    fn drop(&mut self) {
        KEPT_BACK.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Blocks that are written at once.
pub(super) struct Run {
    pub(super) block: u64,
    /// All of them full but perhaps the last.
    pub(super) sealed: Vec<u8>,
    pub(super) count: usize,
}
