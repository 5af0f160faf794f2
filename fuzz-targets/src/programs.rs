//! What our programs read of their surroundings.

use std::path::Path;

use claviger_fs::options::Options;
use clavigerd::config::Config;

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
    str::from_utf8(data)
        .is_ok_and(claviger_cli::fuzzing::mountinfo)
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
