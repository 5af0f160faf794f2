//! The command line: one definition for parsing, `--help`, man pages and shell completions.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};

use crate::help;

mod ecryptfs;
mod keys;

pub use ecryptfs::{Ecryptfs, Format, GivenKeys, Migrate};
pub use keys::{Generate, Key, Module, Recipient, Token};

/// Encrypted folders that only your smartcard, YubiKey or TPM opens.
#[derive(Debug, Parser)]
#[command(
    name = "claviger",
    version,
    propagate_version = true,
    max_term_width = 100,
    after_help = help::FIRST_SESSION,
    after_long_help = help::long()
)]
pub struct Cli {
    /// Read PINs and passphrases, one a line, from this file descriptor instead of asking.
    #[arg(long, global = true, value_name = "N")]
    pub pin_fd: Option<i32>,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// All commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make an encrypted folder: a volume in the empty or missing folder DIR.
    Init(Init),
    /// Unlock the volume in DIR and mount it at MNT.
    Mount(Mount),
    /// Unmount, and wait until the last writes are in the lower folder; after 30 seconds, exit with 18.
    Umount {
        /// The mount point.
        #[arg(value_name = "MNT", value_hint = ValueHint::DirPath)]
        mountpoint: PathBuf,
    },
    /// Forget the keys of a volume: its mounts refuse everything until it is unlocked.
    Lock {
        /// The volume's folder or a mount point of it.
        #[arg(value_name = "DIR|MNT", required_unless_present = "all", value_hint = ValueHint::DirPath)]
        place: Option<PathBuf>,
        /// Lock all volumes of this user.
        #[arg(long, conflicts_with = "place")]
        all: bool,
    },
    /// Open a volume, or all that are mounted, with a token, a passphrase or the recovery key.
    Unlock(Unlock),
    /// Show what is open, by which key, over which carrier.
    Status {
        /// How to print.
        #[command(flatten)]
        output: Output,
    },
    /// Tokens: smartcards, YubiKeys, TPMs.
    #[command(subcommand)]
    Token(Token),
    /// Keys of yours that Claviger knows.
    #[command(subcommand)]
    Key(Key),
    /// Who opens a volume.
    #[command(subcommand)]
    Recipient(Recipient),
    /// Print what the head of a lower file or a manifest says; needs no key.
    Inspect {
        /// A file below the mount, or a volume's folder.
        #[arg(value_hint = ValueHint::AnyPath)]
        file: PathBuf,
        /// How to print.
        #[command(flatten)]
        output: Output,
    },
    /// Decrypt every block and check every directory of a volume, without mounting it.
    Verify {
        /// The volume's folder.
        #[arg(value_hint = ValueHint::DirPath)]
        dir: PathBuf,
        /// How to print.
        #[command(flatten)]
        output: Output,
    },
    /// Print one file of a volume or an eCryptfs folder, without mounting it.
    Cat(Cat),
    /// Folders of the kernel's eCryptfs.
    #[command(subcommand)]
    Ecryptfs(Ecryptfs),
    /// Encrypt one file or a pipe to keys of yours, without a volume.
    Seal(Seal),
    /// Decrypt what `seal` made.
    Unseal(Unseal),
    /// Look for what would keep Claviger from working here, and say what to do.
    Doctor {
        /// How to print.
        #[command(flatten)]
        output: Output,
    },
    /// Lock everything and end this user's daemon.
    Stop,
}

/// How to print.
#[derive(Debug, Args)]
pub struct Output {
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// `claviger init`.
#[derive(Debug, Args)]
pub struct Init {
    /// What one token operation opens.
    #[arg(long, value_enum, default_value_t = Scope::Volume)]
    pub scope: Scope,
    /// A key that shall open the volume: a PKCS#11 URI, a key file (PEM or TPM, the public key is
    /// enough), or an id or label from `key list`. Repeat for several. Without any, the tokens present
    /// are offered.
    #[arg(long = "recipient", value_name = "KEY")]
    pub recipients: Vec<String>,
    /// Let the passphrase in this file open the volume too.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub passphrase_file: Option<PathBuf>,
    /// Write the recovery key to this new file instead of printing it.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub recovery_file: Option<PathBuf>,
    /// Make no recovery key: who loses all keys loses all data.
    #[arg(long, conflicts_with = "recovery_file")]
    pub no_recovery: bool,
    /// The folder that will hold the encrypted files.
    #[arg(value_hint = ValueHint::DirPath)]
    pub dir: PathBuf,
}

/// What one token operation opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Scope {
    /// The whole volume, until it is locked.
    Volume,
    /// One file, at each open.
    File,
}

/// `claviger mount`.
#[derive(Debug, Args)]
pub struct Mount {
    /// Mount options, as of mount(8): ro, allow_other, noexec, transport=netlink|unix|auto, …; with
    /// --format ecryptfs those of the kernel's eCryptfs too.
    #[arg(short = 'o', value_name = "OPTS", value_delimiter = ',')]
    pub options: Vec<String>,
    /// Stay in the foreground.
    #[arg(short = 'f', long)]
    pub foreground: bool,
    /// Do not unlock: the mount answers "required key not available" until `claviger unlock`.
    #[arg(long)]
    pub locked: bool,
    /// What the folder holds.
    #[arg(long, value_enum, default_value_t = Format::Native)]
    pub format: Format,
    /// What opens it.
    #[command(flatten)]
    pub keys: GivenKeys,
    /// The volume's folder, or the lower folder of eCryptfs.
    #[arg(value_hint = ValueHint::DirPath)]
    pub dir: PathBuf,
    /// An empty folder.
    #[arg(value_name = "MNT", value_hint = ValueHint::DirPath)]
    pub mountpoint: PathBuf,
}

/// `claviger unlock`.
#[derive(Debug, Args)]
pub struct Unlock {
    /// Open with the recovery key in this file; `-` is standard input.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["passphrase_file", "key"])]
    pub recovery_file: Option<PathBuf>,
    /// What the folder holds.
    #[arg(long, value_enum, default_value_t = Format::Native)]
    pub format: Format,
    /// The options of an eCryptfs folder's mount, by the kernel's names: whose keys are wanted where the
    /// folder does not say it yet.
    #[arg(short = 'o', value_name = "OPTIONS", value_delimiter = ',')]
    pub options: Vec<String>,
    /// What opens it.
    #[command(flatten)]
    pub keys: GivenKeys,
    /// The volume's folder or a mount point of it.
    #[arg(value_name = "DIR|MNT", required_unless_present = "all", value_hint = ValueHint::DirPath)]
    pub place: Option<PathBuf>,
    /// Unlock all that is mounted and locked, by the keys in tokens and files; passphrases are asked for.
    #[arg(long, conflicts_with_all = ["place", "recovery_file", "format", "options", "GivenKeys"])]
    pub all: bool,
}

/// `claviger cat`.
#[derive(Debug, Args)]
pub struct Cat {
    /// What the folder holds.
    #[arg(long, value_enum, default_value_t = Format::Native)]
    pub format: Format,
    /// What opens it.
    #[command(flatten)]
    pub keys: GivenKeys,
    /// The volume's folder, or the lower folder of eCryptfs.
    #[arg(value_hint = ValueHint::DirPath)]
    pub dir: PathBuf,
    /// Path of the file from there, by its names above.
    pub path: PathBuf,
}

/// `claviger seal`.
#[derive(Debug, Args)]
pub struct Seal {
    /// A key that shall open it: a PKCS#11 URI, a key file (PEM or TPM, the public key is enough), or an
    /// id or label from `key list`. Repeat for several.
    #[arg(long = "recipient", value_name = "KEY", required = true)]
    pub recipients: Vec<String>,
    /// Write here instead of to standard output.
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub output: Option<PathBuf>,
    /// The file to seal; standard input if absent.
    #[arg(value_hint = ValueHint::FilePath)]
    pub file: Option<PathBuf>,
}

/// `claviger unseal`.
#[derive(Debug, Args)]
pub struct Unseal {
    /// Write here instead of to standard output.
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub output: Option<PathBuf>,
    /// What `seal` made; standard input if absent.
    #[arg(value_hint = ValueHint::FilePath)]
    pub file: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn lock_and_unlock_want_a_place_or_all() {
        for command in ["lock", "unlock"] {
            let parses = |args: &[&str]| {
                let words = ["claviger", command]
                    .into_iter()
                    .chain(args.iter().copied());
                Cli::try_parse_from(words).is_ok()
            };
            assert!(!parses(&[]));
            assert!(parses(&["/x"]));
            assert!(parses(&["--all"]));
            assert!(parses(&["--all", "--pin-fd", "0"]));
            assert!(!parses(&["/x", "--all"]));
        }
        for option in [["--format", "ecryptfs"], ["--key", "k"], ["-o", "x"]] {
            let words = ["claviger", "unlock", "--all"].into_iter().chain(option);
            assert!(Cli::try_parse_from(words).is_err(), "{option:?}");
        }
    }
}
