//! What a migration came to.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use super::Stopped;
use super::loss::{Aspect, Loss, Remark};
use super::watch::Tally;

/// What a migration came to. Paths are below the roots of OLD and NEW.
#[derive(Debug, Default)]
pub(crate) struct Summary {
    /// What was compared.
    pub(crate) verified: Tally,
    /// What could not be copied.
    pub(crate) left: Vec<Remark>,
    /// What could not be kept of something that was copied.
    pub(crate) losses: Vec<Remark>,
    /// What is not in NEW as it is in OLD.
    pub(crate) differences: Vec<Remark>,
    /// What is in NEW only.
    pub(crate) only_in_new: Vec<PathBuf>,
    is_left: HashSet<PathBuf>,
}

/// What may be said at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// All of OLD is in NEW.
    Complete,
    /// Something could not be copied.
    Incomplete,
    /// Something in NEW is not as it is in OLD.
    Different,
}

impl Summary {
    pub(crate) fn verdict(&self) -> Verdict {
        match (self.differences.is_empty(), self.left.is_empty()) {
            (false, _) => Verdict::Different,
            (true, false) => Verdict::Incomplete,
            (true, true) => Verdict::Complete,
        }
    }

    /// Notes that `path` is not copied, since OLD or NEW refused it; stops if it was not for its own sake.
    pub(super) fn leave(&mut self, path: &Path, errno: Errno) -> Result<(), Stopped> {
        match errno {
            Errno::ENOTCONN | Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM => {
                Err(Stopped::old_failed(path, errno))
            }
            errno => {
                self.leave_because(path, errno.desc());
                Ok(())
            }
        }
    }

    /// Notes that something else is mounted at `path`.
    pub(super) fn leave_mount(&mut self, path: &Path) {
        self.leave_because(path, "another filesystem is mounted there");
    }

    fn leave_because(&mut self, path: &Path, why: &str) {
        if self.is_left.insert(path.to_owned()) {
            self.left.push(remark(path, Aspect::Presence, why));
        }
    }

    /// Whether `path` is not copied.
    pub(super) fn is_left(&self, path: &Path) -> bool {
        self.is_left.contains(path)
    }

    /// Notes in what the two sides differ; what is known to be `lost` is no difference.
    pub(super) fn judge(&mut self, path: &Path, differ: Vec<Aspect>, lost: Vec<Loss>, why: &str) {
        for of in differ {
            if !lost.iter().any(|loss| loss.of == of) {
                self.differ(path, of, why);
            }
        }
        let remarks = lost
            .into_iter()
            .map(|loss| remark(path, loss.of, &loss.why));
        self.losses.extend(remarks);
    }

    pub(super) fn differ(&mut self, path: &Path, of: Aspect, why: &str) {
        self.differences.push(remark(path, of, why));
    }
}

fn remark(path: &Path, of: Aspect, why: &str) -> Remark {
    Remark {
        path: path.to_owned(),
        of,
        why: why.into(),
    }
}
