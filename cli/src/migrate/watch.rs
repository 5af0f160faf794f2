//! Who looks on while a migration runs.

/// How much there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) directories: u64,
    pub(crate) files: u64,
    /// Symlinks, fifos, sockets and devices.
    pub(crate) others: u64,
    /// Content of the files.
    pub(crate) bytes: u64,
}

/// What a migration is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Counting,
    Copying,
    Comparing,
}

/// Is told how far a migration is, and may end it.
pub(crate) trait Watch {
    /// A phase begins; `whole` is what it will come to.
    fn begins(&self, phase: Phase, whole: Tally);

    /// So many more bytes of content are done.
    fn done(&self, bytes: u64);

    /// Whether to stop as soon as may be. What has been done stays done.
    fn wants_to_stop(&self) -> bool;
}
