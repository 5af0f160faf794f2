//! Many at once on the same few names, and what must be there afterwards.
//!
//! Each has an oracle of his own: what he was told is done is there, whole and once; what he was told
//! nothing of is there or not.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions, hard_link};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use nix::fcntl::{AT_FDCWD, AtFlags, FallocateFlags, RenameFlags, fallocate, renameat2};
use nix::unistd::linkat;

use crate::model::Random;

const LOGS: u64 = 3;
const LOGGERS: u64 = 3;
const SAVERS: u64 = 2;
const CELLS: u64 = 4;
/// No divisor of a block: cells share blocks.
const CELL: u64 = 700;
const STAYING: u64 = 60;

/// Whether somebody is about to disturb them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Weather {
    /// Everything must succeed.
    Calm,
    /// The disk may be full, which they put up with. The volume may be locked, or its filesystem be killed:
    /// whoever is refused for that goes home.
    Rough,
}

/// What has come of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Done,
    Nothing,
}

/// Who they are, and what they remember from one day to the next.
pub(crate) struct Crowd {
    root: PathBuf,
    weather: Weather,
    over: AtomicBool,
    done: AtomicU64,
    /// Of each record, by log, writer and number.
    records: Mutex<BTreeMap<(u64, u64, u64), Told>>,
    /// Of each document, the last version that was put into its place, and the last that was to be.
    versions: Vec<[AtomicU64; 2]>,
    /// Of each cell, what it holds and what it was to hold.
    cells: Vec<[AtomicU64; 2]>,
}

/// Does one thing.
type One<'a> = Box<dyn Fn(&mut Random) -> io::Result<()> + Send + Sync + 'a>;

impl Crowd {
    /// Makes what they work on in `root`.
    pub(crate) fn new(root: &Path) -> Self {
        let crowd = Self {
            root: root.to_owned(),
            weather: Weather::Calm,
            over: AtomicBool::new(false),
            done: AtomicU64::new(0),
            records: Mutex::default(),
            versions: (0..SAVERS).map(|_| Default::default()).collect(),
            cells: (0..CELLS).map(|_| Default::default()).collect(),
        };
        for dir in ["one", "other", "busy"] {
            fs::create_dir(crowd.path(dir)).unwrap();
        }
        for doc in 0..SAVERS {
            fs::write(crowd.path(&format!("doc{doc}")), document(doc, 0)).unwrap();
        }
        fs::write(crowd.path("one/swapped"), document(100, 1)).unwrap();
        fs::write(crowd.path("other/swapped"), document(101, 1)).unwrap();
        fs::write(crowd.path("one/moved"), document(102, 1)).unwrap();
        fs::write(crowd.path("cells"), [0; (CELL * CELLS) as usize]).unwrap();
        for name in 0..STAYING {
            fs::write(crowd.path(&format!("busy/staying {name}")), "").unwrap();
        }
        crowd
    }

    /// Has all of them work until `disturb` returns and, in rough weather, they have noticed.
    pub(crate) fn work(&mut self, weather: Weather, disturb: impl FnOnce()) {
        self.weather = weather;
        self.over = AtomicBool::new(false);
        let crowd = &*self;
        let mut all: Vec<(&str, One<'_>)> = vec![
            ("swap", Box::new(|_| crowd.swap())),
            ("move about", Box::new(|_| crowd.move_about())),
            ("link", Box::new(|random| crowd.link(random))),
            ("read", Box::new(|random| crowd.read(random))),
            ("come and go", Box::new(|random| crowd.come_and_go(random))),
            ("list", Box::new(|_| crowd.list())),
        ];
        for id in 0..LOGGERS {
            all.push(("log", Box::new(move |random| crowd.log(id, random))));
        }
        for id in 0..SAVERS {
            all.push(("save", Box::new(move |random| crowd.save(id, random))));
        }
        for id in 0..CELLS {
            all.push(("fill", Box::new(move |random| crowd.fill(id, random))));
        }
        thread::scope(|scope| {
            for (does, one) in &all {
                scope.spawn(move || crowd.at_work(does, one));
            }
            disturb();
            if crowd.weather == Weather::Calm {
                crowd.over.store(true, Ordering::Relaxed);
            }
        });
    }

    /// How much has been done so far.
    pub(crate) fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    fn at_work(&self, does: &str, one: &One<'_>) {
        let mut random = Random::seeded();
        while !self.over.load(Ordering::Relaxed) {
            match one(&mut random) {
                Ok(()) => drop(self.done.fetch_add(1, Ordering::Relaxed)),
                Err(error) if self.weather == Weather::Rough && is_full(&error) => {}
                // What he found was replaced before it was opened, and that once more: Linux looks again
                // only once.
                Err(error) if error.raw_os_error() == Some(libc::ESTALE) => {}
                Err(error) if self.weather == Weather::Rough && sends_home(&error) => return,
                Err(error) => {
                    self.over.store(true, Ordering::Relaxed);
                    panic!("{does}: {error}");
                }
            }
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Appends records.
    fn log(&self, writer: u64, random: &mut Random) -> io::Result<()> {
        let log = random.below(LOGS);
        let path = self.path(&format!("log{log}"));
        let mut file = OpenOptions::new().create(true).append(true).open(path)?;
        for _ in 0..random.below(20) {
            let number = self.records().keys().filter(|key| key.1 == writer).count() as u64;
            self.records().insert((log, writer, number), Told::Nothing);
            let line = record(log, writer, number);
            let written = file.write(line.as_bytes())?;
            assert_eq!(written, line.len(), "log {log}");
            self.records().insert((log, writer, number), Told::Done);
            if random.one_in(30) {
                file.sync_data()?;
            }
        }
        Ok(())
    }

    /// Puts a new version of a document in the place of the old.
    fn save(&self, doc: u64, random: &mut Random) -> io::Result<()> {
        let [last, next] = &self.versions[doc as usize];
        let version = next.load(Ordering::Relaxed) + 1;
        let temporary = self.path(&format!("doc{doc}.new"));
        let mut file = File::create(&temporary)?;
        file.write_all(document(doc, version).as_bytes())?;
        if random.one_in(4) {
            file.sync_all()?;
        }
        next.store(version, Ordering::SeqCst);
        fs::rename(temporary, self.path(&format!("doc{doc}")))?;
        last.store(version, Ordering::SeqCst);
        Ok(())
    }

    /// Finds the old version or the new one.
    fn read(&self, random: &mut Random) -> io::Result<()> {
        let doc = random.below(SAVERS);
        let [last, next] = &self.versions[doc as usize];
        let at_least = last.load(Ordering::SeqCst);
        let version = whole(&fs::read_to_string(self.path(&format!("doc{doc}")))?, doc);
        let at_most = next.load(Ordering::SeqCst);
        assert!(
            (at_least..=at_most).contains(&version),
            "{version} of {at_least} to {at_most}"
        );
        for path in ["one/swapped", "other/swapped"] {
            let text = fs::read_to_string(self.path(path))?;
            whole(&text, text[..3].parse().unwrap());
        }
        Ok(())
    }

    fn swap(&self) -> io::Result<()> {
        let (one, other) = (self.path("one/swapped"), self.path("other/swapped"));
        Ok(renameat2(
            AT_FDCWD,
            &one,
            AT_FDCWD,
            &other,
            RenameFlags::RENAME_EXCHANGE,
        )?)
    }

    /// Takes one file from name to name: only he does.
    fn move_about(&self) -> io::Result<()> {
        let long = format!("other/{}", "a long name, ".repeat(15));
        let ring = ["one/moved", "moved", &long].map(|name| self.path(name));
        let at = ring.iter().position(|path| path.exists());
        // Everything is absent where nothing is told.
        let at = at.map_or_else(
            || fs::read_dir(&self.root).map(|_| panic!("it is nowhere")),
            Ok,
        )?;
        fs::rename(&ring[at], &ring[(at + 1) % 3])?;
        whole(&fs::read_to_string(&ring[(at + 1) % 3])?, 102);
        Ok(())
    }

    /// Another name for a document that is replaced meanwhile.
    fn link(&self, random: &mut Random) -> io::Result<()> {
        let doc = random.below(SAVERS);
        let (path, link) = (self.path(&format!("doc{doc}")), self.path("other/link"));
        gone(fs::remove_file(&link))?;
        let linked = match random.below(2) {
            0 => hard_link(&path, &link),
            _ => {
                let file = File::open(&path)?;
                let by_number = format!("/proc/self/fd/{}", file.as_raw_fd());
                let follow = AtFlags::AT_SYMLINK_FOLLOW;
                let linked = linkat(AT_FDCWD, by_number.as_str(), AT_FDCWD, &link, follow);
                linked.map_err(io::Error::from)
            }
        };
        if linked.as_ref().is_err_and(is_absent) {
            // The document has been replaced since it was found.
            return Ok(());
        }
        linked?;
        let mut kept = File::open(&link)?;
        let version = whole(&fs::read_to_string(&link)?, doc);
        fs::remove_file(&link)?;
        let mut text = String::new();
        kept.read_to_string(&mut text)?;
        assert_eq!(whole(&text, doc), version);
        Ok(())
    }

    /// Writes a part of a file that others write, too, and finds it as he left it.
    fn fill(&self, cell: u64, random: &mut Random) -> io::Result<()> {
        let [last, next] = &self.cells[cell as usize];
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(self.path("cells"))?;
        for _ in 0..random.below(8) {
            let value = next.load(Ordering::Relaxed) + 1;
            next.store(value, Ordering::SeqCst);
            file.write_all_at(&filled(cell, value), cell * CELL)?;
            last.store(value, Ordering::SeqCst);
            match random.below(6) {
                0 => file.sync_data()?,
                1 => fallocate(&file, FallocateFlags::FALLOC_FL_KEEP_SIZE, 0, 100_000)?,
                2 => file.set_len(CELL * CELLS + random.below(3) * 5000)?,
                _ => {}
            }
            let mut found = [0; CELL as usize];
            file.read_exact_at(&mut found, cell * CELL)?;
            assert_eq!(found, filled(cell, value), "cell {cell}");
        }
        Ok(())
    }

    fn come_and_go(&self, random: &mut Random) -> io::Result<()> {
        let name = |number| self.path(&format!("busy/passing {number}"));
        let (one, other) = (name(random.below(20)), name(random.below(20)));
        match random.below(4) {
            0 => drop(File::create(one)?),
            1 => gone(fs::rename(one, other))?,
            2 => gone(fs::remove_file(one))?,
            _ => {
                let dir = self.path("busy/dir");
                gone(fs::remove_dir(&dir))?;
                fs::create_dir(dir)?;
            }
        }
        Ok(())
    }

    /// Who stays is seen once, whoever comes and goes.
    fn list(&self) -> io::Result<()> {
        let mut seen = Vec::new();
        for entry in fs::read_dir(self.path("busy"))? {
            let name = entry?.file_name().into_string().unwrap();
            seen.extend(name.starts_with("staying").then_some(name));
        }
        seen.sort();
        let staying: BTreeSet<_> = (0..STAYING).map(|name| format!("staying {name}")).collect();
        assert_eq!(seen, staying.into_iter().collect::<Vec<_>>());
        Ok(())
    }

    /// Begins logs and cells anew: of what is written over something durable, a kill loses the last seconds.
    pub(crate) fn forget_what_was_written_over(&self) {
        for log in 0..LOGS {
            gone(fs::remove_file(self.path(&format!("log{log}")))).unwrap();
        }
        self.records().clear();
        fs::write(self.path("cells"), [0; (CELL * CELLS) as usize]).unwrap();
        for value in self.cells.iter().flatten() {
            value.store(0, Ordering::SeqCst);
        }
    }

    /// Looks at everything when nobody works.
    pub(crate) fn check(&self) {
        let records = self.records();
        for log in 0..LOGS {
            let mut found = Vec::new();
            let path = self.path(&format!("log{log}"));
            if !path.exists() {
                continue;
            }
            let text = fs::read(path).unwrap();
            let text = String::from_utf8(text).unwrap();
            for line in text.split_inclusive('\n') {
                let mut fields = line.split_whitespace().map(|field| field.parse().ok());
                let key = [(); 3].map(|()| fields.next().flatten().unwrap_or(u64::MAX));
                assert!(
                    line == record(key[0], key[1], key[2]),
                    "log {log}: {line:?}"
                );
                found.push(key);
            }
            let once: BTreeSet<_> = found.iter().copied().collect();
            assert_eq!(once.len(), found.len(), "log {log} has something twice");
            for writer in 0..LOGGERS {
                let of_writer: Vec<_> = found.iter().filter(|record| record[1] == writer).collect();
                assert!(
                    of_writer.is_sorted(),
                    "log {log} of {writer} is out of order"
                );
            }
            for (key, told) in records.iter().filter(|(key, _)| key.0 == log) {
                let there = once.contains(&[key.0, key.1, key.2]);
                assert!(there || *told == Told::Nothing, "{key:?} is lost");
            }
        }
        for doc in 0..SAVERS {
            let [last, next] = self.versions[doc as usize]
                .each_ref()
                .map(|version| version.load(Ordering::SeqCst));
            let found = whole(
                &fs::read_to_string(self.path(&format!("doc{doc}"))).unwrap(),
                doc,
            );
            assert!(
                (last..=next).contains(&found),
                "doc {doc}: {found} of {last} to {next}"
            );
        }
        let cells = fs::read(self.path("cells")).unwrap();
        for cell in 0..CELLS {
            let [last, next] = self.cells[cell as usize]
                .each_ref()
                .map(|value| value.load(Ordering::SeqCst));
            let found = &cells[(cell * CELL) as usize..][..CELL as usize];
            // A write that crosses the end of a page may come to half of it.
            let known = [last, next].map(|value| filled(cell, value)[0]);
            assert!(
                found.iter().all(|byte| known.contains(byte)),
                "cell {cell} holds something else"
            );
        }
        self.list().unwrap();
        self.read(&mut Random::seeded()).unwrap();
        self.move_about().unwrap();
    }

    fn records(&self) -> std::sync::MutexGuard<'_, BTreeMap<(u64, u64, u64), Told>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a lock, and the end of the filesystem, are told by. On a machine that is busy besides, the daemon may
/// be too late with a key that was asked for just before.
fn sends_home(error: &io::Error) -> bool {
    let told = [
        libc::ENOKEY,
        libc::ETIMEDOUT,
        libc::ENOTCONN,
        libc::ECONNABORTED,
        libc::EAGAIN,
        libc::EINTR,
    ];
    error
        .raw_os_error()
        .is_some_and(|errno| told.contains(&errno))
}

fn is_full(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENOSPC)
}

/// What is not there cannot go.
fn gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if is_absent(&error) => Ok(()),
        result => result,
    }
}

fn is_absent(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
}

/// One line, which lies within a page wherever it is appended to others.
fn record(log: u64, writer: u64, number: u64) -> String {
    format!("{:511}\n", format!("{log} {writer} {number}"))
}

/// A text that tells whether it is whole, of a length that changes with the version.
fn document(doc: u64, version: u64) -> String {
    let head = format!("{doc:03} {version:09}\n");
    head.repeat(1 + (version * 37 % 1000) as usize) + "end\n"
}

/// The version of a document, which is whole.
#[track_caller]
fn whole(text: &str, doc: u64) -> u64 {
    let version = text.get(4..13).and_then(|number| number.parse().ok());
    let version = version
        .unwrap_or_else(|| panic!("document {doc} has {} octets: {:.40?}", text.len(), text));
    assert!(
        text == document(doc, version),
        "document {doc}, version {version}, has {} octets",
        text.len()
    );
    version
}

fn filled(cell: u64, value: u64) -> [u8; CELL as usize] {
    match value {
        0 => [0; CELL as usize],
        _ => [(value * 31 + cell * 64) as u8 | 1; CELL as usize],
    }
}
