//! A volume on a disk of its own, served to nobody but the test.

use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::channel;

use claviger_vault::dir::{Location, Record};
use claviger_vault::ids::Scope;
use claviger_vault::native::NativeFormat;
use fuser::{FileHandle, OpenFlags, RenameFlags};

use super::disk::Disk;
use super::keys::InProcess;
use crate::caller::{Caller, SuidOnChange};
use crate::failure::OpError;
use crate::filesystem::VolumeFs;
use crate::inode::ROOT;
use crate::readdir::Room;

const ANN: Caller = Caller {
    uid: 0,
    gid: 0,
    pid: 0,
};

pub(crate) struct Volume {
    pub(crate) fs: Arc<VolumeFs>,
    pub(crate) disk: Disk,
    keys: Arc<InProcess>,
}

impl Volume {
    pub(crate) fn new() -> Self {
        let keys = InProcess::new(Scope::Volume);
        let disk = Disk::new();
        let lower = disk.root().join("lower");
        fs::create_dir(&lower).unwrap();
        let root = File::open(&lower).unwrap();
        Record::create(&root, &keys.names_keys(), Location::ROOT).unwrap();
        disk.writes_all_out();
        let fs = volume_fs(&keys, &lower);
        Self { fs, disk, keys }
    }

    /// The filesystem is killed, and started again.
    pub(crate) fn killed(self) -> Self {
        let fs = volume_fs(&self.keys, &self.disk.root().join("lower"));
        Self { fs, ..self }
    }

    /// The power is cut, and comes back.
    pub(crate) fn without_power(self) -> Self {
        let disk = self.disk.lose_power();
        Self { disk, ..self }.killed()
    }

    /// Half a minute and more goes by: Linux writes everything out, and `inos` are not new any more.
    pub(crate) fn grows_old(&self, inos: &[u64]) {
        self.disk.writes_all_out();
        for ino in inos {
            let inode = self.fs.inodes.find(*ino).expect("it was made here");
            let made = inode.made().expect("it is new");
            inode.is_made(made.long_ago());
        }
    }

    pub(crate) fn make_dir(&self, name: &str) -> u64 {
        let made = self.fs.mkdir(ANN, ROOT, name.as_bytes(), 0o755, 0);
        made.unwrap().attr.ino.0
    }

    /// Makes and writes a file, and leaves it open.
    pub(crate) fn write(&self, parent: u64, name: &str) -> (u64, FileHandle) {
        let flags = OpenFlags(libc::O_RDWR);
        let made = self
            .fs
            .create(ANN, parent, name.as_bytes(), 0o644, 0, flags);
        let (entry, handle) = made.unwrap();
        let content = [7; 3 * 4096];
        self.fs
            .write(handle, 0, &content, SuidOnChange::Keep)
            .unwrap();
        (entry.attr.ino.0, handle)
    }

    /// The same, synced and closed.
    pub(crate) fn write_durably(&self, name: &str) -> u64 {
        let (ino, handle) = self.write(ROOT, name);
        self.fs.fsync(handle).unwrap();
        self.fs.release(handle);
        ino
    }

    pub(crate) fn rename(&self, from: &str, to: &str, flags: RenameFlags) {
        let (from, to) = ((ROOT, from.as_bytes()), (ROOT, to.as_bytes()));
        self.fs.rename(from, to, flags).unwrap();
    }

    pub(crate) fn find(&self, parent: u64, name: &str) -> Result<u64, OpError> {
        Ok(self.fs.lookup(parent, name.as_bytes())?.attr.ino.0)
    }

    pub(crate) fn open(&self, ino: u64) -> Result<(), OpError> {
        let (tell, told) = channel();
        let flags = OpenFlags(libc::O_RDONLY);
        self.fs.open(ANN, ino, flags, move |opened| {
            tell.send(opened.map(drop)).unwrap();
        });
        told.recv().unwrap()
    }

    /// Whether the root shows `name`.
    pub(crate) fn lists(&self, name: &str) -> bool {
        let handle = self.fs.opendir(ROOT).unwrap();
        let mut found = false;
        let listed = self.fs.readdir(handle, 0, |shown| {
            found |= shown.name == name.as_bytes();
            Room::Taken
        });
        listed.unwrap();
        found
    }
}

fn volume_fs(keys: &Arc<InProcess>, lower: &Path) -> Arc<VolumeFs> {
    let format = Arc::new(NativeFormat {
        volume: keys.volume,
    });
    let lower = File::open(lower).unwrap();
    VolumeFs::new(lower.into(), format, Arc::clone(keys) as _).unwrap()
}
