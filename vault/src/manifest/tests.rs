use std::convert::Infallible;

use proptest::prelude::*;

use super::*;
use crate::epoch::tests::seal_previous_with_nonce;
use crate::names::RESERVED;

const PASSPHRASE: Argon2id = Argon2id {
    salt: [0x5a; 16],
    memory_kib: 65536,
    passes: 3,
    lanes: 4,
};

pub(crate) fn token(byte: u8) -> Recipient {
    Recipient::new(
        RecipientKind::Token,
        &format!("card {byte}"),
        vec![byte; 91],
    )
}

/// Not a real wrap: says to whom, of which volume and epoch, and gives the key away.
pub(crate) fn wrap(recipient: &Recipient, to_wrap: ToWrap<'_>) -> Result<Wrap, Infallible> {
    let ToWrap { volume, epoch, key } = to_wrap;
    let context = [&volume.0[..], &epoch.0.to_le_bytes(), &recipient.key_id().0].concat();
    Ok(Wrap {
        algorithm: 102,
        body: [&context[..], key.expose()].concat(),
    })
}

pub(crate) fn volume(recipients: Vec<Recipient>) -> (Manifest, EpochKey) {
    Manifest::create(Scope::Volume, recipients, wrap).unwrap()
}

/// A volume in its second epoch with a recipient of each kind.
fn grown() -> (Manifest, EpochKey) {
    let (mut manifest, first) = volume(vec![token(1), token(2)]);
    let others = [
        Recipient::new(RecipientKind::File, "laptop \"key\" \u{2713}", vec![3; 120]),
        Recipient::new(
            RecipientKind::Passphrase(PASSPHRASE),
            "passphrase",
            vec![4; 91],
        ),
        Recipient::new(RecipientKind::Recovery, "recovery key", vec![5; 91]),
    ];
    for other in others {
        manifest.add_recipient(&first, other, wrap).unwrap();
    }
    let key = manifest
        .remove_recipient(&first, token(2).key_id(), wrap)
        .unwrap();
    manifest.raise_minimum(Epoch(2));
    (manifest, key)
}

/// A volume in its second epoch, for the format's description: keys, wraps and public keys are not
/// real ones.
pub(crate) fn example(keys: [&EpochKey; 2]) -> (Manifest, String) {
    let [first, second] = keys;
    let id = VolumeId([0x11; 16]);
    let enrolled = |recipient, byte| Enrolled {
        recipient,
        wrap: Wrap {
            algorithm: 102,
            body: vec![byte; 24],
        },
    };
    let card = Recipient::new(RecipientKind::Token, "card of Ada", vec![0x30; 24]);
    let passphrase = RecipientKind::Passphrase(PASSPHRASE);
    let passphrase = Recipient::new(passphrase, "passphrase", vec![0x31; 24]);
    let manifest = Manifest {
        volume: id,
        scope: Scope::Volume,
        epoch: Epoch(2),
        minimum: Epoch(1),
        generation: 4,
        recipients: vec![enrolled(card, 0x40), enrolled(passphrase, 0x41)],
        older: vec![seal_previous_with_nonce(second, 7, (id, Epoch(1)), first)],
    };
    let text = text_of(&manifest, second);
    (manifest, text)
}

fn text_of(manifest: &Manifest, key: &EpochKey) -> String {
    String::from_utf8(manifest.write(key)).unwrap()
}

#[test]
fn a_manifest_reads_back_as_it_was_written() {
    let (manifest, key) = grown();
    let read = Unverified::parse(&manifest.write(&key)).unwrap();
    assert_eq!(read.claims(), &manifest);
    assert_eq!(read.verify(&key).unwrap(), manifest);
}

#[test]
fn a_manifest_is_believed_under_its_own_epoch_s_key_only() {
    let (mut manifest, first) = volume(vec![token(1), token(2)]);
    let second = manifest
        .remove_recipient(&first, token(2).key_id(), wrap)
        .unwrap();
    let text = manifest.write(&second);
    let with_old_key = Unverified::parse(&text).unwrap().verify(&first);
    assert!(matches!(with_old_key, Err(ManifestError::NotAuthentic)));
}

#[test]
fn no_bit_of_a_manifest_can_be_changed() {
    let (manifest, key) = grown();
    let text = manifest.write(&key);
    for at in 0..text.len() {
        for bit in 0..8 {
            let mut changed = text.clone();
            changed[at] ^= 1 << bit;
            let verified = Unverified::parse(&changed).and_then(|read| read.verify(&key));
            assert!(verified.is_err(), "byte {at} bit {bit}");
        }
    }
}

proptest! {
    #[test]
    fn whatever_is_read_as_a_manifest_gets_an_answer(
        bytes in any::<Vec<u8>>(),
        lines in proptest::collection::vec((any::<prop::sample::Index>(), "[ -~]{0,20}"), 1..4),
    ) {
        let _ = Unverified::parse(&bytes);
        // Most of the parser is behind well-formed lines.
        let (manifest, key) = grown();
        let text = text_of(&manifest, &key);
        let mut changed: Vec<_> = text.lines().collect();
        for (at, line) in &lines {
            let at = at.index(changed.len());
            changed[at] = line;
        }
        let read = Unverified::parse(changed.join("\n").as_bytes());
        prop_assert!(read.and_then(|read| read.verify(&key)).is_err());
    }
}

#[test]
fn no_shortened_or_lengthened_manifest_parses() {
    let (manifest, key) = grown();
    let text = manifest.write(&key);
    for len in 0..text.len() {
        assert!(Unverified::parse(&text[..len]).is_err(), "{len} bytes");
    }
    for more in ["\n", " ", "# a comment\n", "[recipient]\n"] {
        let longer = [&text[..], more.as_bytes()].concat();
        assert!(Unverified::parse(&longer).is_err(), "with {more:?}");
    }
}

#[test]
fn a_recipient_added_by_hand_is_noticed() {
    let (manifest, key) = volume(vec![token(1)]);
    let text = text_of(&manifest, &key);
    let (enemy, _) = volume(vec![token(66)]);
    let enemy = text_of(&enemy, &key);
    let table = &enemy[enemy.find("[[recipient]]").unwrap()..enemy.find("[auth").unwrap()];
    let forged = text.replace("[authentication]", &format!("{table}[authentication]"));
    let read = Unverified::parse(forged.as_bytes()).unwrap();
    assert_eq!(read.claims().recipients().len(), 2);
    assert_eq!(
        read.verify(&key).unwrap_err().to_string(),
        "manifest is not authentic: changed without the volume's key"
    );
}

#[test]
fn every_field_is_authenticated() {
    let (manifest, key) = grown();
    let text = text_of(&manifest, &key);
    let volume_id = manifest.volume().to_string();
    let enemy_id = "00".repeat(16);
    let changes = [
        ("# Manifest", "#  Manifest"),
        (&volume_id, enemy_id.as_str()),
        ("scope = \"volume\"", "scope = \"file\""),
        ("minimum-epoch = 2", "minimum-epoch = 1"),
        ("generation = 6", "generation = 7"),
        ("kind = \"recovery\"", "kind = \"token\""),
        ("label = \"card 1\"", "label = \"card 2\""),
        ("memory-kib = 65536", "memory-kib = 8"),
        ("passes = 3", "passes = 1"),
        ("lanes = 4", "lanes = 1"),
        ("salt = \"5a", "salt = \"5b"),
        ("epoch = 2\nminimum", "epoch = 2 \nminimum"),
    ];
    for (from, to) in changes {
        assert_eq!(text.matches(from).count(), 1, "{from:?} in {text}");
        let changed = text.replace(from, to);
        let verified = Unverified::parse(changed.as_bytes()).unwrap().verify(&key);
        assert!(
            matches!(verified, Err(ManifestError::NotAuthentic)),
            "{from:?} → {to:?}"
        );
    }
    let [wraps, algorithms] =
        ["wrap = \"", "wrap-algorithm = 10"].map(|key| text.matches(key).count());
    assert_eq!((wraps, algorithms), (4, 4));
    for (from, to) in [
        ("wrap = \"", "wrap = \"AAAA"),
        ("wrap-algorithm = 10", "wrap-algorithm = 20"),
    ] {
        let changed = text.replacen(from, to, 1);
        let verified = Unverified::parse(changed.as_bytes()).unwrap().verify(&key);
        assert!(
            matches!(verified, Err(ManifestError::NotAuthentic)),
            "{from:?}"
        );
    }
}

/// What parsing says of `text` after `from` was replaced by `to`, and the line that was in.
fn refusal(text: &str, from: &str, to: &str) -> (usize, String) {
    assert_eq!(text.matches(from).count(), 1, "{from:?} in {text}");
    let (before, _) = text.split_once(from).unwrap();
    let error = Unverified::parse(text.replace(from, to).as_bytes()).unwrap_err();
    (1 + before.matches('\n').count(), error.to_string())
}

#[test]
fn what_is_wrong_with_a_manifest_is_said_with_its_line() {
    let (manifest, key) = grown();
    let text = &text_of(&manifest, &key);
    let cases = [
        (
            "generation = 6",
            "generation = 0",
            "generations count from 1",
        ),
        ("suite = 1", "cipher = 1", "unknown key `cipher`"),
        ("passes = 3", "rounds = 3", "unknown key `rounds`"),
        (
            "hmac-sha256 = ",
            "hmac-sha512 = ",
            "unknown key `hmac-sha512`",
        ),
        (
            "scope = \"volume\"",
            "scope = \"all\"",
            "unknown variant `all`, expected `volume` or `file`",
        ),
        (
            "minimum-epoch = 2",
            "minimum-epoch = 3",
            "minimum epoch is not between 1 and the current epoch",
        ),
        ("epoch = 2\nmin", "epoch = 0\nmin", "epochs count from 1"),
        (
            "epoch = 2\nmin",
            "epoch = 3\nmin",
            "the key of an older epoch is missing",
        ),
        (
            "epoch = 1\nsealed",
            "epoch = 2\nsealed",
            "older epochs do not count from 1 up to the current epoch",
        ),
        (
            "kind = \"recovery\"",
            "kind = \"passphrase\"",
            "argon2id parameters belong to passphrases, and only to them",
        ),
        (
            "label = \"card 1\"",
            "label = \"\\u001b[2J\"",
            "label is too long or has control characters",
        ),
    ];
    for (from, to, expected) in cases {
        let (line, said) = refusal(text, from, to);
        assert_eq!(
            said,
            format!("manifest line {line}: {expected}"),
            "{from:?} → {to:?}"
        );
    }
}

#[test]
fn an_unknown_cipher_suite_is_named() {
    let (manifest, key) = grown();
    let (_, said) = refusal(&text_of(&manifest, &key), "suite = 1", "suite = 2");
    assert_eq!(
        said,
        "manifest has cipher suite 2, which this program does not know"
    );
}

#[test]
fn a_key_id_that_is_not_the_key_s_is_refused() {
    let (manifest, key) = volume(vec![token(1)]);
    let (ours, theirs) = (token(1).key_id().to_string(), token(2).key_id().to_string());
    let (line, said) = refusal(&text_of(&manifest, &key), &ours, &theirs);
    assert_eq!(
        said,
        format!("manifest line {line}: key id is not that of the public key")
    );
}

#[test]
fn a_recipient_listed_twice_is_refused() {
    let (manifest, key) = volume(vec![token(1)]);
    let text = text_of(&manifest, &key);
    let table = &text[text.find("[[recipient]]").unwrap()..text.find("[auth").unwrap()];
    let twice = text.replace(table, &table.repeat(2));
    let error = Unverified::parse(twice.as_bytes()).unwrap_err();
    assert!(
        error.to_string().ends_with("recipient is listed twice"),
        "{error}"
    );
}

#[test]
fn a_manifest_of_a_newer_format_is_named_so_whatever_else_it_holds() {
    let newer = b"format = 7\nsomething-new = true\n";
    let error = Unverified::parse(newer).unwrap_err();
    assert!(matches!(error, ManifestError::NewerFormat(7)), "{error}");
}

#[test]
fn a_manifest_without_its_last_line_is_cut_short() {
    let (manifest, key) = volume(vec![token(1)]);
    let text = text_of(&manifest, &key);
    let mac_line = text.rfind("hmac-sha256").unwrap();
    for cut in [mac_line, text.len() - 1] {
        let error = Unverified::parse(&text.as_bytes()[..cut]).unwrap_err();
        assert!(matches!(error, ManifestError::CutShort), "{error}");
    }
}

#[test]
fn what_is_wrong_is_told_without_what_would_steer_a_terminal() {
    let (manifest, key) = volume(vec![token(1)]);
    let text = text_of(&manifest, &key);
    for (from, to) in [
        ("format = 0", "format = 0\n\"\\u001b]0;x\\u0007\" = 1"),
        ("kind = \"token\"", "kind = \"\\u001b[2J\""),
    ] {
        assert!(text.contains(from));
        let error = Unverified::parse(text.replacen(from, to, 1).as_bytes()).unwrap_err();
        let said = error.to_string();
        assert!(!said.contains(char::is_control), "{said:?}");
    }
}

#[test]
fn a_label_keeps_nothing_that_confuses_a_terminal() {
    let label = format!("YubiKey\u{1b}[31m\n{}", "ü".repeat(200));
    let recipient = Recipient::new(RecipientKind::Token, &label, vec![1]);
    assert!(recipient.label().starts_with("YubiKey[31mü"));
    assert_eq!(recipient.label().chars().count(), Recipient::LABEL_MAX);
}

#[test]
fn each_change_raises_the_generation_by_one() {
    let (mut manifest, key) = volume(vec![token(1)]);
    assert_eq!((manifest.epoch(), manifest.generation()), (Epoch(1), 1));
    manifest.add_recipient(&key, token(2), wrap).unwrap();
    assert_eq!((manifest.epoch(), manifest.generation()), (Epoch(1), 2));
    manifest
        .remove_recipient(&key, token(1).key_id(), wrap)
        .unwrap();
    assert_eq!((manifest.epoch(), manifest.generation()), (Epoch(2), 3));
    manifest.raise_minimum(Epoch(2));
    assert_eq!((manifest.minimum(), manifest.generation()), (Epoch(2), 4));
    for no_change in [Epoch(1), Epoch(2), Epoch(3)] {
        manifest.raise_minimum(no_change);
        assert_eq!((manifest.minimum(), manifest.generation()), (Epoch(2), 4));
    }
}

#[test]
fn removing_a_recipient_wraps_a_fresh_key_to_each_of_the_others() {
    let (mut manifest, first) = volume(vec![token(1), token(2), token(3)]);
    let second = manifest
        .remove_recipient(&first, token(2).key_id(), wrap)
        .unwrap();
    assert_ne!(second.expose(), first.expose());
    let to_wrap = ToWrap {
        volume: manifest.volume(),
        epoch: Epoch(2),
        key: &second,
    };
    let expected = [token(1), token(3)].map(|recipient| {
        let wrap = wrap(&recipient, to_wrap).unwrap();
        Enrolled { recipient, wrap }
    });
    assert_eq!(manifest.recipients(), expected);
}

#[test]
fn the_current_key_opens_all_older_ones_and_no_older_one_a_newer() {
    let (mut manifest, first) = volume((1..=5).map(token).collect());
    let mut exposed = vec![*first.expose()];
    let mut current = first;
    for removed in 1..=3 {
        current = manifest
            .remove_recipient(&current, token(removed).key_id(), wrap)
            .unwrap();
        exposed.push(*current.expose());
    }
    let keys = manifest.unwrap_chain(current).unwrap();
    assert_eq!(keys.current_epoch(), Epoch(4));
    for (expected, epoch) in exposed.iter().zip(1..) {
        assert_eq!(keys.of(Epoch(epoch)).unwrap().expose(), expected);
    }
    assert!(keys.of(Epoch(5)).is_none());
    let third = EpochKey::new(&mut exposed[2].clone()).unwrap();
    assert!(matches!(
        manifest.unwrap_chain(third),
        Err(ManifestError::Chain(Epoch(3)))
    ));
}

#[test]
fn a_change_that_cannot_be_made_changes_nothing() {
    let (mut manifest, key) = volume(vec![token(1), token(2)]);
    let before = manifest.clone();
    let failing = |_: &Recipient, _: ToWrap<'_>| Err(std::io::Error::other("no"));

    let twice = manifest.add_recipient(&key, token(1), wrap);
    assert!(matches!(twice, Err(ChangeError::AlreadyRecipient(id)) if id == token(1).key_id()));
    let unknown = manifest.remove_recipient(&key, token(3).key_id(), wrap);
    assert!(matches!(unknown, Err(ChangeError::NotRecipient(id)) if id == token(3).key_id()));
    let added = manifest.add_recipient(&key, token(3), failing);
    assert!(matches!(added, Err(ChangeError::Wrap(_))));
    let removed = manifest.remove_recipient(&key, token(1).key_id(), failing);
    assert!(matches!(removed, Err(ChangeError::Wrap(_))));
    assert_eq!(manifest, before);
}

#[test]
fn a_volume_keeps_at_least_one_recipient_and_none_twice() {
    let none = Manifest::create(Scope::File, Vec::new(), wrap);
    assert!(matches!(none, Err(ChangeError::LastRecipient)));
    let twice = Manifest::create(Scope::File, vec![token(1), token(1)], wrap);
    assert!(matches!(twice, Err(ChangeError::AlreadyRecipient(_))));
    let (mut manifest, key) = volume(vec![token(1)]);
    let last = manifest.remove_recipient(&key, token(1).key_id(), wrap);
    assert!(matches!(last, Err(ChangeError::LastRecipient)));
}

mod store;
