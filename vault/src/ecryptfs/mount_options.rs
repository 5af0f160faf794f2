//! The mount options of the kernel's eCryptfs that a mount goes by, in the kernel's names.

use core::fmt;

use super::cipher::KeyLen;
use super::header::MetadataPlace;
use super::key_sig::KeySig;

/// How a folder is mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountOptions {
    /// `ecryptfs_sig`: whom new files are wrapped to, in this order.
    pub sigs: Vec<KeySig>,
    /// `ecryptfs_key_bytes`: the length of new files' FEKs. The kernel wants it said; without it, 16 as the
    /// mount program of ecryptfs-utils has it.
    pub key_len: KeyLen,
    /// `ecryptfs_fnek_sig`: what encrypts names; `None` leaves them in clear.
    pub fnek: Option<KeySig>,
    /// `ecryptfs_fn_key_bytes`: that of content if it is not said.
    pub fnek_len: Option<KeyLen>,
    /// `ecryptfs_xattr_metadata`: where new files have their header.
    pub place: MetadataPlace,
    /// `ecryptfs_encrypted_view`: what a mount shows of files.
    pub view: View,
    /// `ecryptfs_passthrough`: what is done with lower files that are not of eCryptfs.
    pub plain_files: PlainFiles,
    /// `ecryptfs_check_dev_ruid`: whom the lower folder may belong to.
    pub owner: LowerOwner,
}

/// Whom the lower folder may belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LowerOwner {
    /// Anybody.
    Anybody,
    /// Who mounts it.
    WhoMounts,
}

/// What a mount shows of files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// Their content.
    Content,
    /// The lower files, as a backup would take them: header first. Read-only, and without a key.
    Encrypted,
}

/// What is done with lower files that are not of eCryptfs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlainFiles {
    /// They do not open.
    Refused,
    /// They are read and written as they are.
    PassedThrough,
}

/// What stands after `-o` and is not understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MountOptionError {
    /// No such option.
    #[error("unknown mount option '{0}'")]
    Unknown(String),
    /// The option does not take this value.
    #[error("mount option '{option}': expected {expected}")]
    Value {
        /// As it stands there.
        option: String,
        /// What it takes.
        expected: &'static str,
    },
    /// A key or a salt, as the mount program of ecryptfs-utils takes it. What it says may be secret.
    #[error(
        "mount option '{0}=' is of ecryptfs-utils' mount program, and keys are no mount options here: name them when you unlock the folder"
    )]
    OfMountProgram(&'static str),
    /// One of the kernel's ciphers other than AES.
    #[error(
        "cipher {0} is not supported, only aes: mount it with the kernel, and copy the files out"
    )]
    Cipher(String),
}

impl Default for MountOptions {
    fn default() -> Self {
        Self {
            sigs: Vec::new(),
            key_len: KeyLen::Aes128,
            fnek: None,
            fnek_len: None,
            place: MetadataPlace::Header,
            view: View::Content,
            plain_files: PlainFiles::Refused,
            owner: LowerOwner::Anybody,
        }
    }
}

impl MountOptions {
    /// Takes up one option of the kernel's, or of the mount program of ecryptfs-utils, from whose lines in
    /// fstab(5) people come. Those that say how keys are looked for, what is asked, or what is done at
    /// unmounting are accepted and mean nothing here.
    ///
    /// # Errors
    /// [`MountOptionError`]; of an option that may be of any filesystem, [`MountOptionError::Unknown`].
    pub fn set(&mut self, option: &str) -> Result<(), MountOptionError> {
        let (name, value) = match option.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (option, None),
        };
        match (name, value) {
            ("ecryptfs_sig" | "sig", Some(value)) => self.sigs.push(sig(option, value)?),
            ("ecryptfs_fnek_sig", Some(value)) => self.fnek = Some(sig(option, value)?),
            ("ecryptfs_key_bytes", Some(value)) => self.key_len = key_len(option, value)?,
            ("ecryptfs_fn_key_bytes", Some(value)) => {
                self.fnek_len = Some(key_len(option, value)?);
            }
            ("ecryptfs_cipher" | "cipher" | "ecryptfs_fn_cipher", Some("aes")) => {}
            ("ecryptfs_cipher" | "cipher" | "ecryptfs_fn_cipher", Some(cipher)) => {
                return Err(MountOptionError::Cipher(cipher.into()));
            }
            ("ecryptfs_xattr_metadata", None) => self.place = MetadataPlace::Xattr,
            ("ecryptfs_encrypted_view", None) => self.view = View::Encrypted,
            ("ecryptfs_passthrough", None | Some("y")) => {
                self.plain_files = PlainFiles::PassedThrough;
            }
            ("ecryptfs_passthrough", Some("n")) => self.plain_files = PlainFiles::Refused,
            ("ecryptfs_check_dev_ruid", None) => self.owner = LowerOwner::WhoMounts,
            // By which key, `ecryptfs_fnek_sig` says.
            ("ecryptfs_enable_filename_crypto", Some("y")) => {}
            ("ecryptfs_enable_filename_crypto", Some("n")) => self.fnek = None,
            ("ecryptfs_passthrough" | "ecryptfs_enable_filename_crypto", Some(_)) => {
                return Err(expected(option, "'y' or 'n'"));
            }
            ("ecryptfs_unlink_sigs" | "ecryptfs_mount_auth_tok_only", None)
            | ("no_sig_cache" | "no_prompt" | "verbose", None)
            | ("verbosity", Some(_)) => {}
            ("key", Some(_)) => return Err(MountOptionError::OfMountProgram("key")),
            ("salt", Some(_)) => return Err(MountOptionError::OfMountProgram("salt")),
            // What it says may be secret.
            (_, Some(_)) => return Err(MountOptionError::Unknown(format!("{name}="))),
            (_, None) => return Err(MountOptionError::Unknown(option.into())),
        }
        Ok(())
    }

    /// How long the key is that encrypts names.
    pub fn names_key_len(&self) -> KeyLen {
        self.fnek_len.unwrap_or(self.key_len)
    }
}

/// As they stand after `-o`, with commas between them.
impl fmt::Display for MountOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for sig in &self.sigs {
            write!(f, "ecryptfs_sig={sig},")?;
        }
        write!(f, "ecryptfs_key_bytes={}", self.key_len.bytes())?;
        if let Some(fnek) = self.fnek {
            let len = self.names_key_len().bytes();
            write!(f, ",ecryptfs_fnek_sig={fnek},ecryptfs_fn_key_bytes={len}")?;
        }
        let words = [
            (self.place == MetadataPlace::Xattr).then_some("ecryptfs_xattr_metadata"),
            (self.view == View::Encrypted).then_some("ecryptfs_encrypted_view"),
            (self.plain_files == PlainFiles::PassedThrough).then_some("ecryptfs_passthrough"),
            (self.owner == LowerOwner::WhoMounts).then_some("ecryptfs_check_dev_ruid"),
        ];
        for word in words.into_iter().flatten() {
            write!(f, ",{word}")?;
        }
        Ok(())
    }
}

fn sig(option: &str, value: &str) -> Result<KeySig, MountOptionError> {
    let digits = value.as_bytes().try_into().ok();
    let expected = || expected(option, "16 lower-case hexadecimal digits");
    digits.and_then(KeySig::from_hex).ok_or_else(expected)
}

fn key_len(option: &str, value: &str) -> Result<KeyLen, MountOptionError> {
    let mut lens = KeyLen::ALL.into_iter();
    lens.find(|len| len.bytes().to_string() == value)
        .ok_or_else(|| expected(option, "16, 24 or 32"))
}

fn expected(option: &str, expected: &'static str) -> MountOptionError {
    MountOptionError::Value {
        option: option.into(),
        expected,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<MountOptions, MountOptionError> {
        let mut options = MountOptions::default();
        text.split(',').try_for_each(|option| options.set(option))?;
        Ok(options)
    }

    #[test]
    fn options_print_as_they_are_read() {
        for text in [
            "ecryptfs_sig=f2291ce4c3069633,ecryptfs_key_bytes=16",
            "ecryptfs_sig=f2291ce4c3069633,ecryptfs_sig=f84a2048a4c40079,ecryptfs_key_bytes=32,\
             ecryptfs_fnek_sig=9e677d297b65a19b,ecryptfs_fn_key_bytes=24,ecryptfs_xattr_metadata,\
             ecryptfs_encrypted_view,ecryptfs_passthrough,ecryptfs_check_dev_ruid",
        ] {
            assert_eq!(parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn names_are_encrypted_by_a_key_as_long_as_that_of_content_unless_said_otherwise() {
        let options = parse("ecryptfs_key_bytes=24,ecryptfs_fnek_sig=9e677d297b65a19b").unwrap();
        assert_eq!(options.names_key_len(), KeyLen::Aes192);
    }

    #[test]
    fn what_needs_no_doing_is_accepted() {
        let text = "ecryptfs_cipher=aes,ecryptfs_fn_cipher=aes,ecryptfs_unlink_sigs,\
                    ecryptfs_mount_auth_tok_only,no_sig_cache,no_prompt,verbose,verbosity=1";
        assert_eq!(parse(text), Ok(MountOptions::default()));
    }

    #[test]
    fn the_mount_programs_words_mean_what_they_mean_there() {
        let kernels = "ecryptfs_sig=f2291ce4c3069633,ecryptfs_cipher=aes,ecryptfs_passthrough";
        let theirs = "sig=f2291ce4c3069633,cipher=aes,ecryptfs_passthrough=y,\
                      ecryptfs_enable_filename_crypto=n";
        assert_eq!(parse(theirs), parse(kernels));
        let names = "ecryptfs_enable_filename_crypto=y,ecryptfs_fnek_sig=9e677d297b65a19b";
        assert_eq!(parse(names), parse("ecryptfs_fnek_sig=9e677d297b65a19b"));
        let undone = "ecryptfs_passthrough,ecryptfs_passthrough=n";
        assert_eq!(parse(undone), Ok(MountOptions::default()));
    }

    #[test]
    fn an_option_that_holds_a_secret_is_refused_without_repeating_it() {
        for option in ["key=passphrase:passphrase_passwd=tulip", "salt=tulip"] {
            let error = parse(option).unwrap_err().to_string();
            assert!(error.contains("is of ecryptfs-utils"), "{error}");
            assert!(!error.contains("tulip"), "{error}");
        }
    }

    #[test]
    fn what_is_unknown_or_cannot_be_done_is_named() {
        for (option, said) in [
            ("ecryptfs_hmac", "unknown mount option 'ecryptfs_hmac'"),
            ("ecryptfs_sig", "unknown mount option 'ecryptfs_sig'"),
            (
                "ecryptfs_sig=F2291CE4C3069633",
                "16 lower-case hexadecimal digits",
            ),
            ("ecryptfs_key_bytes=17", "16, 24 or 32"),
            ("ecryptfs_cipher=twofish", "cipher twofish is not supported"),
            ("ecryptfs_passthrough=x", "expected 'y' or 'n'"),
            ("noexec", "unknown mount option 'noexec'"),
        ] {
            let error = parse(option).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }
}
