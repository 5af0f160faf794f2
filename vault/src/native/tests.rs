//! Heads and records: each reads back as it was written, and no other bytes pass for it.

use aws_lc_rs::hmac;
use proptest::prelude::*;

use super::aead::Random;
use super::head::{self, Layer, NewFek, Opened};
use super::octets::Side;
use super::place::{Bound, Place, PlaceCopy, PlaceKeys, newest_place};
use super::shape::{Settled, Shape, Shapes};
use super::slot::{Half, Slot};
use super::*;
use crate::epoch::EpochKey;
use crate::ids::{DirId, Epoch, FileId, VolumeId};
use crate::secret::{FileKey, NamesKey};

const VOLUME: VolumeId = VolumeId([1; 16]);
const FILE: FileId = FileId([2; 16]);

/// Calls `accepts` with each of `record`'s bits flipped, one at a time.
fn no_flipped_bit_passes(record: &[u8], mut accepts: impl FnMut(&[u8]) -> bool) {
    assert!(accepts(record), "the record itself is refused");
    let mut changed = record.to_vec();
    for bit in 0..record.len() * 8 {
        changed[bit / 8] ^= 1 << (bit % 8);
        assert!(!accepts(&changed), "bit {bit} makes no difference");
        changed[bit / 8] ^= 1 << (bit % 8);
    }
}

fn epoch_key(byte: u8) -> EpochKey {
    EpochKey::new(&mut [byte; 32]).unwrap()
}

fn packets() -> Vec<Packet> {
    vec![
        Packet {
            key_sig: [1; 8],
            algorithm: 101,
            body: vec![7; 121],
        },
        Packet {
            key_sig: [2; 8],
            algorithm: 110,
            body: vec![8; 570],
        },
    ]
}

fn volume_head(key: &EpochKey) -> (Vec<u8>, [u8; 32]) {
    let (head, fek) = head::fresh(VOLUME, FILE, (Epoch(3), key), &Layer::Volume).unwrap();
    (head, *fek.expose())
}

fn file_head(key: &EpochKey, file_key: &FileKey) -> (Vec<u8>, [u8; 32]) {
    let layer = Layer::File {
        file_key,
        packets: &packets(),
    };
    let (head, fek) = head::fresh(VOLUME, FILE, (Epoch(3), key), &layer).unwrap();
    (head, *fek.expose())
}

/// Opens a head with the key of one epoch.
fn open(head: &[u8], epoch: Epoch, key: &EpochKey) -> Result<Opened, HeadError> {
    head::open(head, VOLUME, |wanted| (wanted == epoch).then_some(key))
}

fn feks(opened: Result<Opened, HeadError>, file_key: Option<&FileKey>) -> Result<Feks, HeadError> {
    match (opened?, file_key) {
        (Opened::Feks(feks, _), None) => Ok(feks),
        (Opened::FileScope(sealed), Some(file_key)) => sealed.open(file_key),
        _ => panic!("another scope"),
    }
}

fn exposed(feks: &Feks) -> Vec<[u8; 32]> {
    feks.iter().map(|fek| *fek.expose()).collect()
}

#[test]
fn a_head_of_volume_scope_gives_its_fek_to_the_epoch_key_alone() {
    let key = epoch_key(9);
    let (head, fek) = volume_head(&key);
    assert_eq!(head.len(), HEAD_LEN);
    assert_eq!(
        exposed(&feks(open(&head, Epoch(3), &key), None).unwrap()),
        [fek]
    );
    let refused = |opened| feks(opened, None).unwrap_err();
    assert_eq!(
        refused(open(&head, Epoch(3), &epoch_key(8))),
        HeadError::Integrity(Part::KeyRecord)
    );
    assert_eq!(
        refused(open(&head, Epoch(4), &key)),
        HeadError::NoEpochKey(Epoch(3))
    );
    let elsewhere = head::open(&head, VolumeId([9; 16]), |_| Some(&key));
    assert_eq!(refused(elsewhere), HeadError::WrongVolume(VOLUME));
}

#[test]
fn a_head_of_file_scope_needs_the_file_key_as_well() {
    let key = epoch_key(9);
    let file_key = FileKey::random();
    let (head, fek) = file_head(&key, &file_key);
    assert_eq!(head.len(), HEAD_LEN + PAGE);
    let Ok(Opened::FileScope(sealed)) = open(&head, Epoch(3), &key) else {
        panic!("not of file scope")
    };
    assert_eq!(sealed.packets, packets());
    assert_eq!((sealed.file, sealed.epoch), (FILE, Epoch(3)));
    assert_eq!(exposed(&sealed.open(&file_key).unwrap()), [fek]);
    assert_eq!(
        sealed.open(&FileKey::random()).unwrap_err(),
        HeadError::Integrity(Part::KeyRecord)
    );
}

#[test]
fn no_flipped_bit_of_a_head_passes() {
    let key = epoch_key(9);
    let (head, _) = volume_head(&key);
    // Bits of the other flags are for later versions, which authenticates them all the same. In the
    // copy that is zero, anything may stand: it does not open, and the other counts.
    let (copy_b, zeros) = (64 + 192, 448);
    let mut checked = head.clone();
    let accepts = |bytes: &[u8]| {
        let bytes = [&bytes[..copy_b], &[0; 192], &bytes[copy_b..]].concat();
        feks(open(&bytes, Epoch(3), &key), None).is_ok()
    };
    checked.drain(copy_b..zeros);
    no_flipped_bit_passes(&checked, accepts);
}

#[test]
fn no_flipped_bit_of_the_packets_passes() {
    let key = epoch_key(9);
    let file_key = FileKey::random();
    let (head, _) = file_head(&key, &file_key);
    let (page_0, page_1) = head.split_at(HEAD_LEN);
    let (copy_a, copy_b) = page_1.split_at(2048);
    assert!(copy_b.iter().all(|&byte| byte == 0));
    no_flipped_bit_passes(copy_a, |copy_a| {
        let head = [page_0, copy_a, copy_b].concat();
        feks(open(&head, Epoch(3), &key), Some(&file_key)).is_ok()
    });
}

#[test]
fn no_part_of_a_head_and_nothing_longer_passes() {
    let key = epoch_key(9);
    let file_key = FileKey::random();
    for head in [volume_head(&key).0, file_head(&key, &file_key).0] {
        for len in 0..head.len() {
            assert!(
                open(&head[..len], Epoch(3), &key).is_err(),
                "{len} bytes pass"
            );
        }
        assert!(open(&[head.as_slice(), &[0]].concat(), Epoch(3), &key).is_err());
    }
}

#[test]
fn a_head_fits_no_other_file() {
    let key = epoch_key(9);
    let (head, _) = volume_head(&key);
    let (other, _) =
        head::fresh(VOLUME, FileId([7; 16]), (Epoch(3), &key), &Layer::Volume).unwrap();
    let moved = [&other[..64], &head[64..]].concat();
    assert!(open(&moved, Epoch(3), &key).is_err());
}

#[test]
fn a_head_sealed_anew_opens_under_the_new_epoch_only_and_keeps_its_feks() {
    let (old, new) = (epoch_key(9), epoch_key(10));
    let file_key = FileKey::random();
    let at = |epoch: Epoch| match epoch.0 {
        3 => Some(&old),
        4 => Some(&new),
        _ => None,
    };
    for (head, fek, file_key) in [
        {
            let (head, fek) = volume_head(&old);
            (head, fek, None)
        },
        {
            let (head, fek) = file_head(&old, &file_key);
            (head, fek, Some(&file_key))
        },
    ] {
        let again = head::rewrap(&head, VOLUME, at, (Epoch(4), &new), NewFek::Keep).unwrap();
        assert_eq!(
            exposed(&feks(open(&again, Epoch(4), &new), file_key).unwrap()),
            [fek]
        );
        assert_eq!(
            feks(open(&again, Epoch(3), &old), file_key).unwrap_err(),
            HeadError::NoEpochKey(Epoch(4))
        );
        // Between the two steps of replacing it, both records are there: the newer counts.
        let both: Vec<u8> = head
            .iter()
            .zip(&again)
            .map(|(old, new)| old | new)
            .collect();
        match head::open(&both, VOLUME, at).unwrap() {
            Opened::Feks(_, epoch) => assert_eq!(epoch, Epoch(4)),
            Opened::FileScope(sealed) => assert_eq!(sealed.epoch, Epoch(4)),
        }
    }
}

#[test]
fn a_head_takes_up_to_four_feks() {
    let key = epoch_key(9);
    let (mut head, first) = volume_head(&key);
    for count in [2, 3, 4, 4] {
        let at = |_| Some(&key);
        head = head::rewrap(&head, VOLUME, at, (Epoch(3), &key), NewFek::Add).unwrap();
        let feks = feks(open(&head, Epoch(3), &key), None).unwrap();
        assert_eq!((feks.count(), feks.newest()), (count, count - 1));
        assert_eq!(exposed(&feks)[0], first);
    }
}

#[test]
fn a_header_has_room_for_2012_bytes_of_packets() {
    let key = epoch_key(9);
    let file_key = FileKey::random();
    let fresh = |body| {
        let packets = [Packet {
            key_sig: [1; 8],
            algorithm: 100,
            body: vec![1; body],
        }];
        let layer = Layer::File {
            file_key: &file_key,
            packets: &packets,
        };
        head::fresh(VOLUME, FILE, (Epoch(3), &key), &layer)
    };
    assert!(fresh(MAX_PACKETS_LEN - 13).is_ok());
    assert_eq!(
        fresh(MAX_PACKETS_LEN - 12).unwrap_err(),
        PacketError::TooLong(2013)
    );
}

#[test]
fn what_this_version_does_not_know_is_refused_by_its_name() {
    let fixed = FixedPart::new(VOLUME, FILE, Scope::Volume).write();
    let with = |at: usize, byte: u8| {
        let mut changed = fixed;
        changed[at] = byte;
        FixedPart::parse(&changed).unwrap_err()
    };
    assert_eq!(with(0, 0), Unsupported::Magic);
    assert_eq!(with(8, 1), Unsupported::Version(1));
    assert_eq!(with(10, 2), Unsupported::Suite(2));
    assert_eq!(with(12, 0), Unsupported::Layout);
    assert_eq!(
        with(12, 2),
        Unsupported::Layout,
        "file scope has two header pages"
    );
    assert_eq!(with(13, 2), Unsupported::Layout);
    assert_eq!(with(14, 13), Unsupported::Layout);
    assert_eq!(with(15, 5), Unsupported::Layout);
    assert_eq!(with(16, 1), Unsupported::CriticalFlags(1));
    assert_eq!(with(24, 1), Unsupported::Layout);
    let mut flagged = fixed;
    flagged[20] = 0x80;
    assert_eq!(
        FixedPart::parse(&flagged).unwrap().write(),
        flagged,
        "other flags are kept"
    );
}

#[test]
fn a_packet_is_refused_unless_it_is_tag_1_of_version_3_in_its_shortest_form() {
    let packet = packets().remove(0);
    let bytes = packet.write().unwrap();
    let with = |at: usize, byte: u8| {
        let mut changed = bytes.clone();
        changed[at] = byte;
        Packet::parse(&changed).unwrap_err()
    };
    assert_eq!(with(0, 0x84), PacketError::Tag(0x84), "old-format header");
    assert_eq!(with(0, 0xC3), PacketError::Tag(0xC3));
    assert_eq!(with(1, 255), PacketError::Length, "five octets");
    assert_eq!(with(1, 224), PacketError::Length, "partial");
    assert_eq!(with(2, 2), PacketError::Version(2));
    assert_eq!(with(11, 99), PacketError::Algorithm(99));
    assert_eq!(with(1, 132), PacketError::Truncated);
    let outside = Packet {
        algorithm: 111,
        ..packet
    };
    assert_eq!(outside.write().unwrap_err(), PacketError::Algorithm(111));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_make_a_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..5000)) {
        let key = epoch_key(9);
        let _ = open(&bytes, Epoch(3), &key);
        let mut headed = volume_head(&key).0;
        headed.truncate(64);
        headed.extend(&bytes);
        prop_assert!(open(&headed, Epoch(3), &key).is_err());
        let _ = Packet::parse(&bytes);
        let _ = fuzzing::key_record(&bytes);
        let _ = fuzzing::sealed_packets(&bytes);
        let _ = fuzzing::shapes(&bytes);
        let _ = fuzzing::slot(&bytes);
        if let Some(fixed) = bytes.first_chunk() {
            let _ = FixedPart::parse(fixed);
        }
        if let Some(place) = bytes.first_chunk() {
            let _ = Place::claimed_epoch(place);
        }
    }

    #[test]
    fn a_packet_reads_back_and_no_part_of_it_does(
        key_sig: [u8; 8],
        algorithm in 100..=110_u8,
        body in proptest::collection::vec(any::<u8>(), 0..600),
        after in proptest::collection::vec(any::<u8>(), 0..10),
    ) {
        let packet = Packet { key_sig, algorithm, body };
        let mut bytes = packet.write().unwrap();
        for len in 0..bytes.len() {
            prop_assert!(Packet::parse(&bytes[..len]).is_err());
        }
        bytes.extend(&after);
        prop_assert_eq!(Packet::parse(&bytes), Ok((packet, after.as_slice())));
    }
}

mod records;
