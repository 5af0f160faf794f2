//! What a migration has put into NEW, so that another run can go on where one was killed.
//!
//! It lies in NEW, encrypted like everything there: it has the names of the files.
//!
//! ```text
//! journal := frame of Origin, frames of Step
//! frame   := length 4 B, little-endian | that many bytes of postcard | zeros up to a multiple of 4096
//! ```
//!
//! [`Step::Begin`] is durable before the first of its objects is renamed to its place, and [`Step::Settle`]
//! written when all of them are durable themselves. What was begun and not settled may be in its place or
//! not, whole or not, and is copied again. Each frame begins a block of NEW, since a block that is
//! written once is not lost when the power fails, and one that is written over may be
//! (`docs/threat-model.md`, Crashes). A frame cut short is no frame: nothing of it is in place.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::loss::Loss;
use super::object::{Object, Stamp, Time};

/// Version of this layout.
const VERSION: u32 = 1;

/// Frames begin at multiples of this.
const BLOCK: usize = 4096;

/// Of what a journal is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Origin {
    version: u32,
    /// OLD, as it is called: its folder, whatever it is mounted at.
    #[serde(with = "any_bytes")]
    pub(super) path: PathBuf,
    /// Inode number of its root.
    ino: u64,
}

impl Origin {
    pub(super) fn new(path: &Path, root: &Object) -> Self {
        Self {
            version: VERSION,
            path: path.to_owned(),
            ino: root.ino,
        }
    }
}

/// One object that has been put into NEW.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// Below the roots of OLD and NEW.
    #[serde(with = "any_bytes")]
    pub(super) path: PathBuf,
    /// What it was in OLD when it was copied.
    pub(super) stamp: Stamp,
    /// Its modification time in NEW.
    pub(super) modified: Time,
    pub(super) losses: Vec<Loss>,
}

impl Record {
    /// Whether `new`, which is at its path in NEW, is still what was put there.
    pub(super) fn shows(&self, new: &Object) -> bool {
        new.kind == self.stamp.kind && new.size == self.stamp.size && new.modified == self.modified
    }
}

/// What a frame says.
#[derive(Serialize, Deserialize)]
enum Step {
    /// These are about to be put into their places.
    Begin(Vec<Record>),
    /// Those of the frame before are there, and durable.
    Settle,
}

/// What is known of a path.
#[derive(Debug)]
pub(super) enum Known<'a> {
    Nothing,
    /// It was about to be put there when a run ended.
    Begun,
    /// It is there and durable.
    Done(&'a Record),
}

/// The journal of a migration.
pub(super) struct Journal {
    file: File,
    end: u64,
    done: HashMap<PathBuf, Record>,
    begun: HashMap<PathBuf, Record>,
    last: Last,
}

/// The last frame of [`Step::Begin`].
#[derive(Default)]
struct Last {
    begin: u64,
    paths: Vec<PathBuf>,
}

impl Journal {
    /// Begins one in the empty `file`.
    pub(super) fn create(file: File, origin: &Origin) -> io::Result<Self> {
        let mut journal = Self::new(file);
        journal.append(origin)?;
        journal.file.sync_all()?;
        Ok(journal)
    }

    fn new(file: File) -> Self {
        Self {
            file,
            end: 0,
            done: HashMap::new(),
            begun: HashMap::new(),
            last: Last::default(),
        }
    }

    /// Reads the one in `file`; `None` if it was never begun.
    pub(super) fn open(mut file: File) -> io::Result<Option<(Self, Origin)>> {
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let Some((origin, mut rest)) = frame::<Origin>(&bytes) else {
            return Ok(None);
        };
        let place = |rest: &[u8]| (bytes.len() - rest.len()) as u64;
        let mut journal = Self::new(file);
        while let Some((step, after)) = frame::<Step>(rest) {
            match step {
                Step::Begin(records) => journal.begun(place(rest), records),
                Step::Settle => journal.settled(),
            }
            rest = after;
        }
        journal.end = place(rest);
        journal.file.set_len(journal.end)?;
        Ok(Some((journal, origin)))
    }

    /// What is known of `path`.
    pub(super) fn known(&self, path: &Path) -> Known<'_> {
        match (self.begun.contains_key(path), self.done.get(path)) {
            (true, _) => Known::Begun,
            (false, Some(record)) => Known::Done(record),
            (false, None) => Known::Nothing,
        }
    }

    /// All that is there and durable.
    pub(super) fn records(&self) -> impl Iterator<Item = &Record> {
        self.done.values()
    }

    /// Says, durably, that `records` are about to be put into their places.
    pub(super) fn begin(&mut self, records: Vec<Record>) -> io::Result<()> {
        let at = self.end;
        let step = Step::Begin(records);
        self.append(&step)?;
        self.file.sync_data()?;
        if let Step::Begin(records) = step {
            self.begun(at, records);
        }
        Ok(())
    }

    /// Says that all that was begun last is in place and durable.
    pub(super) fn settle(&mut self) -> io::Result<()> {
        self.append(&Step::Settle)?;
        self.settled();
        Ok(())
    }

    /// Says, durably, that of what was begun last nothing has been put into its place but `placed`.
    pub(super) fn take_back_but(&mut self, placed: &[PathBuf]) -> io::Result<()> {
        let last = std::mem::take(&mut self.last);
        self.file.set_len(last.begin)?;
        self.end = last.begin;
        let begun = last.paths.iter().filter_map(|it| self.begun.remove(it));
        let placed = begun.filter(|record| placed.contains(&record.path));
        let placed = placed.collect();
        self.begin(placed)
    }

    fn begun(&mut self, begin: u64, records: Vec<Record>) {
        self.last = Last {
            begin,
            paths: records.iter().map(|it| it.path.clone()).collect(),
        };
        for record in records {
            self.done.remove(&record.path);
            self.begun.insert(record.path.clone(), record);
        }
    }

    fn settled(&mut self) {
        for path in std::mem::take(&mut self.last).paths {
            if let Some(record) = self.begun.remove(&path) {
                self.done.insert(path, record);
            }
        }
    }

    fn append(&mut self, what: &impl Serialize) -> io::Result<()> {
        let mut frame = vec![0; 4];
        frame = postcard::to_extend(what, frame).map_err(io::Error::other)?;
        let length = u32::try_from(frame.len() - 4).map_err(io::Error::other)?;
        if let Some(field) = frame.first_chunk_mut() {
            *field = length.to_le_bytes();
        }
        frame.resize(frame.len().next_multiple_of(BLOCK), 0);
        self.file.seek(SeekFrom::Start(self.end))?;
        self.file.write_all(&frame)?;
        self.end += frame.len() as u64;
        Ok(())
    }
}

/// The frame at the start of `bytes`, if it is whole, and what follows it.
fn frame<T: DeserializeOwned>(bytes: &[u8]) -> Option<(T, &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
    if length == 0 {
        return None;
    }
    let (body, _) = rest.split_at_checked(length)?;
    let whole = (length + 4).next_multiple_of(BLOCK);
    Some((postcard::from_bytes(body).ok()?, bytes.get(whole..)?))
}

/// Paths as the bytes they are: serde knows only those that are text.
mod any_bytes {
    use std::ffi::OsString;
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    use std::path::{Path, PathBuf};

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(path: &Path, to: S) -> Result<S::Ok, S::Error> {
        path.as_os_str().as_bytes().serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<PathBuf, D::Error> {
        let bytes = Vec::<u8>::deserialize(from)?;
        Ok(OsString::from_vec(bytes).into())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;

    use super::*;
    use crate::migrate::object::Kind;

    fn record(path: &str) -> Record {
        let time = Time {
            seconds: 1,
            nanoseconds: 2,
        };
        Record {
            path: path.into(),
            stamp: Stamp {
                kind: Kind::File,
                ino: 3,
                links: 1,
                size: 4,
                modified: time,
                changed: time,
            },
            modified: time,
            losses: Vec::new(),
        }
    }

    fn origin() -> Origin {
        Origin {
            version: VERSION,
            path: "/old".into(),
            ino: 5,
        }
    }

    fn open(file: &Path) -> File {
        let mut options = OpenOptions::new();
        options.read(true).write(true).open(file).unwrap()
    }

    /// The paths that are done, and those that were begun.
    fn paths(journal: &Journal) -> [Vec<&str>; 2] {
        [&journal.done, &journal.begun].map(|records| {
            let mut paths: Vec<_> = records.keys().filter_map(|it| it.to_str()).collect();
            paths.sort_unstable();
            paths
        })
    }

    /// A journal with a batch that is settled and one that is not, in its file.
    fn written(folder: &Path) -> PathBuf {
        let path = folder.join("journal");
        File::create(&path).unwrap();
        let mut journal = Journal::create(open(&path), &origin()).unwrap();
        journal.begin(vec![record("a"), record("b")]).unwrap();
        journal.settle().unwrap();
        journal.begin(vec![record("c"), record("d")]).unwrap();
        path
    }

    #[test]
    fn what_was_begun_and_not_settled_is_known_as_such_over_any_number_of_runs() {
        let folder = tempfile::tempdir().unwrap();
        let path = written(folder.path());
        let (mut journal, of) = Journal::open(open(&path)).unwrap().unwrap();
        assert_eq!(of, origin());
        assert_eq!(paths(&journal), [vec!["a", "b"], vec!["c", "d"]]);
        // The next run comes to one of the two only.
        journal.begin(vec![record("c"), record("e")]).unwrap();
        journal.settle().unwrap();
        let (mut journal, _) = Journal::open(open(&path)).unwrap().unwrap();
        assert_eq!(paths(&journal), [vec!["a", "b", "c", "e"], vec!["d"]]);
        // Something done is copied again.
        journal.begin(vec![record("a")]).unwrap();
        let (journal, _) = Journal::open(open(&path)).unwrap().unwrap();
        assert_eq!(paths(&journal), [vec!["b", "c", "e"], vec!["a", "d"]]);
    }

    #[test]
    fn what_is_taken_back_was_never_begun() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        File::create(&path).unwrap();
        let mut journal = Journal::create(open(&path), &origin()).unwrap();
        journal.begin(vec![record("a"), record("b")]).unwrap();
        journal.take_back_but(&["a".into()]).unwrap();
        assert!(matches!(journal.known(Path::new("b")), Known::Nothing));
        let (journal, _) = Journal::open(open(&path)).unwrap().unwrap();
        assert_eq!(paths(&journal), [vec![], vec!["a"]]);
    }

    #[test]
    fn a_journal_cut_anywhere_tells_of_whole_frames_only_and_is_written_on() {
        let folder = tempfile::tempdir().unwrap();
        let whole = std::fs::read(written(folder.path())).unwrap();
        let path = folder.path().join("cut");
        for length in (0..whole.len()).step_by(97) {
            std::fs::write(&path, &whole[..length]).unwrap();
            let Some((mut journal, _)) = Journal::open(open(&path)).unwrap() else {
                assert!(length < BLOCK, "{length}");
                continue;
            };
            let [done, begun] = paths(&journal);
            let expected = match length / BLOCK {
                1 => [vec![], vec![]],
                2 => [vec![], vec!["a", "b"]],
                _ => [vec!["a", "b"], vec![]],
            };
            assert_eq!([done, begun], expected, "{length}");
            journal.begin(vec![record("x")]).unwrap();
            journal.settle().unwrap();
            let (journal, _) = Journal::open(open(&path)).unwrap().unwrap();
            assert!(matches!(journal.known(Path::new("x")), Known::Done(_)));
        }
    }

    #[test]
    fn no_frame_begins_in_a_block_that_has_been_written() {
        let folder = tempfile::tempdir().unwrap();
        let length = std::fs::metadata(written(folder.path())).unwrap().len();
        assert_eq!(length, 4 * BLOCK as u64);
    }
}
