use proptest::prelude::*;

use super::*;
use crate::names::tests::names_keys;

const FILE: Owner = Owner::File(FileId([1; 16]));
const OTHER_FILE: Owner = Owner::File(FileId([2; 16]));
/// The same id as [`FILE`]'s.
const DIRECTORY: Owner = Owner::Directory(DirId([1; 16]));

fn two_epochs() -> NamesKeys {
    names_keys(Epoch(2), Epoch(1))
}

proptest! {
    #[test]
    fn an_attribute_reads_back_on_its_owner_and_on_no_other(
        name in proptest::collection::vec(1..=255_u8, 1..=NAME_MAX),
        value in proptest::collection::vec(any::<u8>(), 0..100),
    ) {
        let keys = two_epochs();
        let attributes = Attributes::new(&keys, FILE);
        let attribute = &attributes.candidates(&name).unwrap()[0];
        prop_assert!(attribute.lower.len() <= 255);
        let sealed = attributes.seal(attribute, &value).unwrap();
        prop_assert_eq!(value_len(sealed.len()), value.len());
        let found = attributes.parse(&attribute.lower).unwrap().unwrap();
        prop_assert_eq!(&found, attribute);
        prop_assert_eq!(attributes.open(&found, &sealed), Ok(value));
        for owner in [OTHER_FILE, DIRECTORY] {
            let others = Attributes::new(&keys, owner);
            prop_assert_eq!(others.parse(&attribute.lower), Err(AttributeError::Foreign));
            prop_assert_eq!(others.open(attribute, &sealed), Err(AttributeError::Foreign));
        }
    }

    #[test]
    fn no_changed_or_shortened_lower_name_parses(
        at in any::<prop::sample::Index>(),
        bit in 0..8_u8,
        cut in any::<prop::sample::Index>(),
    ) {
        let keys = two_epochs();
        let attributes = Attributes::new(&keys, FILE);
        let lower = attributes.candidates(b"user.tag").unwrap().remove(0).lower;
        let body = &lower[PREFIX.len()..];
        let shortened = [PREFIX.as_bytes(), &body[..cut.index(body.len())]].concat();
        prop_assert_eq!(attributes.parse(&shortened), Err(AttributeError::Foreign));
        let mut changed = lower.clone();
        changed[PREFIX.len() + at.index(body.len())] ^= 1 << bit;
        prop_assert!(attributes.parse(&changed).is_err());
    }
}

#[test]
fn a_value_does_not_open_as_that_of_another_attribute() {
    let keys = two_epochs();
    let attributes = Attributes::new(&keys, FILE);
    let one = &attributes.candidates(b"user.one").unwrap()[0];
    let two = &attributes.candidates(b"user.two").unwrap()[0];
    let sealed = attributes.seal(one, b"value").unwrap();
    assert_eq!(attributes.open(two, &sealed), Err(AttributeError::Foreign));
}

#[test]
fn an_attribute_of_an_older_epoch_is_found_until_that_epoch_is_over() {
    let keys = two_epochs();
    let attributes = Attributes::new(&keys, FILE);
    let [new, old] = attributes
        .candidates(b"user.tag")
        .unwrap()
        .try_into()
        .unwrap();
    assert!(new.lower.starts_with(b"user.claviger.2."));
    assert!(old.lower.starts_with(b"user.claviger.1."));
    let sealed = attributes.seal(&old, b"value").unwrap();
    assert_eq!(attributes.open(&old, &sealed), Ok(b"value".to_vec()));
    assert_eq!(attributes.open(&new, &sealed), Err(AttributeError::Foreign));

    let keys = names_keys(Epoch(2), Epoch(2));
    let attributes = Attributes::new(&keys, FILE);
    assert_eq!(attributes.candidates(b"user.tag").unwrap(), [new]);
    let over = AttributeError::Epoch(EpochRefused::BelowMinimum(Epoch(1), Epoch(2)));
    assert_eq!(attributes.parse(&old.lower), Err(over));
}

#[test]
fn attributes_that_are_not_claviger_s_are_told_apart() {
    let keys = two_epochs();
    let attributes = Attributes::new(&keys, FILE);
    assert_eq!(attributes.parse(b"user.mime_type"), Ok(None));
    assert_eq!(attributes.parse(b"security.capability"), Ok(None));
}

#[test]
fn names_and_values_have_the_limits_that_are_documented() {
    let keys = names_keys(Epoch(u32::MAX), Epoch(u32::MAX));
    let attributes = Attributes::new(&keys, FILE);
    let longest = &attributes.candidates(&[b'x'; NAME_MAX]).unwrap()[0];
    assert_eq!(longest.lower.len(), 255);
    assert_eq!(
        attributes.candidates(&[b'x'; NAME_MAX + 1]),
        Err(AttributeError::Name)
    );
    assert_eq!(attributes.candidates(b""), Err(AttributeError::Name));
    assert_eq!(
        attributes.candidates(b"user.a\0b"),
        Err(AttributeError::Name)
    );
    let value = vec![0; VALUE_MAX + 1];
    assert_eq!(attributes.seal(longest, &value[1..]).unwrap().len(), 65536);
    assert_eq!(
        attributes.seal(longest, &value),
        Err(AttributeError::ValueTooLong)
    );
}
