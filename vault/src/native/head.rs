//! The head of a file, as the daemon meets it: fixed part, key records and recipients' packets.
//!
//! A head is the first [`HEAD_LEN`] bytes of header page 0, followed in file scope by the 4096 bytes
//! of header page 1. The daemon makes, opens and re-seals heads; it never sees the rest of a file.
//! Whoever has no epoch key can neither make, read nor alter one.

use core::ops::Deref;

use zeroize::Zeroizing;

use super::aead::Random;
use super::error::{HeadError, Part};
use super::feks::{Feks, MAX_FEKS};
use super::fixed::{FIXED_LEN, FixedPart};
use super::key_record::{InnerFeks, KEY_RECORD_LEN, KeyRecord};
use super::octets::{Octets, Side, is_zero, newest};
use super::packet::{PACKETS_LEN, Packet, PacketError, PlainPackets, SealedPackets};
use super::{HEAD_LEN, PAGE};
use crate::epoch::EpochKey;
use crate::ids::{Epoch, FileId, Scope, VolumeId};
use crate::secret::{Fek, FileKey};

/// What seals the FEKs of a new file besides the epoch key.
pub enum Layer<'a> {
    /// Volume scope: nothing.
    Volume,
    /// File scope: a file key, which the packets give to each recipient.
    File {
        /// Drawn for this file.
        file_key: &'a FileKey,
        /// The file key, wrapped to each recipient for this file.
        packets: &'a [Packet],
    },
}

/// Makes the head of a new file with one FEK, and gives both.
///
/// `file` is drawn by the caller, since the packets are wrapped for it; never use one twice.
///
/// # Errors
/// [`PacketError`] if the packets are more than a header holds; volume scope never fails.
pub fn fresh(
    volume: VolumeId,
    file: FileId,
    (epoch, epoch_key): (Epoch, &EpochKey),
    layer: &Layer<'_>,
) -> Result<(Vec<u8>, Fek), PacketError> {
    let mut key = Zeroizing::new([0; 32]);
    Random::Kernel.fill(key.as_mut_slice());
    let feks = Feks::first(Fek::new(&mut key.clone()));
    let head = write(
        volume,
        file,
        (epoch, epoch_key),
        layer,
        &feks,
        &Random::Kernel,
    )?;
    Ok((head, Fek::new(&mut key)))
}

/// Makes a head of given FEKs.
pub(super) fn write(
    volume: VolumeId,
    file: FileId,
    (epoch, epoch_key): (Epoch, &EpochKey),
    layer: &Layer<'_>,
    feks: &Feks,
    random: &Random,
) -> Result<Vec<u8>, PacketError> {
    let scope = match layer {
        Layer::Volume => Scope::Volume,
        Layer::File { .. } => Scope::File,
    };
    let fixed = FixedPart::new(volume, file, scope).write();
    let (inner, page_1) = match layer {
        Layer::Volume => (InnerFeks::volume_scope(feks), Vec::new()),
        Layer::File { file_key, packets } => {
            let copy = PlainPackets::new(packets)?
                .seal(&fixed, file, (epoch, epoch_key), 1, random)
                .write();
            let inner = InnerFeks::file_scope(feks, &fixed, file, file_key, random);
            (inner, [copy, [0; PACKETS_LEN]].concat())
        }
    };
    let record = inner.seal(&fixed, file, epoch, epoch_key, random).write();
    let mut head = Vec::with_capacity(HEAD_LEN + PAGE);
    head.extend(fixed);
    head.extend(record);
    head.resize(HEAD_LEN, 0);
    head.extend(page_1);
    Ok(head)
}

/// What the epoch key alone gives.
pub enum Opened {
    /// Volume scope: the FEKs, and the epoch they are sealed under.
    Feks(Feks, Epoch),
    /// File scope: a recipient of one of the packets has to unwrap the file key first.
    FileScope(Box<SealedByFileKey>),
}

/// The FEKs of a file in file scope, to be opened by its file key.
pub struct SealedByFileKey {
    /// The file key, wrapped to each recipient.
    pub packets: Vec<Packet>,
    /// What the packets are wrapped for.
    pub file: FileId,
    /// The epoch that the head is sealed under.
    pub epoch: Epoch,
    fixed: [u8; FIXED_LEN],
    inner: InnerFeks,
}

impl SealedByFileKey {
    /// Opens the FEKs.
    ///
    /// # Errors
    /// [`HeadError::Integrity`] if this is not the file's key.
    pub fn open(&self, file_key: &FileKey) -> Result<Feks, HeadError> {
        self.inner
            .open(&self.fixed, self.file, file_key)
            .ok_or(HeadError::Integrity(Part::KeyRecord))
    }
}

/// Opens a head of `volume`. Safe to call on any bytes.
///
/// `epoch_key` gives the keys at hand, from the minimum epoch on.
///
/// # Errors
/// [`HeadError`]; [`HeadError::NoEpochKey`] only if no copy of a record opens under a key at hand.
pub fn open<K: Deref<Target = EpochKey>>(
    head: &[u8],
    volume: VolumeId,
    epoch_key: impl Fn(Epoch) -> Option<K>,
) -> Result<Opened, HeadError> {
    let head = Head::parse(head, volume)?;
    let (_, epoch, inner) = head.open_key_record(&epoch_key)?;
    let Some(packet_copies) = head.packet_copies else {
        let feks = inner.feks().ok_or(HeadError::Integrity(Part::KeyRecord))?;
        return Ok(Opened::Feks(feks, epoch));
    };
    let (_, _, packets) = head.open_packets(packet_copies, &epoch_key)?;
    Ok(Opened::FileScope(Box::new(SealedByFileKey {
        packets: packets
            .parse()
            .map_err(|_| HeadError::Integrity(Part::Packets))?,
        file: head.fixed.file,
        epoch,
        fixed: *head.fixed_bytes,
        inner,
    })))
}

/// Whether re-sealing a head also gives the file a new FEK for blocks written from then on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NewFek {
    /// The FEKs stay as they are.
    Keep,
    /// One more, unless there are four already. In volume scope only: in file scope the FEKs are
    /// sealed under the file key, which this needs no token for and so does not have.
    Add,
}

/// Seals a head anew under `epoch`, both layers that the epoch key seals: needs no token.
///
/// Gives the whole head as it is to be: the new records in the copies that did not count before, the
/// old ones zero. [`super::replace_head`] brings it to disk in the order that a crash survives.
///
/// # Errors
/// As [`open`].
pub fn rewrap<K: Deref<Target = EpochKey>>(
    head: &[u8],
    volume: VolumeId,
    epoch_key: impl Fn(Epoch) -> Option<K>,
    (epoch, new_key): (Epoch, &EpochKey),
    new_fek: NewFek,
) -> Result<Vec<u8>, HeadError> {
    let random = &Random::Kernel;
    let head = Head::parse(head, volume)?;
    let FixedPart { file, scope, .. } = head.fixed;
    let fixed = head.fixed_bytes;
    let (side, _, inner) = head.open_key_record(&epoch_key)?;
    let inner = match (scope, new_fek) {
        (Scope::Volume, NewFek::Add) if usize::from(inner.count) < MAX_FEKS => {
            let feks = inner.feks().ok_or(HeadError::Integrity(Part::KeyRecord))?;
            InnerFeks::volume_scope(&feks.with_another())
        }
        _ => inner,
    };
    let mut records = [[0; KEY_RECORD_LEN]; 2];
    *side.other().of_mut(&mut records) = inner.seal(fixed, file, epoch, new_key, random).write();

    let mut new = Vec::with_capacity(HEAD_LEN + PAGE);
    new.extend(fixed);
    new.extend(records.concat());
    new.resize(HEAD_LEN, 0);
    if let Some(copies) = head.packet_copies {
        let (side, seq, packets) = head.open_packets(copies, &epoch_key)?;
        let mut copies = [[0; PACKETS_LEN]; 2];
        *side.other().of_mut(&mut copies) = packets
            .seal(fixed, file, (epoch, new_key), seq.wrapping_add(1), random)
            .write();
        new.extend(copies.concat());
    }
    Ok(new)
}

/// A head taken apart; nothing in it is authentic yet.
struct Head<'a> {
    fixed_bytes: &'a [u8; FIXED_LEN],
    fixed: FixedPart,
    key_records: [Option<KeyRecord>; 2],
    packet_copies: Option<[&'a [u8; PACKETS_LEN]; 2]>,
}

impl<'a> Head<'a> {
    fn parse(bytes: &'a [u8], volume: VolumeId) -> Result<Self, HeadError> {
        let mut octets = Octets(bytes);
        let fixed_bytes = octets.array().ok_or(HeadError::Truncated)?;
        let fixed = FixedPart::parse(fixed_bytes)?;
        if fixed.volume != volume {
            return Err(HeadError::WrongVolume(fixed.volume));
        }
        Self::records(fixed_bytes, fixed, octets).ok_or(HeadError::Truncated)?
    }

    fn records(
        fixed_bytes: &'a [u8; FIXED_LEN],
        fixed: FixedPart,
        mut octets: Octets<'a>,
    ) -> Option<Result<Self, HeadError>> {
        let key_records = [octets.array()?, octets.array()?].map(KeyRecord::parse);
        let zeros = octets.array::<64>()?;
        let packet_copies = match fixed.scope {
            Scope::Volume => None,
            Scope::File => Some([octets.array()?, octets.array()?]),
        };
        if !is_zero(zeros) || !octets.0.is_empty() {
            return Some(Err(HeadError::Integrity(Part::KeyRecord)));
        }
        Some(Ok(Self {
            fixed_bytes,
            fixed,
            key_records,
            packet_copies,
        }))
    }

    /// The newest key record that opens. There is no counter in it: what changes is the epoch, or
    /// within one the number of FEKs, and both only grow.
    fn open_key_record<K: Deref<Target = EpochKey>>(
        &self,
        epoch_key: &impl Fn(Epoch) -> Option<K>,
    ) -> Result<(Side, Epoch, InnerFeks), HeadError> {
        let FixedPart { file, scope, .. } = self.fixed;
        let mut missing = None;
        let opened = self.key_records.each_ref().map(|record| {
            let record = record.as_ref()?;
            let Some(key) = epoch_key(record.epoch) else {
                missing = missing.max(Some(record.epoch));
                return None;
            };
            Some((
                record.epoch,
                record.open(self.fixed_bytes, scope, file, &key)?,
            ))
        });
        let age = |(epoch, inner): &(Epoch, InnerFeks)| (*epoch, inner.count);
        match (newest(opened, age), missing) {
            (Some((side, (epoch, inner))), _) => Ok((side, epoch, inner)),
            (None, Some(epoch)) => Err(HeadError::NoEpochKey(epoch)),
            (None, None) => Err(HeadError::Integrity(Part::KeyRecord)),
        }
    }

    fn open_packets<K: Deref<Target = EpochKey>>(
        &self,
        copies: [&[u8; PACKETS_LEN]; 2],
        epoch_key: &impl Fn(Epoch) -> Option<K>,
    ) -> Result<(Side, u16, PlainPackets), HeadError> {
        let opened = copies.map(|copy| {
            let copy = SealedPackets::parse(copy)?;
            let key = epoch_key(copy.epoch)?;
            let packets = copy.open(self.fixed_bytes, self.fixed.file, &key)?;
            Some((copy.epoch, copy.seq, packets))
        });
        let (side, (_, seq, packets)) = newest(opened, |(epoch, seq, _)| (*epoch, *seq))
            .ok_or(HeadError::Integrity(Part::Packets))?;
        Ok((side, seq, packets))
    }
}
