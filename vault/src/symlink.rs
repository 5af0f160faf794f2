//! Symlink targets: AES-256-GCM, bound to the directory that the symlink is in.
//!
//! ```text
//! lower target := base64url(nonce 12 B | ciphertext | tag 16 B), no padding
//! ```
//!
//! Key: of the directory's epoch. Associated data: the directory's id, so a symlink that moves to
//! another directory is made anew. Not covered: two symlinks of one directory put in each other's
//! place.

use data_encoding::BASE64URL_NOPAD;

use crate::names::DirNames;
use crate::sealed::OVERHEAD;

/// Longest upper target, bytes: its lower target still fits the 4095 that Linux allows.
pub const TARGET_MAX: usize = 3043;

/// A symlink target that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// More than [`TARGET_MAX`] bytes.
    #[error("symlink target longer than {TARGET_MAX} bytes")]
    TooLong,
    /// Changed, or not made by this volume for this directory.
    #[error("symlink target was not made by this volume for this directory")]
    Foreign,
}

/// The lower target of a symlink to `target` in the directory of `names`.
///
/// # Errors
/// [`TargetError::TooLong`].
pub fn seal(names: &DirNames, target: &[u8]) -> Result<String, TargetError> {
    if target.len() > TARGET_MAX {
        return Err(TargetError::TooLong);
    }
    let sealed = names.keys().symlinks.seal(&names.dir().0, target);
    Ok(BASE64URL_NOPAD.encode(&sealed))
}

/// The upper target of a symlink whose lower target is `lower`.
///
/// # Errors
/// [`TargetError::Foreign`].
pub fn open(names: &DirNames, lower: &[u8]) -> Result<Vec<u8>, TargetError> {
    let sealed = BASE64URL_NOPAD
        .decode(lower)
        .map_err(|_| TargetError::Foreign)?;
    let target = names.keys().symlinks.open(&names.dir().0, &sealed);
    Ok(target.map_err(|_| TargetError::Foreign)?.to_vec())
}

/// Length of the upper target, by the length of the lower one: what `stat` shows.
pub fn target_len(lower_len: u64) -> u64 {
    (lower_len / 4 * 3 + lower_len % 4 * 3 / 4).saturating_sub(OVERHEAD as u64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ids::DirId;
    use crate::names::tests::names_of;

    proptest! {
        #[test]
        fn a_target_opens_in_its_own_directory_and_nowhere_else(
            target in proptest::collection::vec(any::<u8>(), 0..=TARGET_MAX),
        ) {
            let names = names_of(DirId([1; 16]));
            let lower = seal(&names, &target).unwrap();
            prop_assert!(lower.len() <= 4095);
            prop_assert_eq!(target_len(lower.len() as u64), target.len() as u64);
            prop_assert_eq!(open(&names, lower.as_bytes()), Ok(target));
            let elsewhere = names_of(DirId([2; 16]));
            prop_assert_eq!(open(&elsewhere, lower.as_bytes()), Err(TargetError::Foreign));
        }

        #[test]
        fn no_changed_or_shortened_target_opens(
            at in any::<prop::sample::Index>(),
            bit in 0..8_u8,
            cut in any::<prop::sample::Index>(),
        ) {
            let names = names_of(DirId([1; 16]));
            let lower = seal(&names, b"../elsewhere").unwrap().into_bytes();
            let cut = cut.index(lower.len());
            prop_assert_eq!(open(&names, &lower[..cut]), Err(TargetError::Foreign));
            let mut changed = lower.clone();
            changed[at.index(lower.len())] ^= 1 << bit;
            prop_assert_eq!(open(&names, &changed), Err(TargetError::Foreign));
        }
    }

    #[test]
    fn the_longest_target_fits_and_one_more_byte_is_refused() {
        let names = names_of(DirId([1; 16]));
        assert_eq!(seal(&names, &[b'x'; TARGET_MAX]).unwrap().len(), 4095);
        assert_eq!(
            seal(&names, &[b'x'; TARGET_MAX + 1]),
            Err(TargetError::TooLong)
        );
    }

    #[test]
    fn two_symlinks_to_the_same_target_do_not_look_alike() {
        let names = names_of(DirId([1; 16]));
        assert_ne!(seal(&names, b"target"), seal(&names, b"target"));
    }
}
