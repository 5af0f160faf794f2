//! Native files, format version 0: `docs/format.md` gives every octet.
//!
//! The daemon makes and opens the [`head`] of a file, which holds its FEKs sealed; the filesystem
//! reads and writes the rest through [`NativeFile`]. Names, directories and the manifest are other
//! modules' business; a file's binding to its name is here ([`Place`]), as directories have one too.
//!
//! Functions that take bytes from a lower folder ([`head::open`], [`Packet::parse`],
//! [`FixedPart::parse`], [`Place::parse`], [`fuzzing`]) take any bytes and never panic.

mod aead;
mod bound;
mod error;
mod feks;
mod file;
mod fixed;
#[cfg(test)]
mod format_doc;
pub mod fuzzing;
pub mod head;
mod key_record;
mod layout;
mod lower;
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
pub use layout::MAX_SIZE;
pub use packet::{MAX_PACKETS_LEN, Packet, PacketError};
pub use place::{
    Binding, Bound, Links, PLACE_LEN, Place, PlaceCopy, PlaceKey, PlaceSeal, binding, newest_place,
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
