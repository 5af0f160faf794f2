//! `claviger ecryptfs …`: what needs no mount of the kernel's, and no key.

mod inspect;
mod recover;

use claviger_protocol::failure::ExitCode;

use crate::Failed;
use crate::args::Ecryptfs;

pub(super) fn run(ecryptfs: Ecryptfs) -> Result<ExitCode, Failed> {
    match ecryptfs {
        Ecryptfs::Inspect { file, output } => inspect::run(&file, &output),
        Ecryptfs::Recover { place, output } => recover::run(&place, &output),
    }
}
