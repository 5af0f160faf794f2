//! What comes of every attack: one row a class of octets, one column what the enemy does to them.

use crate::seen::Effect;
use Cell::{Harmless, Impossible, Listed, Mended, Refused, Zeros};
use Class as C;

/// A class of octets that the format has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The first 64 octets of a file.
    Fixed,
    /// The key record that counts.
    KeyRecord,
    /// File scope: the copy of the recipients' packets that counts.
    Packets,
    /// The newest shape of a file at rest.
    Shape,
    /// The newest shape of a file that has grown since it was last synced.
    ShapeOfGrowth,
    /// Both shapes.
    Shapes,
    /// The place record that counts, of a file that was renamed.
    Place,
    /// Both place records.
    Places,
    /// The half of a slot that names its block, or a hole.
    Half,
    /// The same, of a block written since the last sync.
    HalfUnsynced,
    /// The same, of a block behind a gap of more than 16 MiB.
    HalfBehindGap,
    /// Both halves of a slot.
    Slot,
    /// A block's ciphertext.
    Block,
    /// The same, written since the last sync.
    BlockUnsynced,
    /// A block and its slot together.
    Version,
    /// All of a directory's record but the place that does not count.
    Directory,
    /// What a long name's sidecar holds.
    Sidecar,
    /// A lower name.
    Name,
    /// A lower name of a file with several links.
    NameOfLinked,
    /// A lower name of a symlink.
    NameOfSymlink,
    /// A symlink's lower target.
    Symlink,
    /// An extended attribute's lower name.
    AttributeName,
    /// Its lower value.
    AttributeValue,
    /// The manifest, without its backup.
    Manifest,
    /// The manifest and its backup alike.
    Manifests,
    /// The same, on a machine that never saw this volume.
    ManifestsUnseen,
    /// A lower file, whole.
    File,
    /// A lower directory and all below it.
    Folder,
    /// The lower folder, whole.
    Volume,
    /// The same, on a machine that never saw this volume.
    VolumeUnseen,
}

/// What the enemy does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutation {
    /// One bit of each octet, one octet at a time.
    Flip,
    Zero,
    /// The lower file ends where the octets begin, or amid them; of names, directories: removed.
    Truncate,
    /// A second time, over what is beside them.
    Duplicate,
    SwapWithin,
    /// With those of another file in the same directory.
    SwapFiles,
    SwapDirectories,
    SwapVolumes,
    /// As they were before.
    Older,
}

impl Mutation {
    pub const ALL: [Self; 9] = [
        Self::Flip,
        Self::Zero,
        Self::Truncate,
        Self::Duplicate,
        Self::SwapWithin,
        Self::SwapFiles,
        Self::SwapDirectories,
        Self::SwapVolumes,
        Self::Older,
    ];
}

/// What comes of it.
#[derive(Clone, Copy, Debug)]
pub enum Cell {
    /// An error, and everything else as it was written.
    Refused,
    /// Everything as it was written, because.
    Harmless(&'static str),
    /// An error, or everything as it was written, because.
    Mended(&'static str),
    /// Zeros, as this sentence of the threat model says.
    Zeros(&'static str),
    /// Not covered: this effect, as this sentence of the threat model says.
    Listed(Effect, &'static str),
    /// There is no such attack, because.
    Impossible(&'static str),
}

/// The outcomes for one class, in the order of [`Mutation::ALL`].
pub type Row = (Class, [Cell; 9]);

const PUT_BACK: Cell = Listed(
    Effect::Earlier,
    "Any single block, record, name or file put back to an earlier state of itself.",
);
const REMOVED: Cell = Listed(Effect::Gone, "Deletion of anything.");
const NO_ALARM: Cell =
    Zeros("Zeroing of blocks past a file's first large gap, or written since the last sync.");
const LINKED: Cell = Listed(
    Effect::Exchanged,
    "The names under which a file with several hard links appears: such a file is bound to no place.",
);
const SYMLINKS: Cell = Listed(
    Effect::Exchanged,
    "Symbolic links of one directory put in each other's place: a target is bound to its directory, \
     not to its name.",
);
const STRANGER: Cell = Listed(
    Effect::Never,
    "A machine that has never seen a volume cannot tell it from another one made for your key: \
     the prompt says that it is unknown, before the PIN.",
);
const UNSEEN: Cell = Listed(
    Effect::Earlier,
    "A machine that has never seen a revocation accepts the state before it.",
);

const OTHER_COPY: Cell = Harmless("the other copy counts, and comes to the same");
const TWICE: Cell = Harmless("both copies then say the same");
const ORDER: Cell = Harmless("a record says which is newer, not where it lies");
const NEVER_CHANGES: Cell = Harmless("it never changed");
const BACKUP: Cell = Mended("what a disk could have done to it is mended from the backup");
const OLD_KEYS: Cell =
    Mended("the FEKs in it are still the file's; blocks of a later FEK are refused");
const NO_NUL: Cell = Impossible("no lower name or target holds a NUL");
const ONE: Cell = Impossible("there is one, and nothing in it to exchange it with");
const ONE_COPY: Cell = Impossible("the two change places in the row above");
const ROWS_ABOVE: Cell = Impossible("its octets have rows of their own");
const OUTSIDE: Cell = Impossible("a volume has one, and it is in no directory of the volume");

/// Every class and every mutation.
#[rustfmt::skip]
pub const TABLE: &[Row] = &[
    //                   flip          zero          truncate      duplicate     within        files         directories   volumes       older
    (C::Fixed,          [Refused,      Refused,      Refused,      Refused,      ONE,          Refused,      Refused,      Refused,      NEVER_CHANGES]),
    (C::KeyRecord,      [Refused,      Refused,      Refused,      TWICE,        ORDER,        Refused,      Refused,      Refused,      OLD_KEYS]),
    (C::Packets,        [Refused,      Refused,      Refused,      TWICE,        ORDER,        Refused,      Refused,      Refused,      OLD_KEYS]),
    (C::Shape,          [OTHER_COPY,   OTHER_COPY,   Refused,      TWICE,        ORDER,        OTHER_COPY,   OTHER_COPY,   OTHER_COPY,   PUT_BACK]),
    (C::ShapeOfGrowth,  [PUT_BACK,     PUT_BACK,     Refused,      TWICE,        ORDER,        PUT_BACK,     PUT_BACK,     PUT_BACK,     PUT_BACK]),
    (C::Shapes,         [Refused,      Refused,      Refused,      Refused,      ONE_COPY,       Refused,      Refused,      Refused,      PUT_BACK]),
    (C::Place,          [OTHER_COPY,   OTHER_COPY,   Refused,      TWICE,        ORDER,        Refused,      Refused,      OTHER_COPY,   Refused]),
    (C::Places,         [Refused,      Refused,      Refused,      Refused,      ONE_COPY,       Refused,      Refused,      Refused,      Refused]),
    (C::Half,           [Refused,      Refused,      Refused,      TWICE,        ORDER,        Refused,      Refused,      Refused,      Refused]),
    (C::HalfUnsynced,   [NO_ALARM,     NO_ALARM,     Refused,      TWICE,        ORDER,        NO_ALARM,     NO_ALARM,     NO_ALARM,     NO_ALARM]),
    (C::HalfBehindGap,  [Refused,      NO_ALARM,     NO_ALARM,     TWICE,        ORDER,        Refused,      Refused,      Refused,      NEVER_CHANGES]),
    (C::Slot,           [Refused,      Refused,      Refused,      Refused,      Refused,      Refused,      Refused,      Refused,      Refused]),
    (C::Block,          [Refused,      Refused,      Refused,      Refused,      Refused,      Refused,      Refused,      Refused,      PUT_BACK]),
    (C::BlockUnsynced,  [NO_ALARM,     NO_ALARM,     NO_ALARM,     NO_ALARM,     NO_ALARM,     NO_ALARM,     NO_ALARM,     NO_ALARM,     NO_ALARM]),
    (C::Version,        [Refused,      Refused,      Refused,      Refused,      Refused,      Refused,      Refused,      Refused,      PUT_BACK]),
    (C::Directory,      [Refused,      Refused,      Refused,      Refused,      ORDER,        Refused,      Refused,      Refused,      Refused]),
    (C::Sidecar,        [Refused,      Refused,      Refused,      Refused,      ONE,          Refused,      Refused,      Refused,      NEVER_CHANGES]),
    (C::Name,           [REMOVED,      NO_NUL,       REMOVED,      Refused,      REMOVED,      Refused,      Refused,      Refused,      REMOVED]),
    (C::NameOfLinked,   [REMOVED,      NO_NUL,       REMOVED,      LINKED,       REMOVED,      LINKED,       LINKED,       Refused,      NEVER_CHANGES]),
    (C::NameOfSymlink,  [REMOVED,      NO_NUL,       REMOVED,      SYMLINKS,     REMOVED,      SYMLINKS,     Refused,      Refused,      NEVER_CHANGES]),
    (C::Symlink,        [Refused,      Refused,      Refused,      SYMLINKS,     Refused,      SYMLINKS,     Refused,      Refused,      PUT_BACK]),
    (C::AttributeName,  [REMOVED,      NO_NUL,       REMOVED,      Refused,      Refused,      REMOVED,      REMOVED,      REMOVED,      NEVER_CHANGES]),
    (C::AttributeValue, [Refused,      Refused,      Refused,      Refused,      Refused,      Refused,      Refused,      Refused,      PUT_BACK]),
    (C::Manifest,       [BACKUP,       BACKUP,       BACKUP,       BACKUP,       Refused,      TWICE,        OUTSIDE,      Refused,      Refused]),
    (C::Manifests,      [Refused,      Refused,      Refused,      Refused,      Refused,      TWICE,        Refused,      Refused,      Refused]),
    (C::ManifestsUnseen,[Refused,      Refused,      Refused,      Refused,      Refused,      TWICE,        Refused,      Refused,      Refused]),
    (C::File,           [ROWS_ABOVE,   Refused,      Refused,      Refused,      ROWS_ABOVE,   Refused,      Refused,      Refused,      PUT_BACK]),
    (C::Folder,         [ROWS_ABOVE,   ROWS_ABOVE,   REMOVED,      Refused,      ROWS_ABOVE,   Refused,      Refused,      Refused,      PUT_BACK]),
    (C::Volume,         [ROWS_ABOVE,   ROWS_ABOVE,   Refused,      OUTSIDE,      ROWS_ABOVE,   OUTSIDE,      OUTSIDE,      Refused,      Refused]),
    (C::VolumeUnseen,   [ROWS_ABOVE,   ROWS_ABOVE,   Refused,      OUTSIDE,      ROWS_ABOVE,   OUTSIDE,      OUTSIDE,      STRANGER, UNSEEN]),
];
