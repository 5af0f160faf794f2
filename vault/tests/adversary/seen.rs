//! Reading a volume whole, as its owner does, and telling what is not as it was written.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd;

use claviger_vault::epoch::EpochKeys;
use claviger_vault::manifest::{self, Manifest};
use claviger_vault::names::NamesKeys;
use claviger_vault::native::{Access, NativeFile, PAGE, check_place};
use claviger_vault::pin::Verdict;
use claviger_vault::symlink;
use claviger_vault::tree::{Folder, TreeError};
use claviger_vault::xattr::{Attributes, Owner};
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{Mode, SFlag, fstatat};
use rustix::fs::{fgetxattr, flistxattr};

use crate::volume::{epoch_key, feks_of};
use crate::world::{Machine, Part, Place, World, Written};

/// What the owner gets to see: bytes, or that something was refused.
#[derive(Default)]
pub struct Seen {
    places: BTreeMap<Place, Result<Vec<u8>, String>>,
    /// Upper paths that were refused, and all below them with them; the empty one is the volume.
    refused: BTreeMap<String, String>,
}

/// How something differs from what was written there last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effect {
    /// An error instead.
    Refused,
    /// As if it had been removed.
    Gone,
    /// Zeros.
    Zeros,
    /// What was written there before.
    Earlier,
    /// What was written at another place of this volume.
    Exchanged,
    /// What was written nowhere in this volume.
    Never,
}

/// Each effect, with the places that show it.
pub type Effects = BTreeMap<Effect, Vec<String>>;

/// What an unlocked volume gives its owner.
struct Unlocked {
    manifest: Manifest,
    epochs: EpochKeys,
    keys: NamesKeys,
}

/// Reads all of `world.mine`, by listing and by every name there is or was.
pub fn read_all(world: &World, machine: Machine) -> Seen {
    let mut seen = Seen::default();
    match unlock(world, machine) {
        Err(why) => seen.refuse("", why),
        Ok(unlocked) => {
            let reader = Reader {
                world,
                unlocked: &unlocked,
            };
            match Folder::root(world.mine.root_fd(), &unlocked.keys) {
                Ok(root) => reader.folder(&root, "", &mut seen),
                Err(error) => seen.refuse("", error.to_string()),
            }
        }
    }
    seen
}

/// What the daemon does: known volumes, token, MAC, chain, known volumes again.
fn unlock(world: &World, machine: Machine) -> Result<Unlocked, String> {
    let known = world.known_volumes(machine);
    let folder = &world.mine.lower;
    let loaded = manifest::load(world.mine.root_fd()).map_err(|error| error.to_string())?;
    let claims = loaded.manifest.claims();
    accept(&known.before_unlock(folder, claims))?;
    let mut secret = claims
        .recipients()
        .iter()
        .find_map(|enrolled| world.token.unwrap(&enrolled.wrap.body))
        .ok_or("no wrap for this token")?;
    let current = epoch_key(&mut secret);
    let manifest = loaded
        .manifest
        .verify(&current)
        .map_err(|error| error.to_string())?;
    let epochs = manifest
        .unwrap_chain(current)
        .map_err(|error| error.to_string())?;
    accept(&known.after_unlock(folder, &manifest, &epochs))?;
    let (current, minimum) = (manifest.epoch(), manifest.minimum());
    let names = epochs.names_keys(manifest.volume(), minimum);
    let keys = NamesKeys::new(current, minimum, names).map_err(|error| error.to_string())?;
    Ok(Unlocked {
        manifest,
        epochs,
        keys,
    })
}

fn accept(verdict: &Verdict) -> Result<(), String> {
    match verdict {
        Verdict::Unknown | Verdict::Same | Verdict::Advanced(_) => Ok(()),
        Verdict::RolledBack { .. } | Verdict::OtherVolume { .. } | Verdict::OtherKey => {
            Err(format!("{verdict:?}"))
        }
    }
}

struct Reader<'a> {
    world: &'a World,
    unlocked: &'a Unlocked,
}

impl Reader<'_> {
    fn folder(&self, folder: &Folder, path: &str, seen: &mut Seen) {
        let below = |name: &str| match path {
            "" => name.to_owned(),
            path => format!("{path}/{name}"),
        };
        let mut names = self.known_names(path);
        let entries = match folder.entries() {
            Ok(entries) => entries,
            Err(error) => return seen.refuse(path, error.to_string()),
        };
        for entry in entries {
            match entry.upper {
                Ok(name) => {
                    let name = String::from_utf8_lossy(&name).into_owned();
                    seen.show(&below(&name), Part::Listed, Ok(Vec::new()));
                    names.insert(name);
                }
                Err(error) => {
                    // Left out of listings, with a line in the log.
                    let of = |name: &&String| {
                        let lower = folder.names().encrypt(name.as_bytes()).unwrap();
                        lower.as_bytes() == entry.lower
                    };
                    let lower = format!("?{}", entry.lower.escape_ascii());
                    let name = names.iter().find(of).unwrap_or(&lower);
                    seen.show(&below(name), Part::Listed, Err(error.to_string()));
                }
            }
        }
        for name in names {
            self.entry(folder, &name, &below(&name), seen);
        }
    }

    /// Names that there are or were in a directory.
    fn known_names(&self, path: &str) -> BTreeSet<String> {
        let all = self
            .world
            .mine
            .written
            .keys()
            .chain(self.world.earlier.keys());
        all.filter_map(|place| {
            let rest = match path {
                "" => place.path.as_str(),
                path => place.path.strip_prefix(path)?.strip_prefix('/')?,
            };
            rest.split('/').next().map(str::to_owned)
        })
        .collect()
    }

    fn entry(&self, folder: &Folder, name: &str, path: &str, seen: &mut Seen) {
        let lower = folder.names().encrypt(name.as_bytes()).unwrap();
        let Ok(stat) = fstatat(folder, lower.as_bytes(), AtFlags::AT_SYMLINK_NOFOLLOW) else {
            return;
        };
        match SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT {
            SFlag::S_IFDIR => match folder.enter(name.as_bytes(), &self.unlocked.keys) {
                Ok(inner) => {
                    self.attributes(&inner, Owner::Directory(inner.id()), path, seen);
                    self.folder(&inner, path, seen);
                }
                Err(TreeError::NotFound) => {}
                Err(error) => seen.refuse(path, error.to_string()),
            },
            SFlag::S_IFLNK => {
                let target = readlinkat(folder, lower.as_bytes()).unwrap();
                let target = symlink::open(folder.names(), target.as_encoded_bytes());
                seen.show(
                    path,
                    Part::Target,
                    target.map_err(|error| error.to_string()),
                );
            }
            SFlag::S_IFREG => match self.open(folder, lower.as_bytes()) {
                Ok(file) => self.file(&file, path, seen),
                Err(why) => seen.refuse(path, why),
            },
            _ => seen.refuse(path, "neither file, directory nor symlink".into()),
        }
    }

    fn open(&self, folder: &Folder, lower: &[u8]) -> Result<NativeFile, String> {
        let Unlocked {
            manifest,
            epochs,
            keys,
        } = self.unlocked;
        let text = |error: claviger_vault::native::FileError| error.to_string();
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
        let fd = openat(folder, lower, flags, Mode::empty()).map_err(|error| error.to_string())?;
        let head = NativeFile::read_head(fd.as_fd()).map_err(text)?;
        let names = |epoch| keys.places(epoch).ok();
        check_place(fd.as_fd(), names, &folder.id(), lower).map_err(text)?;
        let accepted = |epoch| epochs.of(epoch).filter(|_| epoch >= manifest.minimum());
        let feks = feks_of(&head, manifest.volume(), accepted, &self.world.token)?;
        NativeFile::open(fd, &head, feks, Access::ReadOnly).map_err(text)
    }

    /// Reads a file in one piece, where blocks are decrypted in place, and block by block, where they
    /// are not: both have to say the same. Of what is whole, some blocks are enough of the second.
    fn file(&self, file: &NativeFile, path: &str, seen: &mut Seen) {
        let size = file.size();
        seen.show(path, Part::Size, Ok(size.to_le_bytes().into()));
        let page = PAGE as u64;
        let blocks = size.div_ceil(page);
        let whole = (blocks <= 256)
            .then(|| read(file, path, 0, size))
            .transpose();
        let intact = whole.is_ok();
        let whole = whole.ok().flatten().unwrap_or_default();
        let mut refused = 0;
        for block in (0..blocks).filter(|block| blocks <= 256 || *block < 4 || *block > blocks - 4)
        {
            let (start, len) = (block * page, (size - block * page).min(page));
            let in_whole = whole.get(start as usize..(start + len) as usize);
            let text = match in_whole {
                Some(in_whole) if block % 16 != 0 => Ok(in_whole.to_vec()),
                _ => read(file, path, start, len),
            };
            if let (Some(in_whole), Ok(text)) = (in_whole, &text) {
                assert_eq!(in_whole, text, "{path}: block {block} reads in two ways");
            }
            refused += usize::from(text.is_err());
            seen.show(path, Part::Block(block), text);
        }
        assert!(blocks > 256 || intact == (refused == 0), "{path}");
        self.attributes(file, Owner::File(file.fixed().file), path, seen);
    }

    fn attributes(&self, of: impl AsFd, owner: Owner, path: &str, seen: &mut Seen) {
        let attributes = Attributes::new(&self.unlocked.keys, owner);
        let mut names = vec![0; 4096];
        let len = flistxattr(of.as_fd(), &mut names).unwrap();
        for lower in names[..len].split(|byte| *byte == 0) {
            let attribute = match attributes.parse(lower) {
                Ok(Some(attribute)) => attribute,
                Ok(None) => continue,
                Err(error) => {
                    let part = Part::Attribute(format!("?{}", lower.escape_ascii()));
                    seen.show(path, part, Err(error.to_string()));
                    continue;
                }
            };
            let mut sealed = vec![0; 1 << 16];
            let len = fgetxattr(of.as_fd(), attribute.lower.as_slice(), &mut sealed).unwrap();
            let value = attributes.open(&attribute, &sealed[..len]);
            let name = String::from_utf8_lossy(&attribute.name).into_owned();
            let value = value.map_err(|error| error.to_string());
            seen.show(path, Part::Attribute(name), value);
        }
    }
}

/// A part of a file, all of it within the size.
fn read(file: &NativeFile, path: &str, offset: u64, len: u64) -> Result<Vec<u8>, String> {
    let mut text = vec![0xEE; len as usize];
    match file.read_at(offset, &mut text) {
        Ok(read) => {
            assert_eq!(read, text.len(), "{path}: a short read within the file");
            Ok(text)
        }
        Err(error) => {
            let left = text.iter().any(|byte| *byte != 0);
            assert!(
                !left,
                "{path}: a read that failed left something in the buffer"
            );
            Err(error.to_string())
        }
    }
}

impl Seen {
    fn show(&mut self, path: &str, part: Part, what: Result<Vec<u8>, String>) {
        self.places.insert(Place::new(path, part), what);
    }

    fn refuse(&mut self, path: &str, why: String) {
        self.refused.insert(path.into(), why);
    }

    /// Whether a place, or something on the way to it, was refused.
    fn refusal(&self, path: &str) -> Option<&String> {
        let parents = path.match_indices('/').map(|(at, _)| &path[..at]);
        let mut on_the_way = parents.chain(["", path]);
        on_the_way.find_map(|path| self.refused.get(path))
    }

    /// How all this differs from what was written: `now`, or earlier.
    pub fn effects(&self, now: &Written, earlier: &Written) -> Effects {
        let mut effects = Effects::new();
        let places: BTreeSet<&Place> = now
            .keys()
            .chain(earlier.keys())
            .chain(self.places.keys())
            .collect();
        for place in places {
            let effect = match self.places.get(place) {
                Some(Err(_)) => Some(Effect::Refused),
                Some(Ok(bytes)) => self.judge(place, bytes, now, earlier),
                None if !now.contains_key(place) => None,
                None if self.is_cut_off(place) => None,
                // Its directory is refused; a refused file is listed all the same.
                None if self.refusal(&place.path).is_some() => Some(Effect::Refused),
                None => Some(Effect::Gone),
            };
            if let Some(effect) = effect {
                let shown = match self.places.get(place) {
                    Some(Ok(bytes)) => {
                        let (start, _) = bytes.split_at(bytes.len().min(40));
                        format!("{place:?}: {}", start.escape_ascii())
                    }
                    Some(Err(why)) => format!("{place:?}: {why}"),
                    None => format!("{place:?}: {:?}", self.refusal(&place.path)),
                };
                effects.entry(effect).or_default().push(shown);
            }
        }
        for (path, why) in &self.refused {
            let shown = format!("{path}: {why}");
            effects.entry(Effect::Refused).or_default().push(shown);
        }
        effects
    }

    /// How bytes that were returned differ from what was written at their place.
    fn judge(
        &self,
        place: &Place,
        bytes: &[u8],
        now: &Written,
        earlier: &Written,
    ) -> Option<Effect> {
        // The size that is seen may cut a block short, which the size has to answer for, or show
        // more of the last one than there is: zeros.
        let same = |written: &[u8]| match place.part {
            Part::Block(_) => {
                let len = bytes.len().min(written.len());
                let (shown, rest) = bytes.split_at(len);
                shown == &written[..len] && rest.iter().all(|byte| *byte == 0)
            }
            _ => bytes == written,
        };
        if now.get(place).is_some_and(|written| same(written)) {
            return None;
        }
        let is_zero = bytes.iter().all(|byte| *byte == 0);
        match (&place.part, now.get(place)) {
            // A gap, or past the end: zeros, and no more.
            (Part::Block(_), None) if is_zero => return None,
            (Part::Block(_), Some(_)) if is_zero => return Some(Effect::Zeros),
            _ => {}
        }
        if place.part == Part::Listed && self.refusal(&place.path).is_some() {
            // A name that was put back; what it names does not open.
            return Some(Effect::Refused);
        }
        if earlier.get(place).is_some_and(|written| same(written)) {
            return Some(Effect::Earlier);
        }
        let of_this_kind = |other: &&Place| {
            core::mem::discriminant(&other.part) == core::mem::discriminant(&place.part)
        };
        let elsewhere = |written: &Written| {
            let mut places = written.keys().filter(of_this_kind);
            places.any(|other| same(&written[other]))
        };
        match place.part {
            Part::Listed => Some(Effect::Never),
            _ if elsewhere(now) || elsewhere(earlier) => Some(Effect::Exchanged),
            _ => Some(Effect::Never),
        }
    }

    /// Blocks past the size that is seen: the size answers for them.
    fn is_cut_off(&self, place: &Place) -> bool {
        let Part::Block(block) = place.part else {
            return false;
        };
        let size = self.places.get(&Place::new(&place.path, Part::Size));
        let Some(Ok(size)) = size else { return false };
        let size = u64::from_le_bytes(size.as_slice().try_into().unwrap());
        block >= size.div_ceil(PAGE as u64)
    }
}
