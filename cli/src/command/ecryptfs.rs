//! `claviger ecryptfs …`: folders of the kernel's eCryptfs, and keys for it.

mod inspect;
mod migrate;
mod recover;

use claviger_protocol::control::{Command, Reply};
use claviger_protocol::failure::ExitCode;

use super::unexpected;
use crate::args::Ecryptfs;
use crate::print::{errln, outln};
use crate::prompter::Prompter;
use crate::{Failed, daemon, key_ref};

pub(super) fn run(ecryptfs: Ecryptfs, prompter: &mut Prompter) -> Result<ExitCode, Failed> {
    match ecryptfs {
        Ecryptfs::Inspect { file, output } => inspect::run(&file, &output),
        Ecryptfs::Recover { place, output } => recover::run(&place, &output),
        Ecryptfs::Migrate(order) => migrate::run(&order, prompter),
        Ecryptfs::AddKey { key } => add_key(&key, prompter),
    }
}

fn add_key(key: &str, prompter: &mut Prompter) -> Result<ExitCode, Failed> {
    let key = key_ref::parse(key)?;
    let reply = daemon::run(Command::EcryptfsAddKey { key }, prompter)?;
    let Reply::EcryptfsKey { key, sig } = reply else {
        return Err(unexpected());
    };
    errln!(
        "The kernel's eCryptfs can use '{}' ({}) as {sig}:",
        key.label,
        key.module
    );
    outln!(
        "mount -i -t ecryptfs -o ecryptfs_sig={sig},ecryptfs_cipher=aes,ecryptfs_key_bytes=32 LOWER MNT"
    );
    Ok(ExitCode::Ok)
}
