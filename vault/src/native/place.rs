//! The place record: binds a file or directory to the directory and the name it was put under.
//!
//! Whoever holds the lower folder may swap two files that are both authentic. So each carries a MAC
//! of where it belongs, and opening it anywhere else is refused. The keys derive from the names key
//! of the epoch in the record, not from a FEK: a rename needs no token.

use aws_lc_rs::hmac;
use zeroize::Zeroizing;

use super::octets::{Octets, Side, is_zero, join, newest};
use crate::ids::{DirId, Epoch};
use crate::kdf::derive;
use crate::secret::NamesKey;

/// Length in bytes of one copy of a place record.
pub const PLACE_LEN: usize = 128;
/// What of it the HMAC covers.
const MACED_LEN: usize = PLACE_LEN - 32;

const LINKED: u32 = 1;
const NEXT: u32 = 2;

/// A parent directory and a name in it, as a MAC: says nothing without the names key.
pub type Binding = [u8; 16];

/// The names key of one epoch, as place records use it.
pub struct PlaceKeys {
    names: NamesKey,
    /// Kept, because every file that is opened or made wants it. In a box: a key moved by value leaves copies
    /// on the stack.
    bindings: Box<Zeroizing<[u8; 32]>>,
}

impl PlaceKeys {
    /// Derives what does not depend on the record.
    pub fn new(names: NamesKey) -> Self {
        let mut bindings = Box::new(Zeroizing::new([0; 32]));
        bindings.copy_from_slice(derive::<32>(names.expose(), "binding", &[]).as_slice());
        Self { names, bindings }
    }

    /// The names key.
    pub fn names_key(&self) -> &NamesKey {
        &self.names
    }

    /// The binding of what has `own_id` to `lower_name` in `parent`.
    ///
    /// ```text
    /// first 16 bytes of HMAC-SHA256(HKDF(names key, "binding"), own id 16 | parent id 16 | lower name)
    /// ```
    pub fn binding(&self, own_id: &[u8; 16], parent: &DirId, lower_name: &[u8]) -> Binding {
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.bindings.as_slice());
        let mut mac = hmac::Context::with_key(&key);
        mac.update(own_id);
        mac.update(&parent.0);
        mac.update(lower_name);
        join(&[mac
            .sign()
            .as_ref()
            .first_chunk::<16>()
            .expect("SHA-256 has 32 bytes")])
    }

    /// HKDF(names key, "place" ‖ own id).
    pub fn of(&self, own_id: &[u8; 16]) -> PlaceKey {
        let key = derive::<32>(self.names.expose(), "place", own_id);
        PlaceKey(hmac::Key::new(hmac::HMAC_SHA256, key.as_slice()))
    }
}

/// Where a file or directory belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// To one place.
    Here(Binding),
    /// To one place, and to another that a rename is about to give it.
    Moving {
        /// Before the rename.
        here: Binding,
        /// After it.
        next: Binding,
    },
    /// To none: it has several links.
    Linked,
}

impl Bound {
    /// Whether it may be at `place`.
    pub fn allows(&self, place: &Binding) -> bool {
        match self {
            Self::Here(here) => here == place,
            Self::Moving { here, next } => here == place || next == place,
            Self::Linked => true,
        }
    }
}

/// A place record.
///
/// ```text
/// seq 8 | names epoch 4 | flags 4 (1 linked, 2 next) | here 16 | next 16 | reserved 48 | HMAC 32
/// ```
///
/// Lengths are bytes, integers little-endian. `here` is zero where linked, `next` where not moving.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// One more than that of the record it replaces.
    pub seq: u64,
    /// Whose names key made the bindings and the HMAC.
    pub names_epoch: Epoch,
    /// Where it belongs.
    pub bound: Bound,
}

/// Key of the HMACs of the place records of one file or directory, for one epoch.
pub struct PlaceKey(hmac::Key);

impl Place {
    /// The epoch that a copy claims to be of, to find its key. None if the copy is zero.
    pub fn claimed_epoch(bytes: &[u8; PLACE_LEN]) -> Option<Epoch> {
        let mut octets = Octets(bytes);
        octets.u64()?;
        let epoch = Epoch(octets.u32()?);
        (!is_zero(bytes)).then_some(epoch)
    }

    /// Parses one copy. None if it does not verify, or says what no version writes.
    ///
    /// `cover` is what the HMAC covers ahead of the record: nothing for files, the first 48 bytes of
    /// the record file for directories.
    pub fn parse(bytes: &[u8; PLACE_LEN], key: &PlaceKey, cover: &[u8]) -> Option<Self> {
        let (maced, tag) = bytes.split_at_checked(MACED_LEN)?;
        let expected = mac(key, cover, maced);
        aws_lc_rs::constant_time::verify_slices_are_equal(expected.as_ref(), tag).ok()?;
        let mut octets = Octets(maced);
        // A later record needs a higher one.
        let seq = octets.u64().filter(|seq| *seq < u64::MAX)?;
        let names_epoch = Epoch(octets.u32()?);
        let flags = octets.u32()?;
        let (here, next) = (*octets.array()?, *octets.array()?);
        let bound = match flags {
            0 if is_zero(&next) => Bound::Here(here),
            NEXT => Bound::Moving { here, next },
            LINKED if is_zero(&here) && is_zero(&next) => Bound::Linked,
            _ => return None,
        };
        is_zero(octets.0).then_some(Self {
            seq,
            names_epoch,
            bound,
        })
    }

    /// The bytes that [`Place::parse`] reads.
    pub fn write(&self, key: &PlaceKey, cover: &[u8]) -> [u8; PLACE_LEN] {
        const NOWHERE: Binding = [0; 16];
        let (flags, here, next) = match self.bound {
            Bound::Here(here) => (0, here, NOWHERE),
            Bound::Moving { here, next } => (NEXT, here, next),
            Bound::Linked => (LINKED, NOWHERE, NOWHERE),
        };
        let maced: [u8; MACED_LEN] = join(&[
            &self.seq.to_le_bytes(),
            &self.names_epoch.0.to_le_bytes(),
            &u32::to_le_bytes(flags),
            &here,
            &next,
        ]);
        join(&[&maced, mac(key, cover, &maced).as_ref()])
    }
}

fn mac(key: &PlaceKey, cover: &[u8], maced: &[u8]) -> hmac::Tag {
    let mut mac = hmac::Context::with_key(&key.0);
    mac.update(cover);
    mac.update(maced);
    mac.sign()
}

/// Which of two copies a record counts from, and which the next one goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlaceCopy {
    /// The first.
    A,
    /// The second.
    B,
}

impl PlaceCopy {
    /// The one that the next record goes to.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    /// Offset of this copy behind the start of copy A.
    pub fn offset(self) -> usize {
        match self {
            Self::A => 0,
            Self::B => PLACE_LEN,
        }
    }
}

/// The newest of two copies that verifies, each under the names key of the epoch it claims.
pub fn newest_place(
    copies: &[u8; 2 * PLACE_LEN],
    key: impl Fn(Epoch) -> Option<PlaceKey>,
    cover: &[u8],
) -> Option<(PlaceCopy, Place)> {
    let (copies, _) = copies.as_chunks::<PLACE_LEN>();
    let &[a, b] = copies else { return None };
    let places = [a, b].map(|copy| {
        let key = key(Place::claimed_epoch(&copy)?)?;
        Place::parse(&copy, &key, cover)
    });
    match newest(places, |place| place.seq)? {
        (Side::A, place) => Some((PlaceCopy::A, place)),
        (Side::B, place) => Some((PlaceCopy::B, place)),
    }
}

/// Whether something has one name, which binds it, or several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Links {
    /// One: it is bound to it.
    One,
    /// Several: it is bound to none of them.
    Several,
}

/// A place that something is to be bound to, with the key to say so.
pub struct PlaceSeal {
    key: PlaceKey,
    epoch: Epoch,
    bound: Bound,
}

impl PlaceSeal {
    /// Binds what has `own_id` to `lower_name` in `parent`, under the keys of `epoch`.
    pub fn new(
        (epoch, keys): (Epoch, &PlaceKeys),
        own_id: &[u8; 16],
        parent: &DirId,
        lower_name: &[u8],
        links: Links,
    ) -> Self {
        let bound = match links {
            Links::One => Bound::Here(keys.binding(own_id, parent, lower_name)),
            Links::Several => Bound::Linked,
        };
        Self {
            key: keys.of(own_id),
            epoch,
            bound,
        }
    }

    /// The epoch whose names key made it.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// What the record is to say.
    pub fn bound(&self) -> Bound {
        self.bound
    }

    /// The record that says so, to follow the one numbered `seq`.
    pub fn write(&self, seq: u64, cover: &[u8]) -> [u8; PLACE_LEN] {
        self.write_bound(seq, self.bound, cover)
    }

    /// A record that says something else under the same key.
    pub fn write_bound(&self, seq: u64, bound: Bound, cover: &[u8]) -> [u8; PLACE_LEN] {
        let place = Place {
            seq: seq + 1,
            names_epoch: self.epoch,
            bound,
        };
        place.write(&self.key, cover)
    }
}
