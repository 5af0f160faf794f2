//! The inodes that the kernel knows, and where their lower objects are.
//!
//! An inode has its lower inode number, but where the kernel still knows that of something else: the lower
//! filesystem may use a number again as soon as what had it is gone, while requests for that are on their
//! way. No descriptor is kept for one: it is found again through its
//! parent's descriptor and its lower name, and checked to be the same inode. Between renames and
//! everything else a name can move under us, so a place is read, used, and read again if the lower
//! object was not there.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::attr::Kind;
use crate::dircache::DirSlot;
use crate::open::OpenSlot;
use crate::size_told::SizeTold;
use crate::syncs::Made;

/// The kernel's number of the root.
pub(crate) const ROOT: u64 = 1;

/// One lower object that the kernel holds a reference to, or that something else here needs.
pub(crate) struct Inode {
    /// Node id, and `st_ino`.
    pub(crate) ino: u64,
    /// The number of the lower object.
    pub(crate) lower: u64,
    /// Tells two apart that had the same number one after the other.
    pub(crate) generation: u64,
    /// Never changes: another kind is another inode.
    pub(crate) kind: Kind,
    /// Every name that we know of; none for the root, or when the last one known has gone.
    places: RwLock<Vec<Place>>,
    /// The last name is gone, or going: whoever comes with this number later is another object.
    gone: AtomicBool,
    /// The content, while it is open.
    pub(crate) open: OpenSlot,
    /// Of a regular file.
    pub(crate) size_told: SizeTold,
    /// The descriptor, of a directory worked in lately.
    pub(crate) dir: DirSlot,
    /// When it was made, until it is synced.
    made: Mutex<Option<Made>>,
}

/// Where a lower object is.
#[derive(Clone)]
pub(crate) struct Place {
    /// The directory. Held, so that it is found as long as its children are.
    pub(crate) parent: Arc<Inode>,
    /// The lower name in it.
    pub(crate) name: Arc<[u8]>,
}

impl Place {
    /// Whether both say the same.
    pub(crate) fn is(&self, other: &Self) -> bool {
        self.parent.ino == other.parent.ino && self.name == other.name
    }
}

/// Whether the lower object may have other names than the one at hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Links {
    One,
    Several,
}

impl Inode {
    fn new(numbers: Numbers, kind: Kind, places: Vec<Place>) -> Arc<Self> {
        Arc::new(Self {
            ino: numbers.ino,
            lower: numbers.lower,
            generation: numbers.generation,
            kind,
            places: RwLock::new(places),
            gone: AtomicBool::new(false),
            open: OpenSlot::default(),
            size_told: SizeTold::default(),
            dir: DirSlot::default(),
            made: Mutex::default(),
        })
    }

    /// A name of it; `None` for the root, and if no name is known.
    pub(crate) fn place(&self) -> Option<Place> {
        self.places().first().cloned()
    }

    /// The lower path from the lower root: for log lines, audit lines and prompts.
    pub(crate) fn lower_path(&self) -> Vec<u8> {
        let mut names = Vec::new();
        let mut place = self.place();
        while let Some(Place { parent, name }) = place {
            names.push(name);
            place = parent.place();
        }
        names.reverse();
        names.join(&b'/')
    }

    /// The same, to be printed.
    pub(crate) fn shown_path(&self) -> String {
        if self.ino == ROOT {
            ".".into()
        } else {
            self.lower_path().escape_ascii().to_string()
        }
    }

    /// Keeps its places from changing. Locked child before parent, and renames take no more locks
    /// while they hold theirs.
    pub(crate) fn places(&self) -> RwLockReadGuard<'_, Vec<Place>> {
        self.places.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its places, to be changed with the lower directory.
    pub(crate) fn places_mut(&self) -> RwLockWriteGuard<'_, Vec<Place>> {
        self.places.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it is known to be at `place`.
    pub(crate) fn is_at(&self, place: &Place) -> bool {
        self.places().iter().any(|known| known.is(place))
    }

    /// Whether all places that it is known to have are in `parent`.
    pub(crate) fn is_in(&self, parent: &Inode) -> bool {
        let places = self.places();
        places.iter().all(|known| known.parent.ino == parent.ino)
    }

    /// Notes that it is new.
    pub(crate) fn is_made(&self, made: Made) {
        *self.made.lock().unwrap_or_else(PoisonError::into_inner) = Some(made);
    }

    /// Notes that it is synced: before it is, for others may look meanwhile.
    pub(crate) fn is_synced(&self) {
        *self.made.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// When it was made, if it is new and nobody has asked for a sync of it.
    pub(crate) fn made(&self) -> Option<Made> {
        *self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says that its last name is about to go, before it goes: the number may be in use again as
    /// soon as it has gone.
    pub(crate) fn leaving(&self) {
        self.gone.store(true, Ordering::Release);
    }

    /// Takes [`Inode::leaving`] back: the name could not be removed.
    pub(crate) fn stays(&self) {
        self.gone.store(false, Ordering::Release);
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    fn add_place(&self, place: Place, links: Links) {
        let mut places = self.places_mut();
        if links == Links::One {
            places.clear();
        }
        if !places.iter().any(|known| known.is(&place)) {
            places.push(place);
        }
    }
}

/// Takes `place` out of `places`.
pub(crate) fn drop_place(places: &mut Vec<Place>, place: &Place) {
    places.retain(|known| !known.is(place));
}

/// What tells inodes apart.
#[derive(Clone, Copy)]
struct Numbers {
    ino: u64,
    lower: u64,
    generation: u64,
}

/// Every inode that the kernel knows.
pub(crate) struct Inodes {
    root: Arc<Inode>,
    /// The lower inode number of the root, which is number 1 above; and 1 below is that above.
    root_lower: u64,
    table: Mutex<Table>,
    /// How many have another number than their lower object's: seldom any.
    renumbered: AtomicUsize,
}

#[derive(Default)]
struct Table {
    known: HashMap<u64, Known>,
    /// The numbers of those that have another than their lower object's, by that.
    renumbered: HashMap<u64, u64>,
    /// How many there ever were.
    renumberings: u64,
    /// Forgotten by the kernel, but a child or an open file still needed them.
    lingering: HashSet<u64>,
    sweep_at: usize,
}

struct Known {
    inode: Arc<Inode>,
    lookups: u64,
}

impl Inodes {
    /// A table that knows the root only, whose lower inode number is `root_lower`.
    pub(crate) fn new(root_lower: u64) -> Self {
        let numbers = Numbers {
            ino: ROOT,
            lower: root_lower,
            generation: 0,
        };
        Self {
            root: Inode::new(numbers, Kind::DIRECTORY, Vec::new()),
            root_lower,
            table: Mutex::default(),
            renumbered: AtomicUsize::new(0),
        }
    }

    pub(crate) fn root(&self) -> &Arc<Inode> {
        &self.root
    }

    /// The number above of a lower inode number.
    pub(crate) fn number(&self, lower: u64) -> u64 {
        if self.renumbered.load(Ordering::Acquire) > 0
            && let Some(ino) = self.table().renumbered.get(&lower)
        {
            return *ino;
        }
        self.own_number(lower)
    }

    /// The same, of what has not been given another.
    fn own_number(&self, lower: u64) -> u64 {
        match lower {
            lower if lower == self.root_lower => ROOT,
            ROOT => self.root_lower,
            lower => lower,
        }
    }

    /// The inode of a lower inode number, if the kernel knows one.
    pub(crate) fn find_lower(&self, lower: u64) -> Option<Arc<Inode>> {
        self.find(self.number(lower))
            .filter(|inode| inode.lower == lower)
    }

    /// The inode that the kernel names.
    pub(crate) fn find(&self, ino: u64) -> Option<Arc<Inode>> {
        if ino == ROOT {
            return Some(Arc::clone(&self.root));
        }
        self.table()
            .known
            .get(&ino)
            .map(|known| Arc::clone(&known.inode))
    }

    /// Notes that the kernel is told of a lower object, found at `place`.
    ///
    /// An object whose number is known but cannot be the known one gets a number of its own: requests
    /// for the other may be on their way, and say no generation.
    pub(crate) fn looked_up(
        &self,
        lower_ino: u64,
        kind: Kind,
        place: Place,
        links: Links,
    ) -> Arc<Inode> {
        let ino = self.number(lower_ino);
        let mut table = self.table();
        let mut numbers = Numbers {
            ino,
            lower: lower_ino,
            generation: 0,
        };
        if let Some(known) = table.known.get_mut(&ino) {
            let inode = &known.inode;
            if inode.lower == lower_ino && inode.kind == kind && !inode.is_gone() {
                known.lookups += 1;
                let inode = Arc::clone(inode);
                // A rename holds places while it works, and may want the table: not both at once.
                drop(table);
                inode.add_place(place, links);
                return inode;
            }
            numbers = match known.lookups {
                0 => Numbers {
                    generation: inode.generation + 1,
                    ..numbers
                },
                _ => Numbers {
                    ino: table.renumber(lower_ino),
                    ..numbers
                },
            };
            self.renumbered
                .store(table.renumbered.len(), Ordering::Release);
        }
        let inode = Inode::new(numbers, kind, vec![place]);
        table.known.insert(
            numbers.ino,
            Known {
                inode: Arc::clone(&inode),
                lookups: 1,
            },
        );
        inode
    }

    /// The kernel has dropped `count` of its references.
    pub(crate) fn forget(&self, ino: u64, count: u64) {
        let mut table = self.table();
        let Some(known) = table.known.get_mut(&ino) else {
            return;
        };
        known.lookups = known.lookups.saturating_sub(count);
        if known.lookups > 0 {
            return;
        }
        table.lingering.insert(ino);
        // Sweeping when the set has doubled costs each forget a constant.
        if table.lingering.len() > table.sweep_at {
            table.sweep();
            self.renumbered
                .store(table.renumbered.len(), Ordering::Release);
        }
    }

    /// Inodes whose content is open.
    pub(crate) fn all(&self) -> Vec<Arc<Inode>> {
        self.table()
            .known
            .values()
            .map(|known| Arc::clone(&known.inode))
            .collect()
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where numbers begin that are no lower filesystem's; if one is all the same, it is passed over.
const RENUMBERED_FROM: u64 = 1 << 62;

impl Table {
    /// Gives another number to what has the lower number `lower` now.
    fn renumber(&mut self, lower: u64) -> u64 {
        loop {
            let ino = RENUMBERED_FROM + self.renumberings;
            self.renumberings += 1;
            if !self.known.contains_key(&ino) {
                self.renumbered.insert(lower, ino);
                return ino;
            }
        }
    }

    /// Drops what is forgotten and used by nobody, then their parents that were kept for them.
    fn sweep(&mut self) {
        loop {
            let before = self.known.len();
            let (known, renumbered) = (&mut self.known, &mut self.renumbered);
            self.lingering.retain(|ino| match known.get(ino) {
                // The table lock is held: with one reference nobody else can make a second.
                Some(entry) if entry.lookups == 0 && Arc::strong_count(&entry.inode) == 1 => {
                    if renumbered.get(&entry.inode.lower) == Some(ino) {
                        renumbered.remove(&entry.inode.lower);
                    }
                    known.remove(ino);
                    false
                }
                Some(entry) => entry.lookups == 0,
                None => false,
            });
            if self.known.len() == before {
                break;
            }
        }
        self.sweep_at = self.lingering.len() * 2 + 64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(parent: &Arc<Inode>, name: &str) -> Place {
        Place {
            parent: Arc::clone(parent),
            name: name.as_bytes().into(),
        }
    }

    fn looked_up(inodes: &Inodes, ino: u64, name: &str) -> Arc<Inode> {
        let root = Arc::clone(inodes.root());
        inodes.looked_up(ino, Kind::REGULAR, place(&root, name), Links::One)
    }

    #[test]
    fn the_root_is_number_one_and_trades_numbers_with_a_lower_number_one() {
        let inodes = Inodes::new(77);
        assert_eq!(
            (inodes.number(77), inodes.number(1), inodes.number(5)),
            (1, 77, 5)
        );
    }

    #[test]
    fn a_number_used_again_is_not_told_while_the_kernel_knows_what_had_it() {
        let inodes = Inodes::new(77);
        let old = looked_up(&inodes, 5, "a");
        old.leaving();
        let new = looked_up(&inodes, 5, "b");
        assert_ne!(old.ino, new.ino);
        let is = |found: Option<Arc<Inode>>, inode: &Arc<Inode>| {
            found.is_some_and(|found| Arc::ptr_eq(&found, inode))
        };
        assert!(is(inodes.find(5), &old));
        assert!(is(inodes.find(new.ino), &new));
        assert!(is(inodes.find_lower(5), &new));
        assert!(Arc::ptr_eq(&looked_up(&inodes, 5, "b"), &new));
        new.leaving();
        let newer = looked_up(&inodes, 5, "c");
        assert!(![old.ino, new.ino].contains(&newer.ino));
        assert!(is(inodes.find_lower(5), &newer));
    }

    #[test]
    fn a_number_used_again_is_told_again_once_everything_is_forgotten() {
        let inodes = Inodes::new(77);
        let old = looked_up(&inodes, 5, "a");
        old.leaving();
        let new = looked_up(&inodes, 5, "b");
        new.leaving();
        for inode in [old, new] {
            inodes.forget(inode.ino, 1);
        }
        inodes.table().sweep();
        let newest = looked_up(&inodes, 5, "c");
        assert_eq!((newest.ino, inodes.table().renumbered.len()), (5, 0));
    }

    #[test]
    fn a_lower_number_that_another_was_given_is_passed_over() {
        let inodes = Inodes::new(77);
        looked_up(&inodes, 5, "a").leaving();
        let given = looked_up(&inodes, 5, "b").ino;
        let other = looked_up(&inodes, given, "c");
        assert_ne!(other.ino, given);
        assert_eq!(other.lower, given);
    }

    #[test]
    fn a_forgotten_directory_is_known_until_its_children_are_forgotten() {
        let inodes = Inodes::new(77);
        let root = Arc::clone(inodes.root());
        let dir = inodes.looked_up(5, Kind::DIRECTORY, place(&root, "d"), Links::One);
        let child = inodes.looked_up(6, Kind::REGULAR, place(&dir, "f"), Links::One);
        drop((dir, child));
        inodes.forget(5, 1);
        inodes.table().sweep();
        assert!(inodes.find(5).is_some());
        inodes.forget(6, 1);
        inodes.table().sweep();
        assert!(inodes.find(5).is_none() && inodes.find(6).is_none());
    }

    #[test]
    fn a_second_name_is_kept_beside_the_first_only_for_what_has_several() {
        let inodes = Inodes::new(77);
        let root = Arc::clone(inodes.root());
        let inode = looked_up(&inodes, 5, "a");
        inodes.looked_up(5, Kind::REGULAR, place(&root, "b"), Links::Several);
        assert_eq!(inode.places().len(), 2);
        looked_up(&inodes, 5, "c");
        assert_eq!(inode.place().expect("it has one").name.as_ref(), b"c");
        assert_eq!(inode.places().len(), 1);
    }
}
