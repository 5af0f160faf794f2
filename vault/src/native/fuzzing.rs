//! Entry points for fuzzing what has no public parser of its own.
//!
//! Each takes any bytes, parses them as one record under a fixed key, and gives whether they were
//! one. None panics.

use aws_lc_rs::hmac;

use super::key_record::KeyRecord;
use super::octets::Octets;
use super::packet::SealedPackets;
use super::shape::Shapes;
use super::slot::Slot;

/// A key record, still sealed.
pub fn key_record(bytes: &[u8]) -> bool {
    Octets(bytes).array().and_then(KeyRecord::parse).is_some()
}

/// A copy of the recipients' packets, sealed.
pub fn sealed_packets(bytes: &[u8]) -> bool {
    Octets(bytes)
        .array()
        .and_then(SealedPackets::parse)
        .is_some()
}

/// Two copies of a shape, under an HMAC key of zeros.
pub fn shapes(bytes: &[u8]) -> bool {
    let key = hmac::Key::new(hmac::HMAC_SHA256, &[0; 32]);
    Octets(bytes)
        .array()
        .and_then(|copies| Shapes::parse(copies, &key))
        .is_some()
}

/// A slot: whether any half is in use.
pub fn slot(bytes: &[u8]) -> bool {
    let mut octets = Octets(bytes);
    let slot = octets
        .array()
        .zip(octets.array())
        .map(|(a, b)| Slot([*a, *b]));
    slot.is_some_and(|slot| slot.newest().is_some())
}
