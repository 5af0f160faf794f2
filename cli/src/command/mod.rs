//! What each command does.

mod cat;
mod choice;
mod doctor;
mod ecryptfs;
mod init;
mod inspect;
mod key;
mod lock;
mod mount;
mod recipient;
mod recovery;
mod seal;
mod status;
mod token;
mod verify;

use claviger_protocol::failure::ExitCode;

use crate::args::{Cli, Command};
use crate::print::outln;
use crate::prompter::Prompter;
use crate::{Failed, daemon, place};

/// Runs one command line.
///
/// # Errors
/// [`Failed`], which says what to print and what to exit with.
pub fn run(cli: Cli) -> Result<ExitCode, Failed> {
    let mut prompter = Prompter::new(cli.pin_fd)?;
    match cli.command {
        Command::Init(init) => init::run(init, &mut prompter),
        Command::Mount(mount) => mount::run(mount, &mut prompter),
        Command::Umount { mountpoint } => mount::unmount(&mountpoint),
        Command::Lock { place, all: _ } => lock::lock(place.as_deref(), &mut prompter),
        Command::Unlock(unlock) => lock::unlock(unlock, &mut prompter),
        Command::Status { output } => status::run(&output, &mut prompter),
        Command::Token(token) => token::run(token, &mut prompter),
        Command::Key(key) => key::run(key, &mut prompter),
        Command::Recipient(recipient) => recipient::run(recipient, &mut prompter),
        Command::Doctor { output } => doctor::run(&output),
        Command::Stop => stop(),
        Command::Inspect { file, output } => inspect::run(&file, &output),
        Command::Verify { dir, output } => verify::run(&dir, &output, prompter),
        Command::Cat(cat) => cat::run(&cat, prompter),
        Command::Ecryptfs(ecryptfs) => ecryptfs::run(ecryptfs, &mut prompter),
        Command::Seal(order) => seal::seal(&order, prompter),
        Command::Unseal(order) => seal::unseal(&order, prompter),
    }
}

fn stop() -> Result<ExitCode, Failed> {
    if daemon::connect(daemon::OnDemand::Refuse).is_ok() {
        daemon::stop()?;
    } else if place::any_is_told() {
        // One that crashed has not locked what is mounted (docs/decisions/041); the next one does, as it ends.
        drop(daemon::connect(daemon::OnDemand::Start)?);
        daemon::stop()?;
        outln!("clavigerd did not run; what it left open is locked");
    } else {
        outln!("clavigerd does not run");
    }
    Ok(ExitCode::Ok)
}

/// The daemon answered another command's reply: the two programs are not of one build.
pub(crate) fn unexpected() -> Failed {
    Failed::new(
        ExitCode::Internal,
        "clavigerd answered something else than was asked",
    )
    .advise("'claviger stop' ends the old daemon; the next command starts the new one")
}
