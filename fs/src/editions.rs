//! What files were when they were closed: whether somebody else has written them since.
//!
//! The kernel goes on knowing their sizes, and appends by what it knows. Nothing is refused: who puts a file
//! back is not found out by this (decision 114), only met where he has left it.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use claviger_vault::format::Edition;
use claviger_vault::ids::FileId;

/// Files that are remembered at least: those seen last.
const AT_LEAST: usize = 1 << 15;

/// The last edition that was seen of each of many files.
#[derive(Default)]
pub(crate) struct Editions(Mutex<Seen>);

/// Of twice as many at most, the older half goes at once.
#[derive(Default)]
struct Seen {
    lately: HashMap<FileId, Edition>,
    before: HashMap<FileId, Edition>,
}

impl Editions {
    /// Notes what a file is now.
    pub(crate) fn note(&self, edition: Edition) {
        let mut seen = self.seen();
        if seen.lately.len() >= AT_LEAST && !seen.lately.contains_key(&edition.file) {
            seen.before = std::mem::take(&mut seen.lately);
        }
        seen.lately.insert(edition.file, edition);
    }

    /// What a file was that has just been opened, if it has been another since.
    pub(crate) fn before(&self, opened: Edition) -> Option<Edition> {
        let seen = self.seen().last(opened.file);
        seen.filter(|seen| *seen != opened)
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seen {
    fn last(&self, file: FileId) -> Option<Edition> {
        let found = self.lately.get(&file).or_else(|| self.before.get(&file));
        found.copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edition(file: u64, seq: u64) -> Edition {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&file.to_le_bytes());
        Edition {
            file: FileId(id),
            seq,
            size: 10 * seq,
        }
    }

    #[test]
    fn a_file_that_is_not_as_it_was_is_told_by_what_it_was() {
        let editions = Editions::default();
        editions.note(edition(1, 5));
        assert_eq!(editions.before(edition(1, 5)), None);
        assert_eq!(editions.before(edition(1, 7)), Some(edition(1, 5)));
        assert_eq!(editions.before(edition(1, 4)), Some(edition(1, 5)));
        assert_eq!(editions.before(edition(2, 1)), None);
        editions.note(edition(1, 4));
        assert_eq!(editions.before(edition(1, 4)), None);
    }

    #[test]
    fn the_files_seen_last_are_remembered_and_no_more_than_twice_as_many() {
        let editions = Editions::default();
        let many = 3 * AT_LEAST as u64;
        (0..many).for_each(|file| editions.note(edition(file, 2)));
        let mut last = many - AT_LEAST as u64..many;
        assert!(last.all(|file| editions.before(edition(file, 1)).is_some()));
        let seen = editions.seen();
        assert!(seen.lately.len() + seen.before.len() <= 2 * AT_LEAST);
    }
}
