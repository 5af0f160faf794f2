//! Entry points for fuzzing parsers that are private: each takes any bytes and gives whether they parse.

use std::path::Path;

use crate::mountpoint::fuse_mount_at;

/// A table of mounts: whether a FUSE filesystem is at `path`.
pub fn mountinfo(path: &Path, table: &[u8]) -> bool {
    fuse_mount_at(path, table).is_some()
}
