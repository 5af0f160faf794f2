use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::epoch::EpochKey;
use crate::manifest::tests::{token, volume, wrap};

/// The file that remembers one volume, for the format's description.
pub(crate) fn example(manifest: &Manifest, keys: &EpochKeys) -> String {
    text::write(&[Pin::new(
        manifest,
        keys.current(),
        Path::new("/srv/team folder"),
    )])
}

/// One volume through three states, as a machine may meet it.
struct History {
    /// Cards 1 and 2, epoch 1.
    made: (Manifest, EpochKeys),
    /// Card 3 came: epoch 1, generation 2.
    added: (Manifest, EpochKeys),
    /// Card 2 went: epoch 2, generation 3.
    removed: (Manifest, EpochKeys),
}

fn again(key: &EpochKey) -> EpochKey {
    EpochKey::new(&mut key.expose().clone()).unwrap()
}

fn unlocked(manifest: &Manifest, key: &EpochKey) -> (Manifest, EpochKeys) {
    (manifest.clone(), manifest.unwrap_chain(again(key)).unwrap())
}

fn history() -> History {
    let (mut manifest, first) = volume(vec![token(1), token(2)]);
    let made = unlocked(&manifest, &first);
    manifest.add_recipient(&first, token(3), wrap).unwrap();
    let added = unlocked(&manifest, &first);
    let second = manifest
        .remove_recipient(&first, token(2).key_id(), wrap)
        .unwrap();
    let removed = unlocked(&manifest, &second);
    History {
        made,
        added,
        removed,
    }
}

fn folder() -> &'static Path {
    Path::new("/srv/team")
}

fn pin((manifest, keys): &(Manifest, EpochKeys)) -> Pin {
    Pin::new(manifest, keys.current(), folder())
}

fn knowing(pins: impl IntoIterator<Item = Pin>) -> KnownVolumes {
    KnownVolumes {
        pins: pins.into_iter().collect(),
    }
}

/// What is said before and after unlocking.
fn verdicts(known: &KnownVolumes, (manifest, keys): &(Manifest, EpochKeys)) -> [Verdict; 2] {
    [
        known.before_unlock(folder(), manifest),
        known.after_unlock(folder(), manifest, keys),
    ]
}

fn short(byte: u8) -> ShortKeyId {
    token(byte).key_id().into()
}

fn added(byte: u8) -> Change {
    Change::Added {
        key_id: token(byte).key_id(),
        label: format!("card {byte}"),
    }
}

#[test]
fn each_state_of_a_volume_is_judged_by_each_that_was_seen() {
    let History {
        made,
        added: with_three,
        removed,
    } = &history();
    let (e1, e2) = (Epoch(1), Epoch(2));
    let rolled_back = |seen, found| Verdict::RolledBack { seen, found };
    let gone = Change::Removed(short(2));
    let epoch = Change::Epoch { from: e1, to: e2 };
    let table = [
        (made, made, Verdict::Same),
        (made, with_three, Verdict::Advanced(vec![added(3)])),
        (
            made,
            removed,
            Verdict::Advanced(vec![epoch.clone(), added(3), gone.clone()]),
        ),
        (with_three, made, rolled_back((e1, 2), (e1, 1))),
        (with_three, with_three, Verdict::Same),
        (with_three, removed, Verdict::Advanced(vec![epoch, gone])),
        (removed, made, rolled_back((e2, 3), (e1, 1))),
        (removed, with_three, rolled_back((e2, 3), (e1, 2))),
        (removed, removed, Verdict::Same),
    ];
    for (seen, now, expected) in table {
        let known = knowing([pin(seen)]);
        assert_eq!(verdicts(&known, now), [expected.clone(), expected]);
    }
}

#[test]
fn a_volume_never_seen_is_unknown() {
    let known = knowing([]);
    assert_eq!(
        verdicts(&known, &history().made),
        [Verdict::Unknown, Verdict::Unknown]
    );
}

#[test]
fn a_volume_seen_elsewhere_may_have_been_moved_here() {
    let made = history().made;
    let elsewhere = Pin {
        folder: Some("/media/backup".into()),
        ..pin(&made)
    };
    assert_eq!(
        verdicts(&knowing([elsewhere]), &made),
        [Verdict::Same, Verdict::Same]
    );
}

#[test]
fn another_volume_in_a_known_folder_is_refused_even_if_it_is_known_too() {
    let (ours, theirs) = (history().made, history().made);
    let refused = Verdict::OtherVolume {
        known: ours.0.volume(),
    };
    let refused = [refused.clone(), refused];
    assert_eq!(verdicts(&knowing([pin(&ours)]), &theirs), refused);
    let theirs_elsewhere = Pin {
        folder: Some("/srv/other".into()),
        ..pin(&theirs)
    };
    assert_eq!(
        verdicts(&knowing([pin(&ours), theirs_elsewhere]), &theirs),
        refused
    );
}

/// Anyone can make a manifest with your volume's id and a key of his own, wrapped to you.
#[test]
fn a_known_id_with_another_key_is_refused_once_the_key_is_there() {
    let History { made, removed, .. } = &history();
    let enemy = EpochKeys::new(Epoch(1), EpochKey::random().unwrap());
    let known = knowing([pin(made)]);
    assert_eq!(known.before_unlock(folder(), &made.0), Verdict::Same);
    assert_eq!(
        known.after_unlock(folder(), &made.0, &enemy),
        Verdict::OtherKey
    );

    // Nor does a later epoch help, unless its chain reaches the key that was seen.
    let mut enemy = EpochKeys::new(Epoch(2), EpochKey::random().unwrap());
    assert_eq!(
        known.after_unlock(folder(), &removed.0, &enemy),
        Verdict::OtherKey
    );
    enemy.insert(Epoch(1), EpochKey::random().unwrap());
    assert_eq!(
        known.after_unlock(folder(), &removed.0, &enemy),
        Verdict::OtherKey
    );
}

#[test]
fn the_machine_s_pin_counts_where_the_user_has_none_or_an_older_one() {
    let History { made, removed, .. } = &history();
    let machine = |state| Pin {
        recipients: Vec::new(),
        folder: None,
        ..pin(state)
    };
    let only_machine = knowing([machine(removed)]);
    assert_eq!(
        verdicts(&only_machine, removed),
        [Verdict::Same, Verdict::Same]
    );
    let older_own = knowing([pin(made), machine(removed)]);
    let seen = (Epoch(2), 3);
    let rolled_back = Verdict::RolledBack {
        seen,
        found: (Epoch(1), 1),
    };
    assert_eq!(
        verdicts(&older_own, made),
        [rolled_back.clone(), rolled_back]
    );
    let newer_own = knowing([pin(removed), machine(made)]);
    assert_eq!(
        verdicts(&newer_own, removed),
        [Verdict::Same, Verdict::Same]
    );
}

#[test]
fn without_known_recipients_it_is_the_numbers_that_are_told() {
    let History { made, added, .. } = &history();
    let known = knowing([Pin {
        recipients: Vec::new(),
        ..pin(made)
    }]);
    let changes = vec![Change::Generation { from: 1, to: 2 }];
    assert_eq!(
        known.after_unlock(folder(), &added.0, &added.1),
        Verdict::Advanced(changes)
    );
}

#[test]
fn changes_are_told_in_words() {
    let card_2 = short(2);
    let said = [
        Change::Epoch {
            from: Epoch(1),
            to: Epoch(2),
        },
        added(2),
        Change::Removed(card_2),
        Change::Generation { from: 1, to: 3 },
    ]
    .map(|change| change.to_string());
    let expected = [
        "a new epoch has begun: 1 → 2".to_owned(),
        format!("recipient added: card 2 ({card_2})"),
        format!("recipient removed: {card_2}"),
        "manifest changed: generation 1 → 3".to_owned(),
    ];
    assert_eq!(said, expected);
}

/// A user's state folder and the machine's.
struct Folders(TempDir);

impl Folders {
    fn new() -> Self {
        let folders = Self(tempfile::tempdir().unwrap());
        fs::create_dir(folders.system()).unwrap();
        folders
    }

    fn own(&self) -> PathBuf {
        self.0.path().join("state/claviger")
    }

    fn system(&self) -> PathBuf {
        self.0.path().join("etc")
    }

    fn load(&self) -> Result<KnownVolumes, PinError> {
        KnownVolumes::load(&self.own(), &self.system())
    }

    fn write_own(&self, text: &str) {
        fs::create_dir_all(self.own()).unwrap();
        fs::write(self.own().join(NAME), text).unwrap();
    }
}

#[test]
fn pins_read_back_as_they_were_remembered() {
    let folders = Folders::new();
    assert!(
        folders.load().unwrap().pins.is_empty(),
        "no file is no pins"
    );
    let (one, other) = (history(), history());
    let odd = PathBuf::from(std::ffi::OsStr::from_bytes(b"/srv/50% f\xfc\n#r"));
    let pins = [
        pin(&one.made),
        Pin {
            folder: Some(odd),
            ..pin(&other.removed)
        },
    ];
    for pin in pins.clone() {
        remember(&folders.own(), pin).unwrap();
    }
    assert_eq!(folders.load().unwrap().pins, pins);
}

#[test]
fn known_volumes_is_the_user_s_alone_and_leaves_nothing_beside_it() {
    let folders = Folders::new();
    remember(&folders.own(), pin(&history().made)).unwrap();
    let mode = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(folders.own()), 0o700);
    assert_eq!(mode(folders.own().join(NAME)), 0o600);
    assert_eq!(fs::read_dir(folders.own()).unwrap().count(), 1);
}

#[test]
fn a_pin_moves_up_and_never_down() {
    let folders = Folders::new();
    let History {
        made,
        added,
        removed,
    } = &history();
    for state in [made, removed] {
        remember(&folders.own(), pin(state)).unwrap();
    }
    for state in [made, added] {
        let volume = state.0.volume();
        let error = remember(&folders.own(), pin(state)).unwrap_err();
        assert!(matches!(error, PinError::Overtaken(id) if id == volume));
    }
    assert_eq!(folders.load().unwrap().pins, [pin(removed)]);
}

#[test]
fn a_folder_belongs_to_the_volume_that_was_last_made_in_it() {
    let folders = Folders::new();
    let (old, new) = (history().made, history().made);
    remember(&folders.own(), pin(&old)).unwrap();
    remember(&folders.own(), pin(&new)).unwrap();
    let known = folders.load().unwrap();
    assert_eq!(verdicts(&known, &new), [Verdict::Same, Verdict::Same]);
    let other = Verdict::OtherVolume {
        known: new.0.volume(),
    };
    assert_eq!(verdicts(&known, &old), [other.clone(), other]);
}

#[test]
fn the_machine_s_known_volumes_are_read_and_not_written() {
    let folders = Folders::new();
    let made = history().made;
    let line = text::write(&[pin(&made)]);
    fs::write(folders.system().join(NAME), &line).unwrap();
    assert_eq!(
        verdicts(&folders.load().unwrap(), &made),
        [Verdict::Same, Verdict::Same]
    );
    remember(&folders.own(), pin(&made)).unwrap();
    assert_eq!(
        fs::read_to_string(folders.system().join(NAME)).unwrap(),
        line
    );
    assert_eq!(
        verdicts(&folders.load().unwrap(), &made),
        [Verdict::Same, Verdict::Same]
    );
}

proptest! {
    #[test]
    fn whatever_is_read_as_known_volumes_gets_an_answer(bytes in any::<Vec<u8>>(), line in "\\PC*") {
        let path = Path::new("known_volumes");
        let _ = text::parse(path, &bytes);
        let _ = text::parse(path, line.as_bytes());
    }
}

#[test]
fn people_may_write_comments_and_blank_lines() {
    let folders = Folders::new();
    let line = text::write(&[pin(&history().made)]);
    folders.write_own(&format!("# mine\n\n  \n{line}\n\t# more\n"));
    assert_eq!(folders.load().unwrap().pins.len(), 1);
}

#[test]
fn a_damaged_line_is_an_error_that_names_it_and_forgets_nothing() {
    let folders = Folders::new();
    let (id, commitment) = ("0f".repeat(16), "0f".repeat(32));
    let cases = [
        (
            "0f 1 1 c r f".to_owned(),
            "volume id is not 32 hexadecimal digits",
        ),
        (format!("{id} one"), "epoch is not a number"),
        (format!("{id} 1 -1"), "generation is not a number"),
        (
            format!("{id} 1 1 0f"),
            "commitment is not 64 hexadecimal digits",
        ),
        (
            format!("{id} 1 1 {commitment} ab"),
            "a recipient is not 16 hexadecimal digits",
        ),
        (format!("{id} 1 1 {commitment} -"), "fewer than six fields"),
        (
            format!("{id} 1 1 {commitment} - srv"),
            "folder is not an absolute path",
        ),
        (
            format!("{id} 1 1 {commitment} - /%"),
            "folder has a percent sign without two digits",
        ),
        (
            format!("{id} 1 1 {commitment} - / x"),
            "more than six fields",
        ),
        (
            format!("{id} 1 1 {commitment} - -\n{id} 1 1 {commitment} - -"),
            "this volume has a line already",
        ),
    ];
    for (lines, expected) in cases {
        folders.write_own(&format!("# comment\n{lines}\n"));
        let path = folders.own().join(NAME);
        let line = if lines.contains('\n') { 3 } else { 2 };
        let expected = format!("{}, line {line}: {expected}", path.display());
        assert_eq!(folders.load().unwrap_err().to_string(), expected);
        let kept = fs::read_to_string(&path).unwrap();
        assert!(remember(&folders.own(), pin(&history().made)).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), kept);
    }
}
