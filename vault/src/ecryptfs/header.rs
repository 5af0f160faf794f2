//! Headers: a file's size and packets, at its start or in an extended attribute.

use std::os::fd::AsFd;

use crate::native::lower::read_at;
use crate::native::octets::Octets;
use crate::secret::random_array;

use super::content::EXTENT;
use super::error::{EcryptfsError, Part};
use super::fek::Fek;
use super::key_sig::KeySig;
use super::packet::Packet;
use super::sys;

/// Where the header is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetadataPlace {
    /// At the start of the lower file.
    Header,
    /// In the extended attribute `user.ecryptfs`: the mount option `ecryptfs_xattr_metadata`.
    Xattr,
}

/// Whether a header says that its file's name is encrypted. Nothing depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NamesAre {
    /// As they are.
    Plain,
    /// Encrypted: the mount option `ecryptfs_fnek_sig`.
    Encrypted,
}

/// The flags of a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flags(pub u32);

impl Flags {
    /// The content is encrypted.
    pub const ENCRYPTED: Self = Self(2);
    /// The header is in an extended attribute.
    pub const XATTR: Self = Self(4);
    /// Names are encrypted.
    pub const NAMES: Self = Self(8);

    /// Whether all of `others` are set.
    pub fn contains(self, others: Self) -> bool {
        self.0 & others.0 == others.0
    }
}

/// The header of a lower file.
///
/// ```text
///  0  8 B  size of the upper file
///  8  4 B  random
/// 12  4 B  the same ^ 3c81b7f5
/// 16  1 B  version
/// 17  3 B  flags
/// 20  4 B  header extent size     } absent in version 0
/// 24  2 B  header extents         }
/// 26  …    packets, then zeros
/// ```
///
/// Integers are big-endian. Nothing is authenticated. Source: `ecryptfs_read_headers_virt` in Linux
/// `fs/ecryptfs/crypto.c`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Of the upper file.
    pub size: u64,
    /// Of the format: 3.
    pub version: u8,
    /// What the file says of itself.
    pub flags: Flags,
    /// Bytes of the lower file before the content, if the header is at its start.
    pub header_len: u64,
    /// The FEK, wrapped to each recipient.
    pub packets: Vec<Packet>,
    /// Where it is.
    pub place: MetadataPlace,
    random: [u8; 4],
}

impl Header {
    /// For a new, empty file; `packets` in the order of the mount options.
    ///
    /// # Errors
    /// [`EcryptfsError::TooManyRecipients`]; [`EcryptfsError::Malformed`] if there is none.
    pub fn fresh(
        packets: Vec<Packet>,
        place: MetadataPlace,
        names: NamesAre,
    ) -> Result<Self, EcryptfsError> {
        let packets_len: usize = packets.iter().map(|packet| packet.write().len()).sum();
        if packets.is_empty() {
            return Err(EcryptfsError::Malformed(Part::Packet));
        }
        if FIXED_LEN + packets_len > PARSED_LEN {
            return Err(EcryptfsError::TooManyRecipients);
        }
        let xattr = match place {
            MetadataPlace::Header => 0,
            MetadataPlace::Xattr => Flags::XATTR.0,
        };
        let names = match names {
            NamesAre::Plain => 0,
            NamesAre::Encrypted => Flags::NAMES.0,
        };
        Ok(Self {
            size: 0,
            version: VERSION,
            flags: Flags(Flags::ENCRYPTED.0 | xattr | names),
            header_len: MIN_HEADER_LEN,
            packets,
            place,
            random: random_array(),
        })
    }

    /// Reads that of a lower file: at its start, else in its extended attribute.
    ///
    /// # Errors
    /// [`EcryptfsError::NeverWritten`], [`EcryptfsError::NotEcryptfs`], all of [`Header::parse`], and
    /// [`EcryptfsError::Io`].
    pub fn read(file: impl AsFd) -> Result<Self, EcryptfsError> {
        let file = file.as_fd();
        let mut page = [0; PARSED_LEN];
        let read = read_at(file, 0, &mut page)?;
        let (page, _) = page.split_at(read);
        match Self::parse(page, MetadataPlace::Header) {
            Err(EcryptfsError::NotEcryptfs) => {}
            parsed => return parsed,
        }
        match sys::xattr(file)? {
            Some(value) => Self::parse(&value, MetadataPlace::Xattr),
            None if read == 0 => Err(EcryptfsError::NeverWritten),
            None => Err(EcryptfsError::NotEcryptfs),
        }
    }

    /// Reads the size alone: what stat(2) shows, for which no packet has to be sound.
    ///
    /// # Errors
    /// [`EcryptfsError::NotEcryptfs`]; [`EcryptfsError::Malformed`] for a size that no file can have;
    /// [`EcryptfsError::Io`]. An empty file has no bytes.
    pub fn read_size(file: impl AsFd) -> Result<u64, EcryptfsError> {
        let file = file.as_fd();
        let mut start = [0; FIXED_LEN];
        let read = read_at(file, 0, &mut start)?;
        let (start, _) = start.split_at(read);
        let marked = match parse_marked(&mut Octets(start)) {
            Some(marked) => Some(marked),
            None => match sys::xattr(file)? {
                Some(value) => parse_marked(&mut Octets(&value)),
                None if read == 0 => return Ok(0),
                None => None,
            },
        };
        let (size, _) = marked.ok_or(EcryptfsError::NotEcryptfs)?;
        match size {
            ..=MAX_SIZE => Ok(size),
            _ => Err(EcryptfsError::Malformed(Part::Header)),
        }
    }

    /// Parses the first 4096 bytes of a file, or the value of its extended attribute.
    ///
    /// # Errors
    /// [`EcryptfsError::NotEcryptfs`] without the marker; [`EcryptfsError::Version`];
    /// [`EcryptfsError::NotEncrypted`]; [`EcryptfsError::Malformed`].
    pub fn parse(bytes: &[u8], place: MetadataPlace) -> Result<Self, EcryptfsError> {
        let (bytes, _) = bytes.split_at(bytes.len().min(PARSED_LEN));
        let mut rest = Octets(bytes);
        let (size, random) = parse_marked(&mut rest).ok_or(EcryptfsError::NotEcryptfs)?;
        let malformed = || EcryptfsError::Malformed(Part::Header);
        let word = rest.array().map(|word| u32::from_be_bytes(*word));
        let [version, ..] = word.ok_or_else(malformed)?.to_be_bytes();
        let flags = Flags(word.ok_or_else(malformed)? & 0x00ff_ffff);
        if version > VERSION {
            return Err(EcryptfsError::Version(version));
        }
        let header_len = match version {
            0 => MIN_HEADER_LEN,
            _ => parse_header_len(&mut rest).ok_or_else(malformed)?,
        };
        if !flags.contains(Flags::ENCRYPTED) {
            return Err(EcryptfsError::NotEncrypted);
        }
        // The kernel would look for the content of the latter at offset 0, over the header.
        let in_place = match place {
            MetadataPlace::Header => header_len >= MIN_HEADER_LEN && !flags.contains(Flags::XATTR),
            MetadataPlace::Xattr => true,
        };
        if !in_place || size > MAX_SIZE {
            return Err(malformed());
        }
        Ok(Self {
            size,
            version,
            flags,
            header_len,
            packets: Packet::parse_all(rest.0)?,
            place,
            random,
        })
    }

    /// As it would be at the start of the file, if it is not there.
    pub(super) fn moved_to_front(self) -> Self {
        Self {
            flags: Flags(self.flags.0 & !Flags::XATTR.0),
            header_len: MIN_HEADER_LEN,
            place: MetadataPlace::Header,
            ..self
        }
    }

    /// Its bytes: the whole header of a file, zeros included, or the value of the extended attribute.
    ///
    /// Always version 3, whatever was parsed.
    pub(super) fn write(&self) -> Vec<u8> {
        let [m1, m2, m3, m4] = self.random;
        let marker = u32::from_be_bytes([m1, m2, m3, m4]) ^ MARKER;
        let mut bytes = self.size.to_be_bytes().to_vec();
        bytes.extend(self.random);
        bytes.extend(marker.to_be_bytes());
        bytes.extend((u32::from(VERSION) << 24 | self.flags.0).to_be_bytes());
        bytes.extend((EXTENT as u32).to_be_bytes());
        bytes.extend(HEADER_EXTENTS.to_be_bytes());
        for packet in &self.packets {
            bytes.extend(packet.write());
        }
        if self.place == MetadataPlace::Header {
            bytes.resize(MIN_HEADER_LEN as usize, 0);
        }
        bytes
    }

    /// Where the first extent is in the lower file.
    pub fn content_offset(&self) -> u64 {
        match self.place {
            MetadataPlace::Header => self.header_len,
            MetadataPlace::Xattr => 0,
        }
    }

    /// Tries packets in the kernel's order, the last first, until one is unwrapped.
    ///
    /// `attempt` gives the FEK of a packet, or `None` if its key is not at hand.
    ///
    /// # Errors
    /// The last error of `attempt`, or [`EcryptfsError::NoKey`] if it always gave `None`.
    pub fn unwrap<E: From<EcryptfsError>>(
        &self,
        mut attempt: impl FnMut(&Packet) -> Option<Result<Fek, E>>,
    ) -> Result<Fek, E> {
        let mut failed = None;
        for packet in self.packets.iter().rev() {
            match attempt(packet) {
                Some(Ok(fek)) => return Ok(fek),
                Some(Err(error)) => failed = Some(error),
                None => {}
            }
        }
        Err(failed.unwrap_or_else(|| EcryptfsError::NoKey(self.key_sigs()).into()))
    }

    /// Who opens it, in the order of the packets.
    pub fn key_sigs(&self) -> Vec<KeySig> {
        self.packets.iter().map(Packet::key_sig).collect()
    }
}

/// The largest size of an upper file.
pub(super) const MAX_SIZE: u64 = i64::MAX as u64 - MAX_HEADER_LEN - EXTENT as u64;

/// The kernel parses the first page only.
const PARSED_LEN: usize = 4096;
const FIXED_LEN: usize = 26;
const VERSION: u8 = 3;
const MARKER: u32 = 0x3c81_b7f5;
const HEADER_EXTENTS: u16 = 2;
pub(super) const MIN_HEADER_LEN: u64 = HEADER_EXTENTS as u64 * EXTENT as u64;
const MAX_HEADER_LEN: u64 = u32::MAX as u64 * u16::MAX as u64;

fn parse_marked(rest: &mut Octets<'_>) -> Option<(u64, [u8; 4])> {
    let size = u64::from_be_bytes(*rest.array()?);
    let random = *rest.array()?;
    let marker = u32::from_be_bytes(*rest.array()?);
    (u32::from_be_bytes(random) ^ marker == MARKER).then_some((size, random))
}

fn parse_header_len(rest: &mut Octets<'_>) -> Option<u64> {
    let extent_len = u32::from_be_bytes(*rest.array()?);
    let extents = u16::from_be_bytes(*rest.array()?);
    Some(u64::from(extent_len) * u64::from(extents))
}
