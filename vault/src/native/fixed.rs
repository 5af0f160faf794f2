//! The fixed part: the first 64 bytes of a native file, which never change.

use super::error::Unsupported;
use super::octets::{Octets, is_zero, join};
use crate::ids::{FileId, Scope, VolumeId};

/// The first bytes of every native file.
pub const MAGIC: [u8; 8] = *b"\x93CLVFILE";
/// The version this crate reads and writes. Version 0 is free to change.
pub const VERSION: u16 = 0;
/// AES-256-GCM, HKDF-SHA256, HMAC-SHA256.
pub const SUITE: u16 = 1;

/// Length in bytes.
pub(super) const FIXED_LEN: usize = 64;

const LOG2_BLOCK: u8 = 12;
const LOG2_SEGMENT_BLOCKS: u8 = 6;

/// What a native file is: set when it is made, authenticated by its key record.
///
/// ```text
/// magic 8 | version 2 | suite 2 | scope 1 | header pages 1 | log2 block 1 | log2 segment blocks 1
/// | critical flags 4 | other flags 4 | reserved 8 | volume id 16 | file id 16
/// ```
///
/// Lengths are bytes, integers little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FixedPart {
    /// The volume that the file belongs to.
    pub volume: VolumeId,
    /// Names the file: bound into all its keys.
    pub file: FileId,
    /// What opening it costs.
    pub scope: Scope,
    /// Features that a reader may ignore: none in version 0.
    other_flags: u32,
}

impl FixedPart {
    /// The fixed part of a new file.
    pub fn new(volume: VolumeId, file: FileId, scope: Scope) -> Self {
        Self {
            volume,
            file,
            scope,
            other_flags: 0,
        }
    }

    /// Number of header pages.
    pub fn header_pages(&self) -> u8 {
        match self.scope {
            Scope::Volume => 1,
            Scope::File => 2,
        }
    }

    /// Parses a fixed part. It is authentic only once the key record opens.
    ///
    /// # Errors
    /// [`Unsupported`] unless it is exactly what this version writes, other flags aside.
    pub fn parse(bytes: &[u8; FIXED_LEN]) -> Result<Self, Unsupported> {
        Self::fields(bytes).ok_or(Unsupported::Layout)?
    }

    fn fields(bytes: &[u8; FIXED_LEN]) -> Option<Result<Self, Unsupported>> {
        let mut octets = Octets(bytes);
        let magic = octets.array::<8>()?;
        let (version, suite) = (octets.u16()?, octets.u16()?);
        let &[scope, header_pages, block, segment_blocks] = octets.array::<4>()?;
        let (critical_flags, other_flags) = (octets.u32()?, octets.u32()?);
        let reserved = octets.array::<8>()?;
        let volume = VolumeId(*octets.array()?);
        let file = FileId(*octets.array()?);

        let scope = match scope {
            1 => Some(Scope::Volume),
            2 => Some(Scope::File),
            _ => None,
        };
        let refusal = if *magic != MAGIC {
            Unsupported::Magic
        } else if version != VERSION {
            Unsupported::Version(version)
        } else if suite != SUITE {
            Unsupported::Suite(suite)
        } else if critical_flags != 0 {
            Unsupported::CriticalFlags(critical_flags)
        } else if let Some(scope) = scope {
            let fixed = Self {
                volume,
                file,
                scope,
                other_flags,
            };
            let layout = [fixed.header_pages(), LOG2_BLOCK, LOG2_SEGMENT_BLOCKS];
            if layout == [header_pages, block, segment_blocks] && is_zero(reserved) {
                return Some(Ok(fixed));
            }
            Unsupported::Layout
        } else {
            Unsupported::Layout
        };
        Some(Err(refusal))
    }

    /// The bytes that [`FixedPart::parse`] reads.
    pub fn write(&self) -> [u8; FIXED_LEN] {
        let scope = match self.scope {
            Scope::Volume => 1,
            Scope::File => 2,
        };
        join(&[
            &MAGIC,
            &VERSION.to_le_bytes(),
            &SUITE.to_le_bytes(),
            &[scope, self.header_pages(), LOG2_BLOCK, LOG2_SEGMENT_BLOCKS],
            &0_u32.to_le_bytes(),
            &self.other_flags.to_le_bytes(),
            &[0; 8],
            &self.volume.0,
            &self.file.0,
        ])
    }
}
