//! File scope: the file key wrapped to each recipient, as Tag 1 packets in header page 1.

use aws_lc_rs::aead::LessSafeKey;
use zeroize::Zeroizing;

use super::aead::{self, NONCE_LEN, Random, TAG_LEN};
use super::fixed::FIXED_LEN;
use super::octets::{Octets, is_zero, join};
use crate::epoch::EpochKey;
use crate::ids::{Epoch, FileId};
use crate::kdf::derive;

/// Length in bytes of one of the two copies in header page 1.
pub(super) const PACKETS_LEN: usize = 2048;
/// Room for packets in a file.
pub const MAX_PACKETS_LEN: usize = PACKETS_LEN - 8 - NONCE_LEN - TAG_LEN;

/// New-format packet header of tag 1 (RFC 2440, section 4.2).
const TAG_1: u8 = 0xC0 | 1;
/// RFC 2440, section 5.1.
const PACKET_VERSION: u8 = 3;
/// RFC 2440, section 9.1: for private and experimental algorithms.
const PRIVATE_ALGORITHMS: core::ops::RangeInclusive<u8> = 100..=110;
/// Version, key sig and algorithm.
const PACKET_HEAD_LEN: usize = 10;

/// A Tag 1 packet: the file key, wrapped to one public key.
///
/// ```text
/// tag 1 B (0xC1) | length 1-2 B | version 1 B (3) | key sig 8 B | algorithm 1 B (100-110) | body
/// ```
///
/// Lengths are bytes; a two-octet length is big-endian as RFC 2440 section 4.2.2 has it, and used
/// only where one octet does not do. What the body holds is the algorithm's business.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// First 8 bytes of the recipient's key id: identifies, signs nothing.
    pub key_sig: [u8; 8],
    /// How the body wraps the file key: 100 to 110.
    pub algorithm: u8,
    /// Encapsulation and sealed file key.
    pub body: Vec<u8>,
}

/// A packet is not one that this version writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PacketError {
    /// Ends before its length says.
    #[error("packet is cut short")]
    Truncated,
    /// Another tag, or an old-format header.
    #[error("packet header {0:#04x} is not that of a Tag 1 packet")]
    Tag(u8),
    /// A length of five octets, a partial length, or more octets than needed.
    #[error("packet length is not in its shortest form")]
    Length,
    /// Another version than 3.
    #[error("packet version {0} is not known")]
    Version(u8),
    /// An algorithm outside of 100 to 110.
    #[error("packet algorithm {0} is not a private one")]
    Algorithm(u8),
    /// All packets of a file have 2012 bytes together.
    #[error("packets of {0} bytes do not fit a header")]
    TooLong(usize),
}

impl Packet {
    /// Parses one packet and returns it with the bytes that follow it.
    ///
    /// # Errors
    /// [`PacketError`]; no input panics, and no length is trusted beyond `input`.
    pub fn parse(input: &[u8]) -> Result<(Self, &[u8]), PacketError> {
        let (&tag, rest) = input.split_first().ok_or(PacketError::Truncated)?;
        if tag != TAG_1 {
            return Err(PacketError::Tag(tag));
        }
        let (len, rest) = body_len(rest)?;
        let (packet, rest) = rest.split_at_checked(len).ok_or(PacketError::Truncated)?;
        let (head, body) = packet
            .split_first_chunk::<PACKET_HEAD_LEN>()
            .ok_or(PacketError::Truncated)?;
        let &[version, ref key_sig @ .., algorithm] = head;
        if version != PACKET_VERSION {
            return Err(PacketError::Version(version));
        }
        if !PRIVATE_ALGORITHMS.contains(&algorithm) {
            return Err(PacketError::Algorithm(algorithm));
        }
        Ok((
            Self {
                key_sig: *key_sig,
                algorithm,
                body: body.to_vec(),
            },
            rest,
        ))
    }

    /// The bytes that [`Packet::parse`] reads.
    ///
    /// # Errors
    /// [`PacketError::Algorithm`] or [`PacketError::TooLong`] if no header could hold it.
    pub fn write(&self) -> Result<Vec<u8>, PacketError> {
        if !PRIVATE_ALGORITHMS.contains(&self.algorithm) {
            return Err(PacketError::Algorithm(self.algorithm));
        }
        let len = PACKET_HEAD_LEN + self.body.len();
        if len > MAX_PACKETS_LEN {
            return Err(PacketError::TooLong(len));
        }
        let mut bytes = vec![TAG_1];
        match len.checked_sub(192) {
            None => bytes.push(len as u8),
            Some(over) => bytes.extend([192 + (over >> 8) as u8, over as u8]),
        }
        bytes.push(PACKET_VERSION);
        bytes.extend(self.key_sig);
        bytes.push(self.algorithm);
        bytes.extend(&self.body);
        Ok(bytes)
    }

    /// Parses packets up to the end of `input`.
    fn parse_all(mut input: &[u8]) -> Result<Vec<Self>, PacketError> {
        let mut packets = Vec::new();
        while !input.is_empty() {
            let (packet, rest) = Self::parse(input)?;
            packets.push(packet);
            input = rest;
        }
        Ok(packets)
    }
}

fn body_len(input: &[u8]) -> Result<(usize, &[u8]), PacketError> {
    let (&first, rest) = input.split_first().ok_or(PacketError::Truncated)?;
    match first {
        0..192 => Ok((usize::from(first), rest)),
        192..224 => {
            let (&second, rest) = rest.split_first().ok_or(PacketError::Truncated)?;
            Ok((
                ((usize::from(first) - 192) << 8) + usize::from(second) + 192,
                rest,
            ))
        }
        224.. => Err(PacketError::Length),
    }
}

/// One copy of the packets of a file, sealed under an epoch key.
///
/// ```text
/// epoch 4 | length 2 | copy seq 2 | nonce 12 | sealed packets and zeros 2012 | tag 16
/// ```
///
/// All 2012 bytes are sealed, whatever the packets fill of them.
pub(super) struct SealedPackets {
    pub(super) epoch: Epoch,
    len: u16,
    pub(super) seq: u16,
    nonce: [u8; NONCE_LEN],
    sealed: [u8; MAX_PACKETS_LEN],
    tag: [u8; TAG_LEN],
}

/// The packets of a file as they are sealed.
pub(super) struct PlainPackets(Vec<u8>);

impl PlainPackets {
    pub(super) fn new(packets: &[Packet]) -> Result<Self, PacketError> {
        let mut bytes = Vec::new();
        for packet in packets {
            bytes.extend(packet.write()?);
        }
        if bytes.len() > MAX_PACKETS_LEN {
            return Err(PacketError::TooLong(bytes.len()));
        }
        Ok(Self(bytes))
    }

    pub(super) fn parse(&self) -> Result<Vec<Packet>, PacketError> {
        Packet::parse_all(&self.0)
    }

    pub(super) fn seal(
        &self,
        fixed: &[u8; FIXED_LEN],
        file: FileId,
        (epoch, epoch_key): (Epoch, &EpochKey),
        seq: u16,
        random: &Random,
    ) -> SealedPackets {
        let mut copy = SealedPackets {
            epoch,
            len: self.0.len() as u16,
            seq,
            nonce: random.array(),
            sealed: join(&[&self.0]),
            tag: [0; TAG_LEN],
        };
        let key = packets_cipher(epoch_key, file);
        copy.tag = aead::seal(&key, &copy.nonce, &copy.associated(fixed), &mut copy.sealed);
        copy
    }
}

impl SealedPackets {
    /// Parses one copy. None if it is zero.
    pub(super) fn parse(bytes: &[u8; PACKETS_LEN]) -> Option<Self> {
        if is_zero(bytes) {
            return None;
        }
        let mut octets = Octets(bytes);
        Some(Self {
            epoch: Epoch(octets.u32()?),
            len: octets.u16()?,
            seq: octets.u16()?,
            nonce: *octets.array()?,
            sealed: *octets.array()?,
            tag: *octets.array()?,
        })
    }

    /// The bytes that [`SealedPackets::parse`] reads.
    pub(super) fn write(&self) -> [u8; PACKETS_LEN] {
        join(&[
            &self.epoch.0.to_le_bytes(),
            &self.len.to_le_bytes(),
            &self.seq.to_le_bytes(),
            &self.nonce,
            &self.sealed,
            &self.tag,
        ])
    }

    /// None if it does not verify, or what follows the packets is not zero.
    pub(super) fn open(
        &self,
        fixed: &[u8; FIXED_LEN],
        file: FileId,
        epoch_key: &EpochKey,
    ) -> Option<PlainPackets> {
        let mut bytes = Zeroizing::new(self.sealed);
        let key = packets_cipher(epoch_key, file);
        let associated = self.associated(fixed);
        aead::open(
            &key,
            &self.nonce,
            &associated,
            bytes.as_mut_slice(),
            &self.tag,
        )
        .ok()?;
        let (packets, rest) = bytes.split_at_checked(usize::from(self.len))?;
        is_zero(rest).then(|| PlainPackets(packets.to_vec()))
    }

    fn associated(&self, fixed: &[u8; FIXED_LEN]) -> [u8; FIXED_LEN + 8] {
        join(&[
            fixed,
            &self.epoch.0.to_le_bytes(),
            &self.len.to_le_bytes(),
            &self.seq.to_le_bytes(),
        ])
    }
}

fn packets_cipher(epoch_key: &EpochKey, file: FileId) -> LessSafeKey {
    aead::cipher(&derive(epoch_key.expose(), "packets", &file.0))
}
