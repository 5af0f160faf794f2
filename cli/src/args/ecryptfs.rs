//! What a folder holds, what opens one of eCryptfs, and `claviger ecryptfs`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum, ValueHint};
use claviger_protocol::control::FolderFormat;
use claviger_vault::ecryptfs::Salt;

use super::Output;

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
