//! What our programs read of their surroundings.

use std::path::Path;

use claviger_fs::options::Options;
use clavigerd::config::Config;
use clavigerd::pin_source::Located;

use crate::Reached;

/// What stands after `-o`.
pub fn mount_options(data: &[u8]) -> Reached {
    str::from_utf8(data)
        .is_ok_and(|text| Options::parse(text).is_ok())
        .into()
}

/// A table of mounts, with a FUSE filesystem at `/home/a/my files`.
pub fn mountinfo(data: &[u8]) -> Reached {
    claviger_fs::fuzzing::mountinfo(Path::new("/home/a/my files"), data).into()
}

/// A table of mounts, with one of ours.
pub fn own_mounts(data: &[u8]) -> Reached {
    claviger_cli::fuzzing::mountinfo(data).into()
}

/// What getdents64(2) gives.
pub fn directory_entries(data: &[u8]) -> Reached {
    (claviger_fs::fuzzing::directory_entries(data) > 0).into()
}

/// `/proc/TID/status`.
pub fn proc_status(data: &[u8]) -> Reached {
    str::from_utf8(data)
        .is_ok_and(claviger_fs::fuzzing::proc_status)
        .into()
}

/// What a filesystem in the background tells whoever started it.
pub fn report(data: &[u8]) -> Reached {
    str::from_utf8(data)
        .is_ok_and(claviger_fs::fuzzing::report)
        .into()
}

/// A locator that may say where its PIN is.
pub fn pin_source(data: &[u8]) -> Reached {
    let located = str::from_utf8(data).map(Located::parse);
    located
        .is_ok_and(|located| located.is_ok_and(|located| located.pin_file.is_some()))
        .into()
}

/// The daemon's configuration.
pub fn daemon_config(data: &[u8]) -> Reached {
    str::from_utf8(data)
        .is_ok_and(|text| Config::parse(text, Path::new("config.toml")).is_ok())
        .into()
}

/// What a pinentry answers.
pub fn pinentry_answer(data: &[u8]) -> Reached {
    clavigerd::fuzzing::pinentry_answer(data).into()
}
