//! A volume, made and changed by the crate itself, as a filesystem does it.

use std::fs::{self, File};
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use claviger_vault::dir::{Location, Record};
use claviger_vault::epoch::{EpochKey, EpochKeys};
use claviger_vault::ids::{Epoch, FileId, Scope, VolumeId};
use claviger_vault::manifest::{self, Manifest};
use claviger_vault::names::{LowerName, NamesKeys};
use claviger_vault::native::head::{self, Layer, NewFek, Opened};
use claviger_vault::native::{
    Access, Feks, Links, NativeFile, PAGE, Packet, PlaceKeys, PlaceSeal, Synced, finish_move,
    prepare_move, read_place, replace_head,
};
use claviger_vault::secret::FileKey;
use claviger_vault::symlink;
use claviger_vault::tree::{Folder, write_sidecar};
use claviger_vault::xattr::{Attributes, Owner};
use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::symlinkat;
use rustix::fs::{XattrFlags, fsetxattr};

use crate::world::{Part, Place, Token, Written, recipient, wrapping};

/// A volume, and what makes and changes it.
pub struct Volume {
    pub lower: PathBuf,
    pub scope: Scope,
    pub manifest: Manifest,
    pub epochs: EpochKeys,
    pub written: Written,
    label: &'static str,
}

impl Volume {
    /// An empty volume in its first epoch.
    pub fn create(lower: &Path, label: &'static str, scope: Scope, token: &Token) -> Self {
        let recipients = ["card", "spare card", "lost card"].map(recipient).to_vec();
        let (manifest, key) = Manifest::create(scope, recipients, wrapping(token)).unwrap();
        Self::begin(lower, label, manifest, key)
    }

    /// The same, of a manifest and its current key.
    pub fn begin(lower: &Path, label: &'static str, manifest: Manifest, key: EpochKey) -> Self {
        fs::create_dir(lower).unwrap();
        let volume = Self {
            lower: lower.into(),
            scope: manifest.scope(),
            epochs: EpochKeys::new(manifest.epoch(), key),
            manifest,
            written: Written::new(),
            label,
        };
        volume.store();
        Record::create(volume.root_fd(), &volume.keys(), Location::ROOT).unwrap();
        volume
    }

    pub fn id(&self) -> VolumeId {
        self.manifest.volume()
    }

    pub fn keys(&self) -> NamesKeys {
        let (current, minimum) = (self.manifest.epoch(), self.manifest.minimum());
        NamesKeys::new(current, minimum, self.epochs.names_keys(self.id(), minimum)).unwrap()
    }

    /// The lower path of an upper one, which need not exist.
    pub fn lower_path(&self, path: &str) -> PathBuf {
        let mut lower = self.lower.clone();
        let mut folder = self.root();
        for name in path.split('/') {
            lower.push(folder.names().encrypt(name.as_bytes()).unwrap().as_os_str());
            if let Ok(inner) = folder.enter(name.as_bytes(), &self.keys()) {
                folder = inner;
            }
        }
        lower
    }

    /// The directory that a path is in, and its lower name there.
    pub fn resolve(&self, path: &str) -> (Folder, LowerName) {
        let (folder, name) = self.root().resolve(path.as_bytes(), &self.keys()).unwrap();
        (folder, name.unwrap())
    }

    fn root(&self) -> Folder {
        Folder::root(self.root_fd(), &self.keys()).unwrap()
    }

    pub fn root_fd(&self) -> OwnedFd {
        File::open(&self.lower).unwrap().into()
    }

    pub fn store(&self) {
        let current = self.epochs.current();
        self.manifest.store(current, self.root_fd()).unwrap();
        assert!(manifest::load(self.root_fd()).is_ok());
    }

    fn note(&mut self, path: &str, part: Part, bytes: impl Into<Vec<u8>>) {
        self.written.insert(Place::new(path, part), bytes.into());
    }

    fn text(&self, path: &str, version: u32, block: u64) -> Vec<u8> {
        let line = format!("{} {path} v{version} block {block}\n", self.label);
        line.bytes().cycle().take(PAGE).collect()
    }

    pub fn create_file(&mut self, path: &str, token: &Token) -> NativeFile {
        self.create_file_with_id(path, FileId::random(), token)
    }

    pub fn create_file_with_id(&mut self, path: &str, file: FileId, token: &Token) -> NativeFile {
        let (folder, name) = self.resolve(path);
        write_sidecar(&folder, &name).unwrap();
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
        let fd = openat(
            &folder,
            name.as_bytes(),
            flags,
            Mode::S_IRUSR | Mode::S_IWUSR,
        )
        .unwrap();
        let epoch = (self.epochs.current_epoch(), self.epochs.current());
        let file_key = FileKey::random();
        let packets = [Packet {
            key_sig: [1; 8],
            algorithm: 102,
            body: token.wrap(file_key.expose()),
        }];
        let layer = match self.scope {
            Scope::Volume => Layer::Volume,
            Scope::File => Layer::File {
                file_key: &file_key,
                packets: &packets,
            },
        };
        let (head, fek) = head::fresh(self.id(), file, epoch, &layer).unwrap();
        let keys = self.keys();
        let place = seal_of(&keys, file, &folder, &name, Links::One);
        self.note(path, Part::Listed, "");
        self.note(path, Part::Size, 0_u64.to_le_bytes());
        NativeFile::create(fd, &head, Feks::first(fek), place).unwrap()
    }

    pub fn open_file(&self, path: &str, token: &Token) -> NativeFile {
        let file = File::options()
            .read(true)
            .write(true)
            .open(self.lower_path(path))
            .unwrap();
        let head = NativeFile::read_head(file.as_fd()).unwrap();
        let feks = feks_of(&head, self.id(), |epoch| self.epochs.of(epoch), token).unwrap();
        NativeFile::open(file.into(), &head, feks, Access::ReadWrite).unwrap()
    }

    /// Writes the blocks that `range` of the file begins or ends in, as far as it covers them.
    pub fn write(&mut self, file: &NativeFile, path: &str, version: u32, range: Range<u64>) {
        let page = PAGE as u64;
        for block in range.start / page..range.end.div_ceil(page) {
            let text = self.text(path, version, block);
            let len = (range.end - block * page).min(page) as usize;
            file.write_at(block * page, &text[..len]).unwrap();
            self.note(path, Part::Block(block), &text[..len]);
        }
        self.note(path, Part::Size, file.size().to_le_bytes());
    }

    pub fn mkdir(&mut self, path: &str) {
        let (folder, name) = self.resolve(path);
        mkdirat(&folder, name.as_bytes(), Mode::S_IRWXU).unwrap();
        let location = Location {
            parent: folder.id(),
            lower_name: name.as_bytes(),
        };
        let made = File::open(self.lower_path(path)).unwrap();
        Record::create(made, &self.keys(), location).unwrap();
        self.note(path, Part::Listed, "");
    }

    pub fn symlink(&mut self, path: &str, version: u32) {
        let (folder, name) = self.resolve(path);
        let target = format!("{}/{path}/v{version}", self.label);
        let sealed = symlink::seal(folder.names(), target.as_bytes()).unwrap();
        symlinkat(sealed.as_str(), &folder, name.as_bytes()).unwrap();
        self.note(path, Part::Listed, "");
        self.note(path, Part::Target, target);
    }

    pub fn set_attribute(&mut self, path: &str, name: &str, version: u32) {
        let file = File::open(self.lower_path(path)).unwrap();
        let owner = match file.metadata().unwrap().is_dir() {
            true => Owner::Directory(self.enter(path).id()),
            false => Owner::File(
                read_place(file.as_fd(), |epoch| {
                    self.epochs
                        .of(epoch)
                        .map(|key| Box::new(PlaceKeys::new(key.names_key(self.id()))))
                })
                .unwrap()
                .0,
            ),
        };
        let keys = self.keys();
        let attributes = Attributes::new(&keys, owner);
        let attribute = attributes.candidates(name.as_bytes()).unwrap().remove(0);
        let value = format!("{} {path} {name} v{version}", self.label);
        let sealed = attributes.seal(&attribute, value.as_bytes()).unwrap();
        fsetxattr(
            &file,
            attribute.lower.as_slice(),
            &sealed,
            XattrFlags::empty(),
        )
        .unwrap();
        self.note(path, Part::Attribute(name.into()), value);
    }

    pub fn enter(&self, path: &str) -> Folder {
        let below = format!("{path}/x");
        self.resolve(&below).0
    }

    pub fn link(&mut self, path: &str, to: &str) {
        let lower = self.lower_path(path);
        let file = open_rw(&lower);
        let keys = self.keys();
        let (folder, name) = self.resolve(path);
        let names = |epoch| keys.places(epoch).ok();
        let (id, _) = read_place(file.as_fd(), names).unwrap();
        let place = seal_of(&keys, id, &folder, &name, Links::Several);
        finish_move(file.as_fd(), names, &place, Synced::Maybe).unwrap();
        fs::hard_link(&lower, self.lower_path(to)).unwrap();
        self.copy_notes(path, to);
    }

    pub fn rename(&mut self, from: &str, to: &str) {
        let keys = self.keys();
        let lower = self.lower_path(from);
        let ((old, old_name), (new, new_name)) = (self.resolve(from), self.resolve(to));
        let moved = || {
            renameat(&old, old_name.as_bytes(), &new, new_name.as_bytes()).unwrap();
        };
        let at = |folder: &Folder, name| Location {
            parent: folder.id(),
            lower_name: name,
        };
        if lower.is_dir() {
            let dir = File::open(&lower).unwrap();
            let (from, to) = (at(&old, old_name.as_bytes()), at(&new, new_name.as_bytes()));
            let mut record = Record::open(&dir, &keys, from).unwrap();
            record
                .prepare_move(&dir, &keys, (from, to), Synced::Maybe)
                .unwrap();
            moved();
            record.finish_move(&dir, &keys, to, Synced::Maybe).unwrap();
        } else {
            let file = open_rw(&lower);
            let names = |epoch| keys.places(epoch).ok();
            let (id, _) = read_place(file.as_fd(), names).unwrap();
            let place = seal_of(&keys, id, &new, &new_name, Links::One);
            prepare_move(file.as_fd(), names, &place, Synced::Maybe).unwrap();
            moved();
            finish_move(file.as_fd(), names, &place, Synced::Maybe).unwrap();
        }
        self.copy_notes(from, to);
        self.forget(from);
    }

    pub fn remove(&mut self, path: &str) {
        fs::remove_file(self.lower_path(path)).unwrap();
        self.forget(path);
    }

    /// Seals the head of a file anew, under the current epoch.
    pub fn rewrap(&self, path: &str) {
        let file = open_rw(&self.lower_path(path));
        let head = NativeFile::read_head(file.as_fd()).unwrap();
        let new = (self.epochs.current_epoch(), self.epochs.current());
        let key = |epoch| self.epochs.of(epoch);
        let head = head::rewrap(&head, self.id(), key, new, NewFek::Add).unwrap();
        replace_head(file.as_fd(), &head).unwrap();
    }

    fn copy_notes(&mut self, from: &str, to: &str) {
        let below = format!("{from}/");
        let copies: Vec<_> = self
            .written
            .iter()
            .filter(|(place, _)| place.path == from || place.path.starts_with(&below))
            .map(|(place, bytes)| {
                let path = place.path.replacen(from, to, 1);
                (Place::new(&path, place.part.clone()), bytes.clone())
            })
            .collect();
        self.written.extend(copies);
    }

    fn forget(&mut self, path: &str) {
        let below = format!("{path}/");
        self.written
            .retain(|place, _| place.path != path && !place.path.starts_with(&below));
    }
}

/// The FEKs that a head holds, opened with everything its owner has.
pub fn feks_of<'a>(
    head: &[u8],
    volume: VolumeId,
    epoch_key: impl Fn(Epoch) -> Option<&'a EpochKey>,
    token: &Token,
) -> Result<Feks, String> {
    let opened = head::open(head, volume, epoch_key);
    match opened.map_err(|error| error.to_string())? {
        Opened::Feks(feks, _) => Ok(feks),
        Opened::FileScope(sealed) => {
            let mut secret = sealed
                .packets
                .iter()
                .find_map(|packet| token.unwrap(&packet.body))
                .ok_or("no packet for this token")?;
            sealed
                .open(&FileKey::new(&mut secret))
                .map_err(|error| error.to_string())
        }
    }
}

pub fn seal_of(
    keys: &NamesKeys,
    file: FileId,
    folder: &Folder,
    name: &LowerName,
    links: Links,
) -> PlaceSeal {
    // A binding has to be of the epoch of the record that it replaces.
    let epoch = folder.names().epoch();
    let places = keys.places(epoch).unwrap();
    PlaceSeal::new(
        (epoch, places),
        &file.0,
        &folder.id(),
        name.as_bytes(),
        links,
    )
}

pub fn epoch_key(bytes: &mut [u8; 32]) -> EpochKey {
    EpochKey::new(bytes).unwrap()
}

/// Makes all of a file durable and its shape say so.
pub fn settle(file: &NativeFile) {
    file.sync().unwrap();
    file.sync().unwrap();
}

fn open_rw(path: &Path) -> File {
    File::options().read(true).write(true).open(path).unwrap()
}
