//! `claviger ecryptfs migrate`: from an eCryptfs folder into a volume.

mod looking;
mod mounts;
mod told;
mod trees;

use std::time::{Duration, Instant};

use claviger_protocol::failure::ExitCode;
use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::Failed;
use crate::args::Migrate;
use crate::ecryptfs::Options;
use crate::migrate::{Folder, New, Old, migrate};
use crate::prompter::Prompter;
use looking::Looking;
use trees::{Tree, apart};

/// How long a mount may take to hear that its volume has been unlocked.
const GREETING: Duration = Duration::from_secs(5);

pub(super) fn run(order: &Migrate, prompter: &mut Prompter) -> Result<ExitCode, Failed> {
    let options = Options::parse(&order.options)?;
    if options.shows_lower_files() {
        return Err(Failed::usage(
            "with 'ecryptfs_encrypted_view' nothing would be decrypted",
        ));
    }
    let old = trees::old(order)?;
    let new = trees::new(&order.new)?;
    apart(&old, &new)?;
    // Whoever is asked for a PIN may still interrupt that, so it comes before anything is mounted.
    let new = new.unlock(prompter)?;
    let old = old.mount_ecryptfs(&order.keys, options, prompter)?;
    let looking = Looking::begin()?;
    let new = new.mount_volume()?;
    raise_descriptor_limit();

    // Mounts are undone when these trees are dropped, after the folders that are open in them.
    let outcome = migrate(
        &Old {
            root: open(&old)?,
            name: old.name.clone(),
        },
        &New {
            root: open(&new)?,
            lower: new.lower.clone(),
        },
        &looking,
    );
    looking.finish();
    let summary = outcome.map_err(|stopped| told::stopped(stopped, order))?;
    told::summary(&summary, &old, &new, order)
}

fn open(tree: &Tree) -> Result<Folder, Failed> {
    let begun = Instant::now();
    loop {
        match Folder::open(&tree.path) {
            // Unlocked, and not told so yet: a killed migration may have mounted it a moment ago.
            Err(Errno::ENOKEY) if begun.elapsed() < GREETING => {
                std::thread::sleep(Duration::from_millis(5));
            }
            opened => return opened.map_err(|errno| Failed::file(&tree.path, &errno.into())),
        }
    }
}

/// A deep tree takes two descriptors a level.
fn raise_descriptor_limit() {
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        // With fewer a tree deeper than that is refused, with a reason.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}
