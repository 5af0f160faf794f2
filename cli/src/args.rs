//! The command line: one definition for parsing, `--help`, man pages and shell completions.

use std::ffi::OsStr;
use std::path::PathBuf;

use clap::builder::{NonEmptyStringValueParser, PossibleValue, TypedValueParser};
use clap::{Arg, Args, Parser, Subcommand, ValueEnum, ValueHint};
use claviger_protocol::control::FolderFormat;
use claviger_vault::ecryptfs::Salt;

use crate::help;

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

/// `claviger token …`.
#[derive(Debug, Subcommand)]
pub enum Token {
    /// List the tokens that are present.
    List {
        /// How to print.
        #[command(flatten)]
        output: Output,
    },
}

/// `claviger key …`.
#[derive(Debug, Subcommand)]
pub enum Key {
    /// Make a key pair that cannot leave its token, and enrol it.
    Generate(Generate),
    /// Enrol a key that exists in a token or file.
    Add {
        /// A PKCS#11 URI, a PEM file, a TPM key file, or MODULE:KEY for a key in a module that the
        /// configuration adds.
        key: String,
        /// Name for people.
        #[arg(long)]
        label: Option<String>,
    },
    /// List enrolled keys.
    List {
        /// How to print.
        #[command(flatten)]
        output: Output,
    },
    /// Forget an enrolled key; the token keeps it.
    Remove {
        /// An id or label from `key list`.
        key: String,
    },
}

/// `claviger key generate`.
#[derive(Debug, Args)]
pub struct Generate {
    /// Where the key shall live: one of these, or a module that the configuration adds.
    #[arg(long, value_parser = ModuleNames)]
    pub module: String,
    /// The token, as `token list` has it: `pkcs11:token=LABEL`.
    #[arg(long, value_name = "URI")]
    pub token: Option<String>,
    /// Kind of key: ec-p256, ec-p384, rsa2048, rsa3072 or rsa4096.
    #[arg(long = "type", value_name = "TYPE")]
    pub key_type: Option<String>,
    /// Name for people.
    #[arg(long)]
    pub label: Option<String>,
    /// Protect the TPM key or key file with a PIN or passphrase, which is asked for.
    #[arg(long)]
    pub pin: bool,
    /// Write the key file here, where the module keeps keys in files (tpm, openssl).
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub out: Option<PathBuf>,
}

/// Where a key lives, for the modules that are Claviger's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Module {
    /// A smartcard, YubiKey or HSM, through its PKCS#11 library.
    Pkcs11,
    /// The TPM 2.0 of this machine.
    Tpm,
    /// A PEM file: weaker, whoever copies the file has the key.
    Openssl,
}

impl Module {
    /// Its name in auth toks.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pkcs11 => "pkcs11",
            Self::Tpm => "tpm",
            Self::Openssl => "openssl",
        }
    }
}

/// Takes the name of any module, and offers those of [`Module`]: only the daemon knows the others.
#[derive(Clone, Copy, Debug)]
struct ModuleNames;

impl TypedValueParser for ModuleNames {
    type Value = String;

    fn parse_ref(
        &self,
        command: &clap::Command,
        arg: Option<&Arg>,
        value: &OsStr,
    ) -> Result<String, clap::Error> {
        NonEmptyStringValueParser::new().parse_ref(command, arg, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        let ours = Module::value_variants().iter();
        Some(Box::new(ours.filter_map(Module::to_possible_value)))
    }
}

/// `claviger recipient …`.
#[derive(Debug, Subcommand)]
pub enum Recipient {
    /// List who opens the volume.
    List {
        /// The volume's folder or a mount point of it.
        #[arg(value_name = "DIR|MNT", value_hint = ValueHint::DirPath)]
        place: PathBuf,
        /// How to print.
        #[command(flatten)]
        output: Output,
    },
    /// Let one more key open the volume.
    Add {
        /// The volume's folder or a mount point of it.
        #[arg(value_name = "DIR|MNT", value_hint = ValueHint::DirPath)]
        place: PathBuf,
        /// A PKCS#11 URI, a key file (PEM or TPM, the public key is enough), or an id or label from
        /// `key list`.
        #[arg(required_unless_present_any = ["passphrase_file", "recovery"])]
        key: Option<String>,
        /// Add the passphrase in this file instead of a key.
        #[arg(long, value_name = "FILE", conflicts_with_all = ["key", "recovery"])]
        passphrase_file: Option<PathBuf>,
        /// Add a new recovery key, and print it.
        #[arg(long, conflicts_with = "key")]
        recovery: bool,
    },
    /// Remove a recipient and start a new epoch: it reads nothing written from then on.
    Remove {
        /// The volume's folder or a mount point of it.
        #[arg(value_name = "DIR|MNT", value_hint = ValueHint::DirPath)]
        place: PathBuf,
        /// A key reference, or a label or key id from `recipient list`.
        key: String,
    },
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

/// What a folder holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A volume of Claviger's own.
    Native,
    /// Files of the kernel's eCryptfs.
    Ecryptfs,
}

impl From<FolderFormat> for Format {
    fn from(format: FolderFormat) -> Self {
        match format {
            FolderFormat::Native => Self::Native,
            FolderFormat::Ecryptfs => Self::Ecryptfs,
        }
    }
}

/// What opens a folder: a passphrase or a key, and what else there is of eCryptfs.
#[derive(Clone, Debug, Default, Args)]
pub struct GivenKeys {
    /// The passphrase is the first line of this file; with --wrapped-passphrase, the login passphrase
    /// is. `-` is standard input.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub passphrase_file: Option<PathBuf>,
    /// A key that opens it: a PKCS#11 URI, a PEM file, a TPM key file, or an id or label from `key list`.
    /// Of eCryptfs it is an RSA key.
    #[arg(long, value_name = "KEY")]
    pub key: Option<String>,
    /// Names of eCryptfs are encrypted by the passphrase in this file instead of the same as the
    /// content.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub fnek_passphrase_file: Option<PathBuf>,
    /// The salt of the eCryptfs passphrase, if ~/.ecryptfsrc had one: 16 hexadecimal digits.
    #[arg(long, value_name = "HEX")]
    pub salt: Option<Salt>,
    /// The mount passphrase of eCryptfs is in this file, wrapped by the login passphrase: the old home's
    /// .ecryptfs/wrapped-passphrase.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub wrapped_passphrase: Option<PathBuf>,
}

impl GivenKeys {
    /// Whether any is given.
    pub fn are_given(&self) -> bool {
        self.passphrase_file.is_some() || self.key.is_some() || self.are_of_ecryptfs_only()
    }

    /// Whether one is given that no volume has.
    pub fn are_of_ecryptfs_only(&self) -> bool {
        self.fnek_passphrase_file.is_some()
            || self.salt.is_some()
            || self.wrapped_passphrase.is_some()
    }
}

/// `claviger ecryptfs …`.
#[derive(Debug, Subcommand)]
pub enum Ecryptfs {
    /// Print the header and packets of a lower file, or what a wrapped-passphrase file or an auth tok
    /// says; needs no key.
    Inspect {
        /// A lower file; a wrapped-passphrase file; the payload of a key of the kernel's keyring.
        #[arg(value_hint = ValueHint::FilePath)]
        file: PathBuf,
        /// How to print.
        #[command(flatten)]
        output: Output,
    },
    /// Look for encrypted homes and .Private folders, and say how each is opened.
    Recover {
        /// Where to look: a folder, such as the mount point of a rescued disk.
        #[arg(value_name = "DIR-OR-DISK", value_hint = ValueHint::AnyPath)]
        place: PathBuf,
        /// How to print.
        #[command(flatten)]
        output: Output,
    },
    /// Move an eCryptfs folder into a volume: copy everything, read it back, compare. Can be interrupted
    /// and run again; changes and removes nothing in OLD.
    Migrate(Migrate),
    /// Let the kernel's eCryptfs use an RSA key: log in to its token, put its auth tok into the keyring,
    /// and print the mount(8) command.
    AddKey {
        /// A PKCS#11 URI, a PEM file, a TPM key file, or an id or label from `key list`.
        key: String,
    },
}

/// `claviger ecryptfs migrate`.
#[derive(Debug, Args)]
pub struct Migrate {
    /// Mount options of the kernel's eCryptfs, as for `claviger mount`, if OLD is a lower folder that is
    /// not mounted. Those of any mount are of no effect.
    #[arg(short = 'o', value_name = "OPTS", value_delimiter = ',')]
    pub options: Vec<String>,
    /// What opens OLD, if it is a lower folder that is not mounted.
    #[command(flatten)]
    pub keys: GivenKeys,
    /// How to print.
    #[command(flatten)]
    pub output: Output,
    /// The folder where eCryptfs is mounted, or its lower folder.
    #[arg(value_hint = ValueHint::DirPath)]
    pub old: PathBuf,
    /// The mount point of a volume, an empty folder in it, or the volume's folder.
    #[arg(value_hint = ValueHint::DirPath)]
    pub new: PathBuf,
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
