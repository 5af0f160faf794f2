use std::fs;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use tempfile::TempDir;

use super::*;
use crate::names::NameError;
use crate::names::tests::names_keys;

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
    let bound = here(&keys, id, location).unwrap();
    let place = Place {
        seq: 1,
        names_epoch: Epoch(1),
        bound,
    };
    let record = Record {
        id,
        names_epoch: Epoch(1),
        copy: PlaceCopy::A,
        place,
    };
    record.write(&keys).unwrap()
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
    record.settle(lower.fd(), &keys, THERE).unwrap();
    let record = Record::open(lower.fd(), &keys, THERE).unwrap();
    assert_eq!(
        (record.names_epoch(), record.place.names_epoch),
        (Epoch(1), Epoch(2))
    );
    let of_epoch_1 = keys.directory(Epoch(1), record.id()).unwrap();
    let names = record.names(&keys).unwrap();
    assert_eq!(names.encrypt(b"name"), of_epoch_1.encrypt(b"name"));
    // Whoever has only the old key cannot say where it belongs.
    assert!(matches!(lower.open(THERE), Err(DirError::NotAuthentic)));
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
fn an_announced_rename_opens_at_both_places_and_a_settled_one_at_the_new() {
    let lower = Lower::new();
    let mut record = lower.create(HERE);
    record.announce(lower.fd(), &keys(), HERE, THERE).unwrap();
    for place in [HERE, THERE] {
        assert!(lower.open(place).unwrap().is_moving());
    }
    assert!(matches!(lower.open(OTHER_PARENT), Err(DirError::Misplaced)));

    let mut record = lower.open(THERE).unwrap();
    record.settle(lower.fd(), &keys(), THERE).unwrap();
    assert!(!lower.open(THERE).unwrap().is_moving());
    assert!(matches!(lower.open(HERE), Err(DirError::Misplaced)));
    assert!(
        is_zero(&lower.bytes()[176..304]),
        "the announcement is gone"
    );
}

#[test]
fn a_rename_that_failed_settles_where_the_directory_still_is() {
    let lower = Lower::new();
    let mut record = lower.create(HERE);
    record.announce(lower.fd(), &keys(), HERE, THERE).unwrap();
    record.settle(lower.fd(), &keys(), HERE).unwrap();
    assert!(!lower.open(HERE).unwrap().is_moving());
    assert!(matches!(lower.open(THERE), Err(DirError::Misplaced)));
}

#[test]
fn a_directory_that_was_never_synced_is_rebound_in_one_step() {
    let lower = Lower::new();
    let mut record = lower.create(HERE);
    record.rebind_unsynced(lower.fd(), &keys(), THERE).unwrap();
    assert!(!lower.open(THERE).unwrap().is_moving());
    assert!(matches!(lower.open(HERE), Err(DirError::Misplaced)));
}

/// All that a disk may hold while `before` becomes `after` by writes that tear at any byte.
fn images(before: &[u8], after: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    let changed: Vec<_> = (0..before.len())
        .filter(|at| before[*at] != after[*at])
        .collect();
    let cut = move |count: usize| {
        let mut image = before.to_vec();
        for at in &changed[..count] {
            image[*at] = after[*at];
        }
        image
    };
    (0..=before
        .iter()
        .zip(after)
        .filter(|(one, other)| one != other)
        .count())
        .map(cut)
}

#[test]
fn at_no_moment_of_a_rename_does_a_crash_leave_a_directory_that_does_not_open_where_it_is() {
    let lower = Lower::new();
    let mut record = lower.create(HERE);
    let made = lower.bytes();
    record.announce(lower.fd(), &keys(), HERE, THERE).unwrap();
    let announced = lower.bytes();
    record.settle(lower.fd(), &keys(), THERE).unwrap();
    let settled = lower.bytes();
    // The announcement was copy B, so settling wrote copy A and then wiped B.
    let before_wipe = [&settled[..176], &announced[176..]].concat();

    for image in images(&made, &announced) {
        lower.open_as(&image, HERE).unwrap();
    }
    for image in images(&announced, &before_wipe).chain(images(&before_wipe, &settled)) {
        lower.open_as(&image, THERE).unwrap();
    }
}
