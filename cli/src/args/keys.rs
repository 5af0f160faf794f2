//! `claviger token`, `key` and `recipient`.

use std::ffi::OsStr;
use std::path::PathBuf;

use clap::builder::{NonEmptyStringValueParser, PossibleValue, TypedValueParser};
use clap::{Arg, Args, Subcommand, ValueEnum, ValueHint};

use super::Output;

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
