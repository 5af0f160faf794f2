//! The mount options of the kernel's eCryptfs: taken apart here, handed to the filesystem in one form.

use std::path::Path;

use claviger_protocol::control::OtherKeys;
use claviger_protocol::failure::ExitCode;
use claviger_vault::ecryptfs::{KeyLen, KeySig, LowerOwner, MetadataPlace, PlainFiles, View};

use crate::Failed;

/// What stands after `-o` for a folder of eCryptfs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Options {
    /// `ecryptfs_sig`: whom new files are wrapped to.
    pub(super) sigs: Vec<KeySig>,
    /// `ecryptfs_key_bytes`.
    pub(super) key_len: Option<KeyLen>,
    /// `ecryptfs_fnek_sig`, `ecryptfs_enable_filename_crypto=n`.
    pub(super) names: NamesOption,
    /// `ecryptfs_fn_key_bytes`.
    pub(super) names_key_len: Option<KeyLen>,
    /// `ecryptfs_xattr_metadata`.
    pub(super) place: Option<MetadataPlace>,
    /// `ecryptfs_encrypted_view`.
    pub(super) view: View,
    /// `ecryptfs_passthrough`.
    pub(super) plain_files: PlainFiles,
    /// `ecryptfs_mount_auth_tok_only`.
    pub(super) others: OtherKeys,
    /// `ecryptfs_check_dev_ruid`.
    pub(super) owner: LowerOwner,
    /// Whether `ro` is among the rest.
    pub(crate) access: Access,
    /// Those of any mount.
    pub(super) rest: Vec<String>,
}

/// What is said of names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NamesOption {
    /// Nothing.
    NotSaid,
    /// They are in clear.
    Plain,
    /// They are encrypted by this key.
    Encrypted(KeySig),
}

/// What is going to be done with files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Read them.
    ReadOnly,
    /// Write them too.
    ReadWrite,
}

impl Options {
    /// None are given.
    pub(crate) fn none() -> Self {
        Self {
            sigs: Vec::new(),
            key_len: None,
            names: NamesOption::NotSaid,
            names_key_len: None,
            place: None,
            view: View::Content,
            plain_files: PlainFiles::Refused,
            others: OtherKeys::InKeyring,
            owner: LowerOwner::Anybody,
            access: Access::ReadWrite,
            rest: Vec::new(),
        }
    }

    /// Reads them, in the kernel's names and those of ecryptfs-utils' mount program. What is not of
    /// eCryptfs is for the filesystem to judge.
    ///
    /// # Errors
    /// [`Failed`] for an option of eCryptfs that is unknown, or cannot be done.
    pub(crate) fn parse(options: &[String]) -> Result<Self, Failed> {
        let mut parsed = Self::none();
        for option in options {
            match option.split_once('=') {
                Some((name, value)) => parsed.set_value(option, name, value)?,
                None => parsed.set_word(option)?,
            }
        }
        Ok(parsed)
    }

    /// For a mount to read from, at a place that only its maker enters: what else a mount may be told does
    /// not matter there.
    pub(crate) fn read_only_alone(self) -> Self {
        Self {
            access: Access::ReadOnly,
            rest: vec!["ro".into()],
            ..self
        }
    }

    /// Whether nothing is decrypted, names neither, so that no key is needed.
    pub(crate) fn shows_lower_files(&self) -> bool {
        self.view == View::Encrypted
    }

    fn set_word(&mut self, word: &str) -> Result<(), Failed> {
        match word {
            "ecryptfs_xattr_metadata" => self.place = Some(MetadataPlace::Xattr),
            "ecryptfs_encrypted_view" => self.view = View::Encrypted,
            "ecryptfs_passthrough" => self.plain_files = PlainFiles::PassedThrough,
            "ecryptfs_mount_auth_tok_only" => self.others = OtherKeys::Refused,
            "ecryptfs_check_dev_ruid" => self.owner = LowerOwner::WhoMounts,
            // A lock forgets keys, and it alone: another mount may need those of the keyring.
            "ecryptfs_unlink_sigs" => {}
            // For the mount program, which asks and remembers nothing here.
            "no_sig_cache" | "no_prompt" | "verbose" => {}
            "ro" => {
                self.access = Access::ReadOnly;
                self.rest.push(word.into());
            }
            "rw" => {
                self.access = Access::ReadWrite;
                self.rest.push(word.into());
            }
            _ if word.starts_with(PREFIX) => return Err(unknown(word)),
            _ => self.rest.push(word.into()),
        }
        Ok(())
    }

    fn set_value(&mut self, option: &str, name: &str, value: &str) -> Result<(), Failed> {
        match name {
            "ecryptfs_sig" | "sig" => self.sigs.push(sig(option, value)?),
            "ecryptfs_fnek_sig" => self.names = NamesOption::Encrypted(sig(option, value)?),
            "ecryptfs_key_bytes" => self.key_len = Some(key_len(option, value)?),
            "ecryptfs_fn_key_bytes" => self.names_key_len = Some(key_len(option, value)?),
            "ecryptfs_cipher" | "cipher" | "ecryptfs_fn_cipher" if value != "aes" => {
                return Err(cipher(value));
            }
            "ecryptfs_cipher" | "cipher" | "ecryptfs_fn_cipher" | "verbosity" => {}
            // In the mount program's form.
            "ecryptfs_passthrough" => match value {
                "y" => self.plain_files = PlainFiles::PassedThrough,
                "n" => self.plain_files = PlainFiles::Refused,
                _ => return Err(expected(option, "'y' or 'n'")),
            },
            "ecryptfs_enable_filename_crypto" => match (value, self.names) {
                ("n", _) => self.names = NamesOption::Plain,
                // By which key, another option or the folder says.
                ("y", _) => {}
                _ => return Err(expected(option, "'y' or 'n'")),
            },
            "key" => {
                // What it says may be secret.
                return Err(
                    Failed::usage("mount option 'key=' is of ecryptfs-utils").advise(
                        "Name keys by '--passphrase-file', '--wrapped-passphrase' and '--key'",
                    ),
                );
            }
            "salt" => {
                return Err(Failed::usage("mount option 'salt=' is of ecryptfs-utils")
                    .advise("Give it by '--salt'"));
            }
            "format" => {}
            _ if name.starts_with(PREFIX) => return Err(unknown(option)),
            _ => self.rest.push(option.into()),
        }
        Ok(())
    }
}

const PREFIX: &str = "ecryptfs_";

/// What is said of a cipher other than AES.
pub(super) fn cipher(name: &str) -> Failed {
    Failed::new(
        ExitCode::Unsupported,
        format!("cipher {name} is not supported, only aes"),
    )
    .advise("Mount it with the kernel's eCryptfs, and copy the files out of it")
}

/// Refuses a lower folder that the caller does not own, if the options ask for that.
pub(super) fn check_owner(owner: LowerOwner, dir: &Path) -> Result<(), Failed> {
    use std::os::unix::fs::MetadataExt;

    if owner == LowerOwner::Anybody {
        return Ok(());
    }
    let metadata = std::fs::metadata(dir).map_err(|error| Failed::file(dir, &error))?;
    let uid = metadata.uid();
    if uid == nix::unistd::Uid::current().as_raw() {
        return Ok(());
    }
    let what = format!("{} belongs to uid {uid}", dir.display());
    Err(Failed::new(ExitCode::Permission, what)
        .advise("'ecryptfs_check_dev_ruid' lets its owner mount it only"))
}

fn sig(option: &str, value: &str) -> Result<KeySig, Failed> {
    let digits = value.as_bytes().try_into().ok();
    digits
        .and_then(KeySig::from_hex)
        .ok_or_else(|| expected(option, "16 lower-case hexadecimal digits"))
}

fn key_len(option: &str, value: &str) -> Result<KeyLen, Failed> {
    let mut lens = KeyLen::ALL.into_iter();
    lens.find(|len| len.bytes().to_string() == value)
        .ok_or_else(|| expected(option, "16, 24 or 32"))
}

fn expected(option: &str, expected: &str) -> Failed {
    Failed::usage(format!("mount option '{option}': expected {expected}"))
}

fn unknown(option: &str) -> Failed {
    Failed::usage(format!("unknown mount option '{option}'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Options, String> {
        let options: Vec<String> = text.split(',').map(str::to_owned).collect();
        Options::parse(&options).map_err(|failed| failed.to_string())
    }

    fn sig_of(text: &str) -> KeySig {
        sig("", text).unwrap()
    }

    #[test]
    fn the_kernels_options_and_those_of_any_mount_are_told_apart() {
        let parsed = parse(
            "noexec,ecryptfs_sig=f2291ce4c3069633,sig=f84a2048a4c40079,ecryptfs_cipher=aes,\
             ecryptfs_key_bytes=32,ecryptfs_fnek_sig=9e677d297b65a19b,ecryptfs_fn_cipher=aes,\
             ecryptfs_fn_key_bytes=24,ecryptfs_xattr_metadata,ecryptfs_passthrough,\
             ecryptfs_encrypted_view,ecryptfs_mount_auth_tok_only,ecryptfs_check_dev_ruid,ro,fsname=x",
        );
        let expected = Options {
            sigs: vec![sig_of("f2291ce4c3069633"), sig_of("f84a2048a4c40079")],
            key_len: Some(KeyLen::Aes256),
            names: NamesOption::Encrypted(sig_of("9e677d297b65a19b")),
            names_key_len: Some(KeyLen::Aes192),
            place: Some(MetadataPlace::Xattr),
            view: View::Encrypted,
            plain_files: PlainFiles::PassedThrough,
            others: OtherKeys::Refused,
            owner: LowerOwner::WhoMounts,
            access: Access::ReadOnly,
            rest: vec!["noexec".into(), "ro".into(), "fsname=x".into()],
        };
        assert_eq!(parsed, Ok(expected));
    }

    #[test]
    fn what_needs_no_doing_is_accepted() {
        let parsed = parse(
            "ecryptfs_unlink_sigs,no_sig_cache,no_prompt,verbosity=0,verbose,ecryptfs_passthrough=n",
        );
        assert_eq!(parsed, Ok(Options::none()));
    }

    #[test]
    fn of_a_mount_to_read_from_the_options_of_any_mount_do_not_matter() {
        let given = parse("rw,allow_other,ecryptfs_xattr_metadata,ecryptfs_sig=f2291ce4c3069633");
        let expected = parse("ecryptfs_xattr_metadata,ecryptfs_sig=f2291ce4c3069633,ro");
        assert_eq!(given.map(Options::read_only_alone), expected);
    }

    #[test]
    fn what_is_unknown_or_cannot_be_done_is_named() {
        for (text, said) in [
            ("ecryptfs_hmac", "unknown mount option 'ecryptfs_hmac'"),
            ("ecryptfs_x=1", "unknown mount option 'ecryptfs_x=1'"),
            ("ecryptfs_key_bytes=17", "expected 16, 24 or 32"),
            ("ecryptfs_sig=F2291CE4C3069633", "16 lower-case"),
            ("ecryptfs_sig=12", "16 lower-case"),
            ("ecryptfs_cipher=twofish", "cipher twofish is not supported"),
            ("key=passphrase:x=y", "--passphrase-file"),
            ("salt=00", "--salt"),
        ] {
            let failed = parse(text).unwrap_err();
            assert!(failed.contains(said), "{failed}");
        }
    }

    #[test]
    fn a_folder_of_somebody_else_is_refused_where_that_is_asked_for() {
        let own = tempfile::tempdir().unwrap();
        check_owner(LowerOwner::WhoMounts, own.path()).unwrap();
        std::os::unix::fs::chown(own.path(), Some(4711), None).unwrap();
        check_owner(LowerOwner::Anybody, own.path()).unwrap();
        let refused = check_owner(LowerOwner::WhoMounts, own.path()).unwrap_err();
        assert_eq!(refused.code(), ExitCode::Permission);
    }
}
