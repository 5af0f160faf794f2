//! Entry points for fuzzing parsers that are private: each takes any bytes and gives whether they parse.

use std::path::Path;

use claviger_protocol::mount_table::parse;

use crate::background::Report;
use crate::{dirstream, kin, mount_table, watch};

/// A table of mounts: whether a FUSE filesystem is at `path`.
pub fn mountinfo(path: &Path, table: &[u8]) -> bool {
    mount_table::fuse_mount_at(path, parse(table)).is_some()
}

/// What getdents64(2) fills a buffer with: how many entries there are before something else.
pub fn directory_entries(mut records: &[u8]) -> usize {
    let mut entries = 0;
    while let Some((_, len)) = dirstream::parse(records) {
        let rest = records.get(len..).unwrap_or_default();
        assert!(rest.len() < records.len(), "an entry has octets");
        records = rest;
        entries += 1;
    }
    entries
}

/// `/proc/TID/status`, for a thread's signals and for its kin.
pub fn proc_status(text: &str) -> bool {
    watch::Masks::parse(text).is_some() && kin::Stat::parse(text).is_some()
}

/// What a filesystem in the background tells whoever started it.
pub fn report(text: &str) -> bool {
    Report::parse(text).is_some()
}
