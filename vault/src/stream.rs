//! Sealed streams: one file or a pipe, encrypted to recipients without a volume.
//!
//! ```text
//! stream := header | chunk…
//! header := magic 8 "CLAVSEAL" | version 2 (0) | packet count 2 | stream id 16 | Tag 1 packet…
//! chunk  := ciphertext, 65,536 bytes, less only in the last | tag 16
//! ```
//!
//! Integers are little endian. A chunk is AES-256-GCM under HKDF(stream key, "seal stream" ‖ SHA-256 of
//! the header), with the chunk's number (11 bytes, big endian) and 1 for the last, else 0, as nonce: so
//! neither the header nor the order, number or end of the chunks can be changed. The stream key is
//! random and wrapped to each recipient by a packet. The construction is STREAM of Hoang, Reyhanitabar,
//! Rogaway and Vizár (2015), as age has it.

use std::io::{self, Read, Write};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::digest::{SHA256, digest};
use zeroize::Zeroizing;

use crate::kdf::derive;
use crate::native::{Packet, PacketError};
use crate::secret::StreamKey;

const MAGIC: [u8; 8] = *b"CLAVSEAL";
const VERSION: u16 = 0;
/// Plaintext bytes of a full chunk.
const CHUNK: usize = 64 * 1024;
const TAG: usize = 16;
/// Magic, version, packet count, stream id.
const FIXED: usize = 28;
/// Longest packet: tag, two-octet length, and what that can say in a header of ours.
const PACKET_MAX: usize = 2016;
/// More recipients than anybody names; bounds what a hostile header can make us read.
const PACKETS_MAX: usize = 64;

/// What a sealed stream begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamHeader {
    /// Bound into every packet's context, so that a packet fits no other stream.
    pub id: [u8; 16],
    /// The stream key, wrapped to each recipient.
    pub packets: Vec<Packet>,
}

/// A stream cannot be sealed or opened.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// Not one of ours.
    #[error("not a sealed stream")]
    NotSealed,
    /// Of a later version.
    #[error("sealed stream of version {0}, which this program does not know")]
    Version(u16),
    /// More than 64 recipients, or none.
    #[error("a sealed stream has 1 to {PACKETS_MAX} recipients, not {0}")]
    Recipients(usize),
    /// A packet is malformed.
    #[error("a packet of the sealed stream is malformed: {0}")]
    Packet(#[from] PacketError),
    /// Changed, cut short, lengthened or under another key. What was written out before is genuine.
    #[error("the sealed stream does not verify at chunk {chunk}")]
    Damaged {
        /// Where.
        chunk: u64,
    },
    /// What it comes from cannot be read.
    #[error("reading failed: {0}")]
    Read(#[source] io::Error),
    /// Where it goes cannot be written to.
    #[error("writing failed: {0}")]
    Write(#[source] io::Error),
}

impl StreamHeader {
    /// Reads the header from the front of `from`, and not a byte more.
    ///
    /// # Errors
    /// [`StreamError`]; no input panics or makes this read more than 132 KiB.
    pub fn read(from: &mut impl Read) -> Result<Self, StreamError> {
        let mut fixed = [0; FIXED];
        read_or(from, &mut fixed)?;
        let (magic, rest) = fixed
            .split_first_chunk::<8>()
            .ok_or(StreamError::NotSealed)?;
        if *magic != MAGIC {
            return Err(StreamError::NotSealed);
        }
        let (version, rest) = rest
            .split_first_chunk::<2>()
            .ok_or(StreamError::NotSealed)?;
        if u16::from_le_bytes(*version) != VERSION {
            return Err(StreamError::Version(u16::from_le_bytes(*version)));
        }
        let (count, id) = rest
            .split_first_chunk::<2>()
            .ok_or(StreamError::NotSealed)?;
        let count = usize::from(u16::from_le_bytes(*count));
        if !(1..=PACKETS_MAX).contains(&count) {
            return Err(StreamError::Recipients(count));
        }
        let packets = (0..count)
            .map(|_| read_packet(from))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            id: id.try_into().map_err(|_| StreamError::NotSealed)?,
            packets,
        })
    }

    /// Its bytes.
    ///
    /// # Errors
    /// [`StreamError::Recipients`], [`StreamError::Packet`].
    pub fn write(&self) -> Result<Vec<u8>, StreamError> {
        let count = self.packets.len();
        if !(1..=PACKETS_MAX).contains(&count) {
            return Err(StreamError::Recipients(count));
        }
        let mut bytes = MAGIC.to_vec();
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend((count as u16).to_le_bytes());
        bytes.extend(self.id);
        for packet in &self.packets {
            bytes.extend(packet.write()?);
        }
        Ok(bytes)
    }

    fn content_key(&self, key: &StreamKey) -> Result<LessSafeKey, StreamError> {
        let hash = digest(&SHA256, &self.write()?);
        let key = derive::<32>(key.expose(), "seal stream", hash.as_ref());
        Ok(LessSafeKey::new(
            UnboundKey::new(&AES_256_GCM, &*key).expect("AES-256 takes 32 bytes"),
        ))
    }
}

/// Writes the header, then what `from` holds, sealed under `key`.
///
/// # Errors
/// [`StreamError`].
pub fn seal(
    header: &StreamHeader,
    key: &StreamKey,
    mut from: impl Read,
    mut to: impl Write,
) -> Result<(), StreamError> {
    to.write_all(&header.write()?).map_err(StreamError::Write)?;
    let key = header.content_key(key)?;
    let mut chunk = Zeroizing::new(Vec::with_capacity(CHUNK + TAG));
    let mut next = Zeroizing::new(Vec::with_capacity(CHUNK + TAG));
    fill(&mut from, &mut chunk, CHUNK)?;
    for number in 0.. {
        fill(&mut from, &mut next, CHUNK)?;
        let place = if next.is_empty() {
            Place::Last
        } else {
            Place::Inside
        };
        let tag = key
            .seal_in_place_separate_tag(nonce(number, place), Aad::empty(), &mut chunk)
            .expect("AES-GCM seals anything shorter than 64 GiB");
        chunk.extend_from_slice(tag.as_ref());
        to.write_all(&chunk).map_err(StreamError::Write)?;
        if place == Place::Last {
            break;
        }
        core::mem::swap(&mut chunk, &mut next);
    }
    to.flush().map_err(StreamError::Write)
}

/// Writes out what follows the header in `from`, opened with `key`.
///
/// Each chunk is verified before it is written; that nothing is missing is known only at the end, so
/// what was written must not be used if this fails.
///
/// # Errors
/// [`StreamError`].
pub fn open(
    header: &StreamHeader,
    key: &StreamKey,
    mut from: impl Read,
    mut to: impl Write,
) -> Result<(), StreamError> {
    let key = header.content_key(key)?;
    let mut chunk = Zeroizing::new(Vec::with_capacity(CHUNK + TAG));
    let mut next = Zeroizing::new(Vec::with_capacity(CHUNK + TAG));
    fill(&mut from, &mut chunk, CHUNK + TAG)?;
    for number in 0.. {
        fill(&mut from, &mut next, CHUNK + TAG)?;
        let place = if next.is_empty() {
            Place::Last
        } else {
            Place::Inside
        };
        let plain = key
            .open_in_place(nonce(number, place), Aad::empty(), &mut chunk)
            .map_err(|_| StreamError::Damaged { chunk: number })?;
        to.write_all(plain).map_err(StreamError::Write)?;
        if place == Place::Last {
            break;
        }
        core::mem::swap(&mut chunk, &mut next);
    }
    to.flush().map_err(StreamError::Write)
}

#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Place {
    Inside = 0,
    Last = 1,
}

fn nonce(number: u64, place: Place) -> Nonce {
    let mut bytes = [0; NONCE_LEN];
    let [_, _, _, counter @ .., last] = &mut bytes;
    counter.copy_from_slice(&number.to_be_bytes());
    *last = place as u8;
    Nonce::assume_unique_for_key(bytes)
}

/// Fills `chunk` with up to `length` bytes; fewer only at the end.
fn fill(from: &mut impl Read, chunk: &mut Vec<u8>, length: usize) -> Result<(), StreamError> {
    chunk.clear();
    let mut from = from.by_ref().take(length as u64);
    from.read_to_end(chunk).map(drop).map_err(StreamError::Read)
}

/// One packet: its own length says how much to read.
fn read_packet(from: &mut impl Read) -> Result<Packet, StreamError> {
    let mut bytes = vec![0; 2];
    read_or(from, &mut bytes)?;
    let length = match bytes.as_slice() {
        [_, short @ 0..192] => usize::from(*short),
        [_, long @ 192..224] => {
            let mut second = [0];
            let high = usize::from(*long - 192) << 8;
            read_or(from, &mut second)?;
            bytes.extend(second);
            high + usize::from(second[0]) + 192
        }
        _ => return Err(PacketError::Length.into()),
    };
    if length > PACKET_MAX {
        return Err(PacketError::TooLong(length).into());
    }
    let head = bytes.len();
    bytes.resize(head + length, 0);
    let (_, body) = bytes.split_at_mut(head);
    read_or(from, body)?;
    let (packet, _rest) = Packet::parse(&bytes)?;
    Ok(packet)
}

/// A header that ends early is no header.
fn read_or(from: &mut impl Read, bytes: &mut [u8]) -> Result<(), StreamError> {
    from.read_exact(bytes).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => StreamError::NotSealed,
        _ => StreamError::Read(error),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header() -> StreamHeader {
        let packet = |sig| Packet {
            key_sig: [sig; 8],
            algorithm: 102,
            body: vec![sig; 300],
        };
        StreamHeader {
            id: [7; 16],
            packets: vec![packet(1), packet(2)],
        }
    }

    fn key() -> StreamKey {
        StreamKey::new(&mut [9; 32])
    }

    fn sealed(plain: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        seal(&header(), &key(), plain, &mut out).unwrap();
        out
    }

    fn opened(mut bytes: &[u8]) -> Result<Vec<u8>, StreamError> {
        let header = StreamHeader::read(&mut bytes)?;
        let mut out = Vec::new();
        open(&header, &key(), bytes, &mut out)?;
        Ok(out)
    }

    #[test]
    fn streams_of_every_size_around_a_chunk_come_back() {
        for length in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK] {
            let plain: Vec<u8> = (0..length).map(|n| (n % 251) as u8).collect();
            assert_eq!(opened(&sealed(&plain)).unwrap(), plain, "{length}");
        }
    }

    #[test]
    fn a_stream_cut_at_a_chunk_is_noticed() {
        let whole = sealed(&vec![5; 2 * CHUNK]);
        let cut = whole.len() - (CHUNK + TAG);
        assert!(matches!(
            opened(&whole[..cut]),
            Err(StreamError::Damaged { chunk: 0 })
        ));
    }

    #[test]
    fn chunks_cannot_change_places() {
        let mut bytes = sealed(&[vec![1; CHUNK], vec![2; CHUNK], vec![3; 10]].concat());
        let start = bytes.len() - (10 + TAG) - 2 * (CHUNK + TAG);
        bytes[start..][..2 * (CHUNK + TAG)].rotate_left(CHUNK + TAG);
        assert!(matches!(
            opened(&bytes),
            Err(StreamError::Damaged { chunk: 0 })
        ));
    }

    #[test]
    fn a_header_needs_recipients_and_a_known_version() {
        let mut bytes = sealed(b"x");
        bytes[8] = 1;
        assert!(matches!(opened(&bytes), Err(StreamError::Version(1))));
        let none = StreamHeader {
            id: [0; 16],
            packets: Vec::new(),
        };
        assert!(matches!(none.write(), Err(StreamError::Recipients(0))));
    }

    proptest! {
        #[test]
        fn no_changed_or_shortened_stream_opens(
            plain in proptest::collection::vec(any::<u8>(), 0..200),
            bit in any::<prop::sample::Index>(),
            cut in any::<prop::sample::Index>(),
        ) {
            let bytes = sealed(&plain);
            prop_assert!(opened(&bytes[..cut.index(bytes.len())]).is_err());
            let mut changed = bytes.clone();
            let bit = bit.index(bytes.len() * 8);
            changed[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(opened(&changed).is_err());
        }

        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = opened(&[&MAGIC[..], &[0, 0, 1, 0], &bytes].concat());
        }
    }
}
