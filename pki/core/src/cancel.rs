//! Calling back something that somebody else waits for.

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded, never};

/// Calls back what holds the [`Cancel`] of the same pair.
///
/// Dropping it does the same: nobody waits for the answer any more.
#[derive(Debug)]
pub struct Canceller {
    _closed_by_drop: Sender<Never>,
}

/// Tells a call that nobody waits for its answer any more.
#[derive(Clone, Debug)]
pub struct Cancel(Receiver<Never>);

/// Never sent: the channel only ever closes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Never {}

/// A pair of both ends.
pub fn pair() -> (Canceller, Cancel) {
    let (sender, receiver) = bounded(0);
    let canceller = Canceller {
        _closed_by_drop: sender,
    };
    (canceller, Cancel(receiver))
}

impl Canceller {
    /// Calls it back.
    pub fn cancel(self) {
        drop(self);
    }
}

impl Cancel {
    /// One that never happens.
    pub fn never() -> Self {
        Self(never())
    }

    /// Closes when it is called back; for `select!`.
    pub(crate) fn receiver(&self) -> &Receiver<Never> {
        &self.0
    }

    /// Whether it was called back already.
    pub fn is_cancelled(&self) -> bool {
        self.0.try_recv() == Err(TryRecvError::Disconnected)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_called_back_once_its_canceller_is_used_or_gone() {
        let (canceller, cancel) = pair();
        assert!(!cancel.is_cancelled());
        canceller.cancel();
        assert!(cancel.is_cancelled());
        assert!(!Cancel::never().is_cancelled());
    }
}
