use std::fs;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use proptest::prelude::*;
use tempfile::TempDir;

use super::moving::writable;
use super::*;
use crate::names::NameError;
use crate::names::tests::names_keys;
use crate::native::Synced;

const PARENT: DirId = DirId([0x33; 16]);
const HERE: Location<'static> = Location {
    parent: PARENT,
    lower_name: b"here",
};
const THERE: Location<'static> = Location {
    parent: PARENT,
    lower_name: b"there",
};
const OTHER_PARENT: Location<'static> = Location {
    parent: DirId([0x44; 16]),
    lower_name: b"here",
};

fn keys() -> NamesKeys {
    names_keys(Epoch(1), Epoch(1))
}

/// The record of directory 0x22…, named `lower_name` in the root, for the format's description.
pub(crate) fn example(lower_name: &[u8]) -> [u8; RECORD_LEN] {
    let (keys, id) = (keys(), DirId([0x22; 16]));
    let location = Location {
        parent: DirId::ROOT,
        lower_name,
    };
    let bound = bound_to(&keys, id, location).unwrap();
    let place = Place {
        seq: 1,
        names_epoch: Epoch(1),
        bound,
    };
    Record::new(id, place).write(&keys).unwrap()
}

/// A lower directory.
struct Lower(TempDir);

impl Lower {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn fd(&self) -> OwnedFd {
        File::open(self.0.path()).unwrap().into()
    }

    fn path(&self) -> PathBuf {
        self.0.path().join(RECORD)
    }

    fn bytes(&self) -> Vec<u8> {
        fs::read(self.path()).unwrap()
    }

    fn create(&self, location: Location<'_>) -> Record {
        Record::create(self.fd(), &keys(), location).unwrap()
    }

    fn open(&self, location: Location<'_>) -> Result<Record, DirError> {
        Record::open(self.fd(), &keys(), location)
    }

    /// The same as if the record held `bytes`.
    fn open_as(&self, bytes: &[u8], location: Location<'_>) -> Result<Record, DirError> {
        fs::write(self.path(), bytes).unwrap();
        self.open(location)
    }
}

#[test]
fn a_directory_opens_where_it_was_made_and_nowhere_else() {
    let lower = Lower::new();
    let made = lower.create(HERE);
    let opened = lower.open(HERE).unwrap();
    assert_eq!((opened.id(), opened.names_epoch()), (made.id(), Epoch(1)));
    assert!(!opened.is_moving());
    for elsewhere in [THERE, OTHER_PARENT, Location::ROOT] {
        assert!(matches!(lower.open(elsewhere), Err(DirError::Misplaced)));
    }
}

#[test]
fn the_root_has_id_zero_and_opens_as_the_root_only() {
    let lower = Lower::new();
    assert_eq!(lower.create(Location::ROOT).id(), DirId::ROOT);
    assert_eq!(lower.open(Location::ROOT).unwrap().id(), DirId::ROOT);
    assert!(matches!(lower.open(HERE), Err(DirError::Misplaced)));
}

#[test]
fn a_record_of_another_volume_is_not_authentic() {
    let lower = Lower::new();
    lower.create(HERE);
    let other_key = crate::secret::NamesKey::new(&mut [9; 32]);
    let others = NamesKeys::new(Epoch(1), Epoch(1), [(Epoch(1), other_key)]).unwrap();
    let opened = Record::open(lower.fd(), &others, HERE);
    assert!(matches!(opened, Err(DirError::NotAuthentic)));
}

#[test]
fn no_bit_of_a_record_can_be_changed() {
    let lower = Lower::new();
    let made = lower.create(HERE);
    let bytes = lower.bytes();
    assert_eq!(bytes.len(), RECORD_LEN);
    let unused_copy = 176..304;
    for at in 0..RECORD_LEN {
        for bit in 0..8 {
            let mut changed = bytes.clone();
            changed[at] ^= 1 << bit;
            match lower.open_as(&changed, HERE) {
                Err(_) => assert!(!unused_copy.contains(&at), "byte {at} bit {bit}"),
                // What is written into the unused copy counts for nothing.
                Ok(opened) => {
                    assert!(unused_copy.contains(&at), "byte {at} bit {bit}");
                    assert_eq!((opened.id, opened.place), (made.id, made.place));
                }
            }
        }
    }
}

#[test]
fn no_record_of_another_length_is_accepted() {
    let lower = Lower::new();
    lower.create(HERE);
    let bytes = lower.bytes();
    assert!(matches!(
        lower.open_as(&[], HERE),
        Err(DirError::NeverReachedDisk)
    ));
    for len in 1..RECORD_LEN {
        let opened = lower.open_as(&bytes[..len], HERE);
        assert!(matches!(opened, Err(DirError::NotAuthentic)), "{len} bytes");
    }
    let longer = [&bytes[..], b"\0"].concat();
    assert!(matches!(
        lower.open_as(&longer, HERE),
        Err(DirError::NotAuthentic)
    ));
}

proptest! {
    #[test]
    fn whatever_is_read_as_a_record_gets_an_answer(bytes in any::<Vec<u8>>()) {
        prop_assert!(Record::parse(&bytes, &keys()).is_err());
        let whole = [&MAGIC[..], &[0; 4], &Epoch(1).0.to_le_bytes(), &bytes, &[0; RECORD_LEN]];
        let whole = whole.concat();
        prop_assert!(Record::parse(&whole[..RECORD_LEN], &keys()).is_err());
    }
}

#[test]
fn a_directory_without_a_record_never_reached_the_disk() {
    let lower = Lower::new();
    assert!(matches!(lower.open(HERE), Err(DirError::NeverReachedDisk)));
    let zeros = [0; RECORD_LEN];
    assert!(matches!(
        lower.open_as(&zeros, HERE),
        Err(DirError::NeverReachedDisk)
    ));
}

#[test]
fn a_fifo_or_symlink_in_the_place_of_a_record_neither_blocks_nor_is_followed() {
    let lower = Lower::new();
    nix::unistd::mkfifo(&lower.path(), Mode::S_IRWXU).unwrap();
    assert!(lower.open(HERE).is_err());
    let elsewhere = Lower::new();
    elsewhere.create(HERE);
    fs::remove_file(lower.path()).unwrap();
    std::os::unix::fs::symlink(elsewhere.path(), lower.path()).unwrap();
    assert!(matches!(lower.open(HERE), Err(DirError::Io(_))));
}

#[test]
fn a_record_of_a_newer_version_is_named_so() {
    let lower = Lower::new();
    lower.create(HERE);
    let mut bytes = lower.bytes();
    bytes[8] = 1;
    assert!(matches!(
        lower.open_as(&bytes, HERE),
        Err(DirError::Version(1))
    ));
}

#[test]
fn a_directory_has_one_record() {
    let lower = Lower::new();
    lower.create(HERE);
    let again = Record::create(lower.fd(), &keys(), HERE);
    assert!(
        matches!(again, Err(DirError::Io(error)) if error.kind() == io::ErrorKind::AlreadyExists)
    );
}

#[test]
fn a_directory_of_an_epoch_that_is_over_is_refused() {
    let lower = Lower::new();
    lower.create(HERE);
    let opened = Record::open(lower.fd(), &names_keys(Epoch(2), Epoch(2)), HERE);
    let over = EpochRefused::BelowMinimum(Epoch(1), Epoch(2));
    assert!(matches!(opened, Err(DirError::Epoch(refused)) if refused == over));
}

#[test]
fn an_older_directory_keeps_its_names_but_moves_under_the_current_epoch() {
    let lower = Lower::new();
    lower.create(HERE);
    let keys = names_keys(Epoch(2), Epoch(1));
    let mut record = Record::open(lower.fd(), &keys, HERE).unwrap();
    record
        .finish_move(lower.fd(), &keys, THERE, Synced::Maybe)
        .unwrap();
    let record = Record::open(lower.fd(), &keys, THERE).unwrap();
    assert_eq!(
        (record.names_epoch(), record.place.names_epoch),
        (Epoch(1), Epoch(2))
    );
    let of_epoch_1 = keys.directory(Epoch(1), record.id()).unwrap();
    let names = record.names(&keys).unwrap();
    assert_eq!(names.encrypt(b"name"), of_epoch_1.encrypt(b"name"));
}

/// He knows the keys of all epochs before, and can invent one for the current.
#[test]
fn a_renewed_record_does_not_verify_under_the_keys_of_a_removed_recipient() {
    let lower = Lower::new();
    lower.create(Location::ROOT);
    let keys = names_keys(Epoch(2), Epoch(1));
    let old = crate::epoch::EpochKey::new(&mut [1; 32]).unwrap();
    let invented = [
        (Epoch(1), old.names_key(crate::names::tests::VOLUME)),
        (Epoch(2), crate::secret::NamesKey::random()),
    ];
    let invented = NamesKeys::new(Epoch(2), Epoch(1), invented).unwrap();
    assert!(Record::open(lower.fd(), &invented, Location::ROOT).is_ok());

    let mut record = Record::open(lower.fd(), &keys, Location::ROOT).unwrap();
    record.renew(lower.fd(), &keys, Location::ROOT).unwrap();
    let with_invented = Record::open(lower.fd(), &invented, Location::ROOT);
    assert!(matches!(with_invented, Err(DirError::NotAuthentic)));
    let renewed = Record::open(lower.fd(), &keys, Location::ROOT).unwrap();
    assert_eq!(
        (renewed.names_epoch(), renewed.other),
        (Epoch(1), Other::Empty)
    );
}

#[test]
fn a_directory_names_are_of_its_own_id() {
    let (one, other) = (Lower::new(), Lower::new());
    let [one, other] = [one.create(HERE), other.create(HERE)].map(|record| record.names(&keys()));
    let lower = one.unwrap().encrypt(b"name").unwrap();
    assert_eq!(
        other.unwrap().decrypt(lower.as_bytes()),
        Err(NameError::Foreign)
    );
}

#[test]
fn a_prepared_move_opens_at_both_places_and_a_finished_one_at_the_new() {
    let lower = Lower::new();
    let mut record = lower.create(HERE);
    record
        .prepare_move(lower.fd(), &keys(), (HERE, THERE), Synced::Maybe)
        .unwrap();
    for place in [HERE, THERE] {
        assert!(lower.open(place).unwrap().is_moving());
    }
    assert!(matches!(lower.open(OTHER_PARENT), Err(DirError::Misplaced)));

    let mut record = lower.open(THERE).unwrap();
    record
        .finish_move(lower.fd(), &keys(), THERE, Synced::Maybe)
        .unwrap();
    assert!(!lower.open(THERE).unwrap().is_moving());
    assert!(matches!(lower.open(HERE), Err(DirError::Misplaced)));
}

#[test]
fn a_rename_that_failed_leaves_the_directory_where_it_still_is() {
    let lower = Lower::new();
    let mut record = lower.create(HERE);
    record
        .prepare_move(lower.fd(), &keys(), (HERE, THERE), Synced::Maybe)
        .unwrap();
    record
        .finish_move(lower.fd(), &keys(), HERE, Synced::Maybe)
        .unwrap();
    assert!(!lower.open(HERE).unwrap().is_moving());
    assert!(matches!(lower.open(THERE), Err(DirError::Misplaced)));
}

#[test]
fn a_directory_that_was_never_synced_moves_without_a_barrier() {
    let lower = Lower::new();
    let mut record = lower.create(HERE);
    record
        .finish_move(lower.fd(), &keys(), THERE, Synced::Never)
        .unwrap();
    assert_eq!(record.durable, Durable::Unknown);
    assert!(!lower.open(THERE).unwrap().is_moving());
    assert!(matches!(lower.open(HERE), Err(DirError::Misplaced)));
}

#[test]
fn a_record_that_claims_several_links_is_no_directory_s() {
    let lower = Lower::new();
    let mut record = lower.create(HERE);
    let file = writable(lower.fd()).unwrap();
    record
        .write_next(&file, &keys(), Bound::Linked, Synced::Never)
        .unwrap();
    assert!(matches!(lower.open(HERE), Err(DirError::NotAuthentic)));
}

/// All that a disk may hold while `before` becomes `after` by a write that tears at any byte.
fn torn(before: &[u8], after: &[u8]) -> Vec<Vec<u8>> {
    let changed: Vec<_> = (0..before.len())
        .filter(|at| before[*at] != after[*at])
        .collect();
    let image = |count: usize| {
        let mut image = before.to_vec();
        for at in &changed[..count] {
            image[*at] = after[*at];
        }
        image
    };
    (0..=changed.len()).map(image).collect()
}

#[test]
fn at_no_moment_of_a_rename_does_a_crash_leave_a_directory_that_does_not_open_where_it_is() {
    let lower = Lower::new();
    let mut record = lower.create(HERE);
    record.sync(lower.fd()).unwrap();
    // The second time round, both copies are in use.
    for [from, to] in [[HERE, THERE], [THERE, OTHER_PARENT], [OTHER_PARENT, HERE]] {
        let before = lower.bytes();
        record
            .prepare_move(lower.fd(), &keys(), (from, to), Synced::Maybe)
            .unwrap();
        assert_eq!(
            record.durable,
            Durable::Yes,
            "what the rename needs is on disk"
        );
        let prepared = lower.bytes();
        record
            .finish_move(lower.fd(), &keys(), to, Synced::Maybe)
            .unwrap();
        let finished = lower.bytes();
        for image in torn(&before, &prepared) {
            lower.open_as(&image, from).unwrap();
        }
        for image in torn(&prepared, &finished) {
            lower.open_as(&image, to).unwrap();
        }
        lower.open_as(&finished, to).unwrap();
    }
}

/// The first rename's last write may still be in memory when the second one begins, and the copy that
/// the second one writes over is then the only one on disk.
#[test]
fn the_only_durable_copy_is_not_written_over() {
    let lower = Lower::new();
    let mut record = lower.create(HERE);
    record
        .prepare_move(lower.fd(), &keys(), (HERE, THERE), Synced::Maybe)
        .unwrap();
    record
        .finish_move(lower.fd(), &keys(), THERE, Synced::Maybe)
        .unwrap();
    assert_eq!(
        (record.durable, record.other),
        (Durable::Unknown, Other::InUse)
    );
    let mut read = lower.open(THERE).unwrap();
    for record in [&mut record, &mut read] {
        let file = File::open(lower.path()).unwrap();
        let refused = record.write_next(&file, &keys(), Bound::Linked, Synced::Maybe);
        assert!(refused.is_err(), "the file is open for reading only");
        assert_eq!(record.durable, Durable::Yes, "the barrier came first");
    }
}
