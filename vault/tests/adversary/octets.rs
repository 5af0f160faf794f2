//! Where the octets of each class lie, as `docs/format.md` says: a second reading of it.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use claviger_vault::ids::Scope;

use crate::table::Class;

const PAGE: u64 = 4096;
const HEADER_BLOCKS: u64 = 48;
const SEGMENT_BLOCKS: u64 = 64;

/// Octets of one lower file.
#[derive(Clone, Debug)]
pub struct Site {
    pub file: PathBuf,
    pub at: Vec<Range<u64>>,
    /// What is beside them: the other copy, the next of their kind, or whatever follows.
    pub beside: Vec<Range<u64>>,
    /// All copies: what an older version of them is.
    pub copies: Vec<Range<u64>>,
    /// Whether any one of `at` is of no matter while another stands.
    pub together: bool,
}

/// Which octets of a file.
#[derive(Clone, Copy, Debug)]
pub struct Of {
    pub class: Class,
    /// For classes that each block has.
    pub block: u64,
}

impl Site {
    /// Where the octets lie in `file`, a native file of `scope` or, for [`Class::Directory`], a record.
    pub fn new(file: &Path, scope: Scope, of: Of) -> Self {
        let header_pages = match scope {
            Scope::Volume => 1,
            Scope::File => 2,
        };
        let slot = slot(header_pages, of.block);
        let block = block(header_pages, of.block);
        let next_slot = self::slot(header_pages, of.block + 1);
        let next_block = self::block(header_pages, of.block + 1);
        let (at, beside, copies) = match of.class {
            Class::Fixed => (vec![0..64], vec![64..128], vec![0..64]),
            Class::KeyRecord => copy(file, 64, 192, |copy| u64::from(u32_at(copy, 0))),
            Class::Packets => copy(file, PAGE, 2048, |copy| u64::from(u32_at(copy, 0))),
            Class::Shape | Class::ShapeOfGrowth => copy(file, 512, 128, seq_of),
            Class::Shapes => (
                vec![512..640, 640..768],
                vec![768..896, 896..1024],
                vec![512..768],
            ),
            Class::Place => copy(file, 768, 128, seq_of),
            Class::Places => (
                vec![768..896, 896..1024],
                vec![1024..1152, 1152..1280],
                vec![768..1024],
            ),
            Class::Half | Class::HalfUnsynced | Class::HalfBehindGap => {
                copy(file, slot.start, 32, |half| 1 + u64::from(half[30]))
            }
            Class::Slot => (halves(&slot), halves(&next_slot), vec![slot]),
            Class::Block | Class::BlockUnsynced => {
                (vec![block.clone()], vec![next_block], vec![block])
            }
            Class::Version => (
                [halves(&slot), vec![block.clone()]].concat(),
                [halves(&next_slot), vec![next_block]].concat(),
                vec![slot, block],
            ),
            Class::Directory => {
                let (mut at, beside, _) = copy(file, 48, 128, seq_of);
                if of.block == 0 {
                    at.extend([0..48, 304..512]);
                }
                (at, beside, vec![0..512])
            }
            class => panic!("{class:?} is not octets of a native file"),
        };
        Self {
            file: file.into(),
            at,
            beside,
            copies,
            together: matches!(
                of.class,
                Class::Shapes | Class::Places | Class::Slot | Class::Version
            ),
        }
    }
}

/// Of two copies that follow each other, the one that counts; the other; both.
type Copies = (Vec<Range<u64>>, Vec<Range<u64>>, Vec<Range<u64>>);

fn copy(file: &Path, start: u64, len: u64, age: impl Fn(&[u8]) -> u64) -> Copies {
    let (a, b) = (start..start + len, start + len..start + 2 * len);
    let [age_a, age_b] = [&a, &b].map(|range| {
        let copy = octets(file, range);
        match copy.iter().all(|octet| *octet == 0) {
            true => 0,
            false => age(&copy),
        }
    });
    let (newest, other) = if age_b > age_a { (b, a) } else { (a, b) };
    (vec![newest], vec![other], vec![start..start + 2 * len])
}

fn seq_of(copy: &[u8]) -> u64 {
    u64::from_le_bytes(*copy.first_chunk().unwrap())
}

fn u32_at(copy: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(*copy[at..].first_chunk().unwrap())
}

/// Octets of a lower file, zeros past its end.
pub fn octets(file: &Path, range: &Range<u64>) -> Vec<u8> {
    let mut bytes = vec![0; (range.end - range.start) as usize];
    let file = File::open(file).unwrap();
    let mut done = 0;
    while let Ok(read @ 1..) = file.read_at(&mut bytes[done..], range.start + done as u64) {
        done += read;
    }
    bytes
}

/// The slot of a block.
fn slot(header_pages: u64, block: u64) -> Range<u64> {
    let start = match block.checked_sub(HEADER_BLOCKS) {
        None => 1024 + 64 * block,
        Some(after) => {
            let page = header_pages + HEADER_BLOCKS + after / SEGMENT_BLOCKS * (1 + SEGMENT_BLOCKS);
            page * PAGE + 64 * (after % SEGMENT_BLOCKS)
        }
    };
    start..start + 64
}

fn halves(slot: &Range<u64>) -> Vec<Range<u64>> {
    let middle = slot.start + 32;
    vec![slot.start..middle, middle..slot.end]
}

/// The ciphertext of a whole block.
fn block(header_pages: u64, block: u64) -> Range<u64> {
    let slot_pages = match block.checked_sub(HEADER_BLOCKS) {
        None => 0,
        Some(after) => after / SEGMENT_BLOCKS + 1,
    };
    let start = (header_pages + block + slot_pages) * PAGE;
    start..start + PAGE
}
