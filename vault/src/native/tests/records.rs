//! Shapes, places and halves of slots: what a file rewrites.

use super::*;

#[test]
fn no_flipped_bit_of_a_shape_passes() {
    let key = hmac::Key::new(hmac::HMAC_SHA256, &[1; 32]);
    for settled in [Settled::Yes, Settled::No] {
        let shape = Shape {
            seq: 7,
            size: 1 << 20,
            solid: 200,
            settled,
        };
        let bytes = shape.write(&key);
        assert_eq!(Shape::parse(&bytes, &key), Some(shape));
        no_flipped_bit_passes(&bytes, |bytes| {
            Shape::parse(bytes.first_chunk().unwrap(), &key).is_some()
        });
    }
}

#[test]
fn a_shape_that_no_version_writes_is_refused_though_its_mac_is_right() {
    let key = hmac::Key::new(hmac::HMAC_SHA256, &[1; 32]);
    let shape = Shape {
        seq: 7,
        size: 4096,
        solid: 1,
        settled: Settled::Yes,
    };
    let too_large = Shape {
        size: MAX_SIZE + 1,
        ..shape
    };
    assert_eq!(Shape::parse(&too_large.write(&key), &key), None);
    let last_ever = Shape {
        seq: u64::MAX,
        ..shape
    };
    assert_eq!(Shape::parse(&last_ever.write(&key), &key), None);
    let too_solid = Shape { solid: 2, ..shape };
    assert_eq!(Shape::parse(&too_solid.write(&key), &key), None);
}

#[test]
fn the_newest_shape_that_verifies_counts() {
    let key = hmac::Key::new(hmac::HMAC_SHA256, &[1; 32]);
    let bytes = |seq| {
        Shape {
            seq,
            size: seq,
            solid: 0,
            settled: Settled::Yes,
        }
        .write(&key)
    };
    let newest = |a: [u8; 128], b: [u8; 128]| {
        let copies: [u8; 256] = [a, b].concat().try_into().unwrap();
        Shapes::parse(&copies, &key).map(|shapes| shapes.last().seq)
    };
    assert_eq!(newest(bytes(1), bytes(2)), Some(2));
    assert_eq!(newest(bytes(3), bytes(2)), Some(3));
    assert_eq!(newest(bytes(3), [0; 128]), Some(3));
    assert_eq!(newest([1; 128], bytes(2)), Some(2));
    assert_eq!(newest([1; 128], [0; 128]), None);
}

#[test]
fn no_flipped_bit_of_a_place_or_of_what_it_covers_passes() {
    let keys = PlaceKeys::new(NamesKey::new(&mut [5; 32]));
    let key = keys.of(&FILE.0);
    let moving = Bound::Moving {
        here: [1; 16],
        next: [2; 16],
    };
    for bound in [Bound::Here([1; 16]), moving, Bound::Linked] {
        let place = Place {
            seq: 7,
            names_epoch: Epoch(3),
            bound,
        };
        let bytes = place.write(&key, b"cover");
        assert_eq!(Place::parse(&bytes, &key, b"cover"), Some(place));
        assert_eq!(Place::parse(&bytes, &key, b"other"), None);
        assert_eq!(Place::parse(&bytes, &keys.of(&[9; 16]), b"cover"), None);
        no_flipped_bit_passes(&bytes, |bytes| {
            Place::parse(bytes.first_chunk().unwrap(), &key, b"cover").is_some()
        });
    }
}

#[test]
fn a_place_that_no_later_one_could_follow_is_refused_though_its_mac_is_right() {
    let key = PlaceKeys::new(NamesKey::new(&mut [1; 32])).of(&FILE.0);
    let place = |seq| Place {
        seq,
        names_epoch: Epoch(1),
        bound: Bound::Linked,
    };
    for (seq, is_possible) in [(u64::MAX - 1, true), (u64::MAX, false)] {
        let bytes = place(seq).write(&key, &[]);
        assert_eq!(Place::parse(&bytes, &key, &[]).is_some(), is_possible);
    }
}

#[test]
fn the_newest_place_that_verifies_counts_whatever_its_epoch() {
    let of = |epoch: Epoch| PlaceKeys::new(NamesKey::new(&mut [epoch.0 as u8; 32])).of(&FILE.0);
    let key = |epoch| (epoch != Epoch(9)).then(|| of(epoch));
    let bytes = |seq, epoch| {
        let bound = Bound::Here([seq as u8; 16]);
        let place = Place {
            seq,
            names_epoch: Epoch(epoch),
            bound,
        };
        place.write(&of(Epoch(epoch)), &[])
    };
    let newest = |a: [u8; 128], b: [u8; 128]| {
        let copies: [u8; 256] = [a, b].concat().try_into().unwrap();
        newest_place(&copies, key, &[]).map(|(copy, place)| (copy, place.seq))
    };
    assert_eq!(newest(bytes(1, 2), bytes(2, 1)), Some((PlaceCopy::B, 2)));
    assert_eq!(newest(bytes(3, 1), bytes(2, 1)), Some((PlaceCopy::A, 3)));
    assert_eq!(
        newest(bytes(3, 9), bytes(2, 1)),
        Some((PlaceCopy::B, 2)),
        "no key for epoch 9"
    );
    assert_eq!(newest([0; 128], [1; 128]), None);
}

#[test]
fn a_binding_tells_apart_file_directory_and_name() {
    let keys = |byte| PlaceKeys::new(NamesKey::new(&mut [byte; 32]));
    let all = [
        keys(5).binding(&[1; 16], &DirId([2; 16]), b"name"),
        keys(5).binding(&[2; 16], &DirId([2; 16]), b"name"),
        keys(5).binding(&[1; 16], &DirId([3; 16]), b"name"),
        keys(5).binding(&[1; 16], &DirId([2; 16]), b"eman"),
        keys(6).binding(&[1; 16], &DirId([2; 16]), b"name"),
    ];
    let distinct: std::collections::BTreeSet<_> = all.iter().collect();
    assert_eq!(distinct.len(), all.len());
}

#[test]
fn of_two_halves_the_newer_is_one_ahead_around_the_circle() {
    let half = |seq| Half {
        nonce: [1; 12],
        tag: [2; 16],
        length: 9,
        seq,
        fek: 0,
    };
    let newest = |a: u8, b: u8| {
        Slot([half(a).write(), half(b).write()])
            .newest()
            .map(|(side, _)| side)
    };
    assert_eq!(newest(1, 2), Some(Side::B));
    assert_eq!(newest(3, 2), Some(Side::A));
    assert_eq!(newest(255, 0), Some(Side::B));
    assert_eq!(newest(0, 255), Some(Side::A));
    assert_eq!(Slot::ZERO.newest(), None);
    assert_eq!(
        Slot([[0; 32], half(1).write()])
            .newest()
            .map(|(side, _)| side),
        Some(Side::B)
    );
}

#[test]
fn nonces_are_never_repeated() {
    let drawn: std::collections::BTreeSet<[u8; 12]> =
        (0..10_000).map(|_| Random::Kernel.array()).collect();
    assert_eq!(drawn.len(), 10_000);
}
