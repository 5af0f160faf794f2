use proptest::prelude::*;

use super::*;
use crate::epoch::EpochKey;
use crate::ids::VolumeId;
use crate::secret::NamesKey;

pub(crate) const VOLUME: VolumeId = VolumeId([0x11; 16]);
const HERE: DirId = DirId([0x22; 16]);

/// The names keys of every second test: epoch n's key is n, 32 times.
pub(crate) fn names_keys(current: Epoch, minimum: Epoch) -> NamesKeys {
    let key = |epoch: Epoch| {
        EpochKey::new(&mut [epoch.0 as u8; 32])
            .unwrap()
            .names_key(VOLUME)
    };
    let epochs = (minimum.0..=current.0).map(Epoch);
    NamesKeys::new(current, minimum, epochs.map(|epoch| (epoch, key(epoch)))).unwrap()
}

pub(crate) fn names_of(dir: DirId) -> DirNames {
    names_keys(Epoch(1), Epoch(1))
        .directory(Epoch(1), dir)
        .unwrap()
}

fn upper_name() -> impl Strategy<Value = Vec<u8>> {
    let byte = any::<u8>().prop_filter("not in names", |byte| !matches!(byte, 0 | b'/'));
    proptest::collection::vec(byte, 1..=NAME_MAX)
        .prop_filter("not names", |name| name != b"." && name != b"..")
}

/// Decrypts a lower name as a reader of the directory does.
fn read_back(names: &DirNames, lower: &LowerName) -> Result<Vec<u8>, NameError> {
    match lower {
        LowerName::Short(name) => names.decrypt(name),
        LowerName::Long { name, content, .. } => names.decrypt_long(name.as_bytes(), content),
    }
}

proptest! {
    #[test]
    fn every_name_reads_back_in_its_directory_and_nowhere_else(name in upper_name()) {
        let names = names_of(HERE);
        let lower = names.encrypt(&name).unwrap();
        prop_assert_eq!(&names.encrypt(&name).unwrap(), &lower);
        prop_assert_eq!(read_back(&names, &lower), Ok(name.clone()));
        let elsewhere = names_of(DirId([0x23; 16]));
        prop_assert_eq!(read_back(&elsewhere, &lower), Err(NameError::Foreign));
        prop_assert_ne!(&elsewhere.encrypt(&name).unwrap(), &lower);
        let keys = names_keys(Epoch(2), Epoch(1));
        let later = keys.directory(Epoch(2), HERE).unwrap();
        prop_assert_eq!(read_back(&later, &lower), Err(NameError::Foreign));
    }

    #[test]
    fn a_lower_name_is_told_by_its_form(name in upper_name()) {
        match names_of(HERE).encrypt(&name).unwrap() {
            LowerName::Short(lower) => {
                prop_assert!(name.len() <= SHORT_MAX && lower.len() <= NAME_MAX);
                prop_assert_eq!(classify(&lower), Lower::Entry);
            }
            LowerName::Long { name: lower, sidecar, .. } => {
                prop_assert!(name.len() > SHORT_MAX);
                prop_assert_eq!(classify(lower.as_bytes()), Lower::Long);
                prop_assert_eq!(classify(sidecar.as_bytes()), Lower::Sidecar);
                prop_assert_eq!(sidecar_of(lower.as_bytes()), Some(sidecar));
            }
        }
    }

    #[test]
    fn no_bit_of_a_lower_name_can_be_changed(
        name in upper_name(),
        at in any::<prop::sample::Index>(),
        bit in 0..8_u8,
    ) {
        let names = names_of(HERE);
        let flip = |bytes: &[u8]| {
            let mut flipped = bytes.to_vec();
            flipped[at.index(bytes.len())] ^= 1 << bit;
            flipped
        };
        match names.encrypt(&name).unwrap() {
            LowerName::Short(lower) => {
                prop_assert_eq!(names.decrypt(&flip(&lower)), Err(NameError::Foreign));
            }
            LowerName::Long { name: lower, content, .. } => {
                let lower = lower.as_bytes();
                prop_assert_eq!(
                    names.decrypt_long(&flip(lower), &content),
                    Err(NameError::Foreign)
                );
                prop_assert_eq!(
                    names.decrypt_long(lower, &flip(&content)),
                    Err(NameError::Foreign)
                );
            }
        }
    }

    #[test]
    fn whatever_is_read_from_a_directory_gets_an_answer(lower in any::<Vec<u8>>()) {
        let names = names_of(HERE);
        prop_assert_eq!(names.decrypt(&lower), Err(NameError::Foreign));
        prop_assert_eq!(names.decrypt_long(&lower, &lower), Err(NameError::Foreign));
        classify(&lower);
    }
}

#[test]
fn no_shortened_lower_name_is_accepted() {
    let names = names_of(HERE);
    for len in [1, 15, 16, 17, SHORT_MAX] {
        let LowerName::Short(lower) = names.encrypt(&vec![b'x'; len]).unwrap() else {
            panic!("{len} bytes are short")
        };
        for cut in 0..lower.len() {
            assert_eq!(names.decrypt(&lower[..cut]), Err(NameError::Foreign));
        }
    }
    let long = names.encrypt(&[b'x'; SHORT_MAX + 1]).unwrap();
    let LowerName::Long {
        name: lower,
        content,
        ..
    } = long
    else {
        panic!("is long")
    };
    for cut in 0..content.len() {
        assert!(
            names
                .decrypt_long(lower.as_bytes(), &content[..cut])
                .is_err()
        );
    }
    for cut in 0..lower.len() {
        assert!(
            names
                .decrypt_long(&lower.as_bytes()[..cut], &content)
                .is_err()
        );
    }
}

#[test]
fn lower_names_are_long_from_176_bytes_on_and_always_fit() {
    let names = names_of(HERE);
    let lower_len = |len| names.encrypt(&vec![b'x'; len]).unwrap().as_bytes().len();
    assert_eq!(lower_len(1), 23);
    assert_eq!(lower_len(175), 255);
    assert_eq!(lower_len(176), 48);
    assert_eq!(lower_len(255), 48);
}

#[test]
fn what_cannot_be_a_name_is_refused() {
    let names = names_of(HERE);
    for name in [&b""[..], b".", b"..", b"a/b", b"a\0b", b"/", b"\0"] {
        assert_eq!(names.encrypt(name), Err(NameError::Invalid), "{name:?}");
    }
    assert_eq!(names.encrypt(&[b'x'; 256]), Err(NameError::TooLong));
    assert!(names.encrypt(b"...").is_ok());
}

/// A recipient could make such lower names; a filesystem must not pass them up.
#[test]
fn a_genuine_lower_name_of_what_cannot_be_a_name_is_refused() {
    let names = names_of(HERE);
    for name in [&b""[..], b".", b"..", b"../x", b"a\0b"] {
        let mut sealed = vec![0; SIV_LEN + name.len()];
        names.keys.file_names.seal(&HERE.0, name, &mut sealed);
        let lower = BASE64URL_NOPAD.encode(&sealed);
        assert_eq!(
            names.decrypt(lower.as_bytes()),
            Err(NameError::Foreign),
            "{name:?}"
        );
    }
}

#[test]
fn a_name_that_fits_has_no_long_lower_name() {
    let names = names_of(HERE);
    let mut sealed = [0; SIV_LEN + 4];
    names.keys.file_names.seal(&HERE.0, b"name", &mut sealed);
    let hash = BASE64URL_NOPAD.encode(digest(&SHA256, &sealed).as_ref());
    let lower = format!("{hash}.long");
    assert_eq!(
        names.decrypt_long(lower.as_bytes(), &sealed),
        Err(NameError::Foreign)
    );
}

#[test]
fn two_long_names_cannot_exchange_their_sidecars() {
    let names = names_of(HERE);
    let long = |byte| match names.encrypt(&[byte; 200]).unwrap() {
        LowerName::Long { name, content, .. } => (name, content),
        LowerName::Short(_) => panic!("is long"),
    };
    let ((one, of_one), (_, of_other)) = (long(b'x'), long(b'y'));
    assert!(names.decrypt_long(one.as_bytes(), &of_one).is_ok());
    assert_eq!(
        names.decrypt_long(one.as_bytes(), &of_other),
        Err(NameError::Foreign)
    );
}

#[test]
fn everything_in_a_lower_directory_is_classified() {
    let hash = "A".repeat(43);
    let cases = [
        (".", Lower::Dot),
        ("..", Lower::Dot),
        (".claviger", Lower::Reserved),
        (".claviger.dir", Lower::Record),
        ("lost+found", Lower::Foreign),
        (".Trash-1000", Lower::Foreign),
        ("short", Lower::Foreign),
        ("with.a.dot.but.long.enough.to.be.one", Lower::Foreign),
        ("-_AZaz09-_AZaz09-_AZaz0", Lower::Entry),
        ("-_AZaz09-_AZaz09-_AZaz+", Lower::Foreign),
        (&format!("{hash}.long"), Lower::Long),
        (&format!("{hash}.name"), Lower::Sidecar),
        (&format!("{hash}A.long"), Lower::Foreign),
        (&format!("{hash}.lon"), Lower::Foreign),
    ];
    for (name, expected) in cases {
        assert_eq!(classify(name.as_bytes()), expected, "{name}");
    }
    assert_eq!(classify(b""), Lower::Foreign);
    assert_eq!(classify(&[b'A'; 256]), Lower::Foreign);
}

#[test]
fn keys_below_the_minimum_are_not_kept_and_their_directories_refused() {
    let key = |byte| NamesKey::new(&mut [byte; 32]);
    let given = [(Epoch(1), key(1)), (Epoch(2), key(2))];
    let keys = NamesKeys::new(Epoch(2), Epoch(2), given).unwrap();
    let refused = EpochRefused::BelowMinimum(Epoch(1), Epoch(2));
    assert_eq!(keys.directory(Epoch(1), HERE).err(), Some(refused));
    assert_eq!(
        keys.names_key(Epoch(3)).err(),
        Some(EpochRefused::NoKey(Epoch(3)))
    );
    assert!(keys.directory(Epoch(2), HERE).is_ok());
    let without_current = NamesKeys::new(Epoch(2), Epoch(1), [(Epoch(1), key(1))]);
    assert_eq!(without_current.err(), Some(EpochRefused::NoKey(Epoch(2))));
}

/// Made with another implementation of HKDF and AES-256-SIV (OpenSSL 3's).
#[test]
fn names_are_encrypted_as_other_implementations_would() {
    let names = names_of(HERE);
    assert_eq!(
        names.encrypt(b"letter.txt").unwrap().as_os_str(),
        "fTQhN3ffxZyadj1oCkc5896t2G5iku7u22o"
    );
    assert_eq!(
        names.encrypt(&[b'n'; 200]).unwrap().as_os_str(),
        "iLW4Uauw4WUbQqYQD-fFtCyveX03S1ITTRZbPRap6Gs.long"
    );
}
