//! Entry points for fuzzing parsers that are private: each takes any bytes and gives whether they parse.

use std::fs::File;
use std::io::Seek;

use claviger_protocol::mount_table::parse;

use crate::migrate::is_journal;
use crate::place::ours;

/// A table of mounts: whether one of them is ours.
pub fn mountinfo(table: &[u8]) -> bool {
    !ours(parse(table)).is_empty()
}

/// The journal of a migration: whether one was begun in `file`.
pub fn migration_journal(mut file: File) -> bool {
    file.rewind().is_ok() && is_journal(file)
}
