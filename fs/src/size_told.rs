//! What the kernel was told of a file's size, and what comes of it if that is wrong.
//!
//! The size of a file that is not open comes from its lower length, and nothing vouches for it: a crash
//! or a full disk may leave more there than the file has. The kernel believes it, and appends where it
//! believes the end to be. It asks anew only if an open fails with `ESTALE`, which it then hides from
//! the program: it looks the name up again and opens what it finds. So an open that finds the kernel
//! misled fails once, and the lookup that follows tells the size that was found.

use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;

use crate::failure::OpError;

/// The size of one file, as the kernel was last told it.
#[derive(Default)]
pub(crate) struct SizeTold(Mutex<State>);

#[derive(Clone, Copy, Debug, Default)]
enum State {
    /// By the content, or never. What the kernel has made of it since is right.
    #[default]
    Verified,
    /// By the lower length.
    Unverified { told: u64 },
    /// The same, when an open found the content to have another and was refused.
    Refused {
        told: u64,
        /// What was found, for as long as the lower file has the length that it had then.
        found: u64,
        lower_len: u64,
    },
    /// The same, and somebody got in without the kernel having asked.
    LetIn { told: u64 },
}

/// What a file is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opener {
    /// To be written where the kernel believes its end to be.
    Appends,
    /// Anything else: whoever reads at the end finds out.
    Other,
}

impl SizeTold {
    /// The kernel is told the size that the content has.
    pub(crate) fn by_content(&self) {
        *self.state() = State::Verified;
    }

    /// The kernel goes by `size`, which was the content's, but the content is another by now.
    pub(crate) fn of_another(&self, size: u64) {
        *self.state() = State::Unverified { told: size };
    }

    /// The kernel is told the size of a closed file, whose lower file has `lower_len` octets and by that
    /// would have `size`. Returns what is told.
    pub(crate) fn by_length(&self, lower_len: u64, size: u64) -> u64 {
        let mut state = self.state();
        match &mut *state {
            State::Refused {
                told,
                found,
                lower_len: then,
            } if *then == lower_len => {
                *told = *found;
                *found
            }
            state => {
                *state = State::Unverified { told: size };
                size
            }
        }
    }

    /// Whether the kernel has it from the content.
    pub(crate) fn is_verified(&self) -> bool {
        matches!(*self.state(), State::Verified)
    }

    /// The file is being opened and has `size`.
    ///
    /// # Errors
    /// `ESTALE` if the kernel was told another: the first time, and whenever it is going to append. What
    /// is opened by no name, as `/proc/self/fd/3`, is not looked up again, and gets in at the second try
    /// unless it appends.
    pub(crate) fn check(
        &self,
        size: u64,
        opener: Opener,
        lower_len: impl FnOnce() -> Result<u64, OpError>,
    ) -> Result<(), OpError> {
        let mut state = self.state();
        let Some(told) = state.told().filter(|told| *told != size) else {
            *state = State::Verified;
            return Ok(());
        };
        if opener == Opener::Other && !matches!(*state, State::Unverified { .. }) {
            *state = State::LetIn { told };
            return Ok(());
        }
        *state = State::Refused {
            told,
            found: size,
            lower_len: lower_len()?,
        };
        Err(Errno::ESTALE.into())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// What the kernel was told, if that was not the content's word.
    fn told(self) -> Option<u64> {
        match self {
            Self::Verified => None,
            Self::Unverified { told } | Self::Refused { told, .. } | Self::LetIn { told } => {
                Some(told)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An open that finds 7 octets in a lower file of `lower_len`.
    fn open(told: &SizeTold, opener: Opener, lower_len: u64) -> bool {
        told.check(7, opener, || Ok(lower_len)).is_ok()
    }

    #[test]
    fn an_open_fails_until_the_kernel_has_been_told_the_size_that_was_found() {
        let told = SizeTold::default();
        assert!(
            open(&told, Opener::Appends, 9000),
            "it was told nothing wrong"
        );
        assert_eq!(told.by_length(9000, 4596), 4596);
        assert!(!open(&told, Opener::Appends, 9000));
        assert!(
            !open(&told, Opener::Appends, 9000),
            "another that came meanwhile"
        );
        assert_eq!(told.by_length(9000, 4596), 7);
        assert_eq!(told.by_length(9000, 4596), 7, "whoever asks");
        assert!(open(&told, Opener::Appends, 9000));
        assert!(told.is_verified());
    }

    #[test]
    fn what_was_found_says_nothing_of_a_lower_file_that_has_changed() {
        let told = SizeTold::default();
        told.by_length(9000, 4596);
        assert!(!open(&told, Opener::Other, 9000));
        assert_eq!(told.by_length(13_000, 8596), 8596);
        assert!(!open(&told, Opener::Other, 13_000));
        assert!(open(&told, Opener::Other, 13_000));
        // Let in, it may have written, up to the same length.
        assert_eq!(told.by_length(13_000, 8596), 8596);
    }

    #[test]
    fn who_is_not_looked_up_again_gets_in_at_the_second_try_unless_he_appends() {
        let told = SizeTold::default();
        told.by_length(9000, 4596);
        assert!(!open(&told, Opener::Other, 9000));
        assert!(open(&told, Opener::Other, 9000));
        assert!(open(&told, Opener::Other, 9000));
        assert!(!open(&told, Opener::Appends, 9000));
        told.by_content();
        assert!(open(&told, Opener::Appends, 9000));
    }
}
