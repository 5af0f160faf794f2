//! What a folder is called in the place of a volume's id, which eCryptfs has none of.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use aws_lc_rs::digest::{Context, SHA256};

use crate::ids::VolumeId;

/// Names the eCryptfs folder at `path`, which is absolute and without symlinks, to daemons and mounts:
/// the first 16 bytes of SHA-256("claviger ecryptfs folder" | 00 | path). Proves nothing.
pub fn folder_id(path: &Path) -> VolumeId {
    let mut hash = Context::new(&SHA256);
    hash.update(b"claviger ecryptfs folder\0");
    hash.update(path.as_os_str().as_bytes());
    let hash = hash.finish();
    let id = hash.as_ref().first_chunk();
    VolumeId(*id.expect("SHA-256 has 32 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_folder_has_an_id_of_its_own_and_always_the_same() {
        let id = |path: &str| folder_id(Path::new(path));
        assert_eq!(id("/home/ann/.Private"), id("/home/ann/.Private"));
        assert_ne!(id("/home/ann/.Private"), id("/home/bob/.Private"));
        let first = Context::new(&SHA256);
        let mut whole = first;
        whole.update(b"claviger ecryptfs folder\0/x");
        assert_eq!(id("/x").0, whole.finish().as_ref()[..16]);
    }
}
