//! What a lock has to know of a filesystem: which names and files the kernel has seen.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::sync::Arc;

use crate::filesystem::VolumeFs;
use crate::inode::{Inode, Place};
use crate::kernel::KnownName;

impl VolumeFs {
    /// Every name that the kernel may have cached. Names that do not verify were never shown to it;
    /// those of an inode that is being moved are cached under the old or the new one, or not at all.
    pub(crate) fn known_names(&self) -> Vec<KnownName> {
        let inodes = self.inodes.all();
        let places = inodes.iter().flat_map(|inode| inode.places().clone());
        places.filter_map(|place| self.known_name(&place)).collect()
    }

    /// Lower paths of the files that are open: what may be lost if they are not synced in time.
    pub(crate) fn open_paths(&self) -> Vec<Vec<u8>> {
        let inodes = self.inodes.all();
        let open = inodes.iter().filter(|inode| inode.open.is_open());
        open.map(|inode: &Arc<Inode>| self.lower_path(inode)).collect()
    }

    fn known_name(&self, place: &Place) -> Option<KnownName> {
        let dir = self.dir_of(&place.parent).ok()?;
        let name = self.shown_name(&place.parent, &dir, place.name.as_bytes())?;
        Some((place.parent.ino, OsString::from_vec(name)))
    }
}
