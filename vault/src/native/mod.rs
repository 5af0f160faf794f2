//! Native files, format version 0: `docs/format.md` gives every octet.
//!
//! The daemon makes and opens the [`head`] of a file, which holds its FEKs sealed; the filesystem
//! reads and writes the rest through [`NativeFile`]. Names, directories and the manifest are other
//! modules' business; a file's binding to its name is here ([`Place`]), as directories have one too.
//!
//! Functions that take bytes from a lower folder ([`head::open`], [`Packet::parse`],
//! [`FixedPart::parse`], [`Place::parse`], [`fuzzing`]) take any bytes and never panic.
//!
//! ```
//! use std::os::fd::AsFd;
//!
//! use claviger_vault::epoch::EpochKey;
//! use claviger_vault::ids::{DirId, Epoch, FileId, VolumeId};
//! use claviger_vault::native::head::{self, Layer, Opened};
//! use claviger_vault::native::{Access, Feks, Links, NativeFile, PlaceSeal};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // The daemon has the epoch key and makes the head of a new file.
//! let (volume, id) = (VolumeId::random(), FileId::random());
//! let key = EpochKey::random()?;
//! let (head, fek) = head::fresh(volume, id, (Epoch::FIRST, &key), &Layer::Volume)?;
//!
//! // The filesystem has the names key, binds the file to its place, and writes.
//! let keys = PlaceKeys::new(key.names_key(volume));
//! let place = PlaceSeal::new((Epoch::FIRST, &keys), &id.0, &DirId::ROOT, b"lower name", Links::One);
//! let lower = tempfile::tempfile()?;
//! let file = NativeFile::create(lower.try_clone()?.into(), &head, Feks::first(fek), place)?;
//! file.append(b"content")?;
//! file.sync()?;
//! drop(file);
//!
//! // Later: the filesystem reads the head, the daemon opens it, the filesystem reads on.
//! let head = NativeFile::read_head(lower.as_fd())?;
//! let Opened::Feks(feks, _) = head::open(&head, volume, |_| Some(&key))? else {
//!     return Err("made in volume scope".into());
//! };
//! let file = NativeFile::open(lower.into(), &head, feks, Access::ReadOnly)?;
//! let mut content = [0; 7];
//! assert_eq!(file.read_at(0, &mut content)?, 7);
//! assert_eq!(&content, b"content");
//! # Ok(())
//! # }
//! ```

mod aead;
mod announced;
mod bound;
mod error;
mod feks;
mod file;
mod fixed;
mod format;
#[cfg(test)]
mod format_doc;
pub mod fuzzing;
pub mod head;
mod key_record;
mod layout;
pub(crate) mod lower;
pub(crate) mod octets;
mod packet;
mod place;
mod segment;
mod shape;
mod slot;
#[cfg(test)]
mod tests;
mod unsynced;

pub use bound::{Synced, check_place, finish_move, prepare_move, read_place, replace_head};
pub use error::{FileError, HeadError, Part, Unsupported};
pub use feks::{BadFeks, Feks, MAX_FEKS};
pub use file::{Access, NativeFile};
pub use fixed::{FixedPart, MAGIC, SUITE, VERSION};
pub use format::{NativeFormat, NativeKeys, NativeTree, NewNative, places_of};
pub use layout::MAX_SIZE;
pub use packet::{MAX_PACKETS_LEN, Packet, PacketError};
pub use place::{
    Binding, Bound, Links, PLACE_LEN, Place, PlaceCopy, PlaceKey, PlaceKeys, PlaceSeal,
    newest_place,
};

use crate::ids::Scope;

/// Bytes of a block, of a header page and of a slot page.
pub const PAGE: usize = 4096;
const PAGE_LEN: u64 = PAGE as u64;

/// Bytes of header page 0 that belong to the head: fixed part, two key records, zeros.
pub const HEAD_LEN: usize = 512;

/// The size that stat(2) shows of a file that is not open, from the length of its lower file.
///
/// Nothing verifies it. Once the file is open, [`NativeFile::size`] is what counts.
pub fn stat_size(lower_len: u64, scope: Scope) -> u64 {
    let header_pages = match scope {
        Scope::Volume => 1,
        Scope::File => 2,
    };
    layout::Layout::new(header_pages).size(lower_len)
}
