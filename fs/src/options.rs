//! What stands after `-o`: parsed once, into choices with names.
//!
//! An option that is not known is an error that names it: a mount that quietly ignores `noexec`, or
//! what somebody took for it, is worse than none.

use std::path::PathBuf;

use claviger_callout::Transport;
use claviger_protocol::control::{FolderFormat, UnknownFormat};
use claviger_vault::ecryptfs::{MountOptionError, MountOptions, View};
use nix::mount::MsFlags;

/// How a volume is to be mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// `ro`, `nosuid`, `nodev`, `noexec`, `noatime`, as mount(2) takes them. Set-uid programs and
    /// devices are off unless root asks for them.
    pub flags: MsFlags,
    /// Who the kernel lets in.
    pub audience: Audience,
    /// The carriers on which daemons may register.
    pub transport: Transport,
    /// Whether the kernel keeps decrypted pages.
    pub caching: Caching,
    /// `fsname=`: the device column of mount tables; the lower folder if absent.
    pub source_name: Option<String>,
    /// `log=`: where the log goes once in the background.
    pub log: Option<PathBuf>,
    /// `format=`: what the lower folder is.
    pub format: FormatOption,
}

/// What a lower folder is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FormatOption {
    /// A volume of Claviger's.
    Native,
    /// A folder of eCryptfs, and how it is mounted.
    Ecryptfs(MountOptions),
}

impl FormatOption {
    /// Which of the two it is.
    pub fn kind(&self) -> FolderFormat {
        match self {
            Self::Native => FolderFormat::Native,
            Self::Ecryptfs(_) => FolderFormat::Ecryptfs,
        }
    }
}

/// Who the kernel lets into the mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// Only who mounted it.
    Owner,
    /// Everybody, as far as modes and owners of the files allow.
    Everyone,
}

/// Whether the kernel keeps decrypted pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caching {
    /// In its page cache, as of any other file.
    Kept,
    /// `direct_io`: not at all; each read(2) is decrypted anew.
    DirectIo,
}

/// Why what stands after `-o` is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    /// No such option.
    #[error("unknown mount option '{0}'")]
    Unknown(String),
    /// It is mounted already, by another process.
    #[error(
        "a mount is not changed through its filesystem: as root, 'mount -i -o remount,…' changes what the kernel \
         checks, such as ro and noexec; for anything else unmount it first"
    )]
    Remount,
    /// The option does not take this value.
    #[error("mount option '{option}={value}': expected {expected}")]
    Value {
        /// The option's name.
        option: &'static str,
        /// What stands after its equals sign.
        value: String,
        /// What may stand there.
        expected: &'static str,
    },
    /// `format=` does not take this value.
    #[error(transparent)]
    Format(#[from] UnknownFormat),
    /// One of eCryptfs' options is refused.
    #[error(transparent)]
    Ecryptfs(#[from] MountOptionError),
    /// Of eCryptfs, nobody is named whom new files could be wrapped to.
    #[error("mount option 'ecryptfs_sig=' is missing: it names the key that new files are for")]
    NoRecipient,
    /// The option weakens the machine, and the caller is not root.
    #[error("only root may mount with '{0}'")]
    OnlyRoot(&'static str),
}

impl Default for Options {
    fn default() -> Self {
        Self {
            flags: MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
            audience: Audience::Owner,
            transport: Transport::Auto,
            caching: Caching::Kept,
            source_name: None,
            log: None,
            format: FormatOption::Native,
        }
    }
}

impl Options {
    /// Parses a comma-separated list; later options override earlier ones, as in mount(8).
    ///
    /// # Errors
    /// [`OptionError`] for the first option that is not understood.
    pub fn parse(text: &str) -> Result<Self, OptionError> {
        let mut options = Self::default();
        let all = || text.split(',').filter(|option| !option.is_empty());
        // First: it says what the others may be.
        if FolderFormat::of_options(all())? == Some(FolderFormat::Ecryptfs) {
            options.format = FormatOption::Ecryptfs(MountOptions::default());
        }
        for option in all() {
            options.set(option)?;
        }
        if let FormatOption::Ecryptfs(of_format) = &options.format {
            if of_format.view == View::Encrypted {
                options.flags |= MsFlags::MS_RDONLY;
            }
            if of_format.sigs.is_empty() && !options.flags.contains(MsFlags::MS_RDONLY) {
                return Err(OptionError::NoRecipient);
            }
        }
        Ok(options)
    }

    /// Refuses what only root may ask for.
    ///
    /// # Errors
    /// [`OptionError::OnlyRoot`].
    pub fn check_unprivileged(&self) -> Result<(), OptionError> {
        for (flag, option) in [(MsFlags::MS_NOSUID, "suid"), (MsFlags::MS_NODEV, "dev")] {
            if !self.flags.contains(flag) {
                return Err(OptionError::OnlyRoot(option));
            }
        }
        Ok(())
    }

    fn set(&mut self, option: &str) -> Result<(), OptionError> {
        if let FormatOption::Ecryptfs(options) = &mut self.format {
            match options.set(option) {
                // One of any mount, perhaps.
                Err(MountOptionError::Unknown(_)) if !option.starts_with("ecryptfs_") => (),
                set => return Ok(set?),
            }
        }
        match option.split_once('=') {
            Some((name, value)) => self.set_value(name, value),
            None => self.set_word(option),
        }
    }

    fn set_word(&mut self, word: &str) -> Result<(), OptionError> {
        match word {
            "ro" => self.flags |= MsFlags::MS_RDONLY,
            "rw" => self.flags -= MsFlags::MS_RDONLY,
            "nosuid" => self.flags |= MsFlags::MS_NOSUID,
            "suid" => self.flags -= MsFlags::MS_NOSUID,
            "nodev" => self.flags |= MsFlags::MS_NODEV,
            "dev" => self.flags -= MsFlags::MS_NODEV,
            "noexec" => self.flags |= MsFlags::MS_NOEXEC,
            "exec" => self.flags -= MsFlags::MS_NOEXEC,
            "noatime" => self.flags |= MsFlags::MS_NOATIME,
            "atime" | "relatime" => self.flags -= MsFlags::MS_NOATIME,
            "allow_other" => self.audience = Audience::Everyone,
            "direct_io" => self.caching = Caching::DirectIo,
            // Always on: with it the kernel checks modes itself, and sends no ACCESS request.
            "default_permissions" => (),
            // For mount(8), systemd and people: they say when to mount, or who may.
            "defaults" | "async" | "auto" | "noauto" | "nofail" | "user" | "nouser" | "users"
            | "owner" | "group" | "_netdev" => (),
            "remount" => return Err(OptionError::Remount),
            _ if word.starts_with("x-") || word.starts_with("X-") => (),
            _ => return Err(OptionError::Unknown(word.into())),
        }
        Ok(())
    }

    fn set_value(&mut self, name: &str, value: &str) -> Result<(), OptionError> {
        let expected = |option, expected| OptionError::Value {
            option,
            value: value.into(),
            expected,
        };
        match name {
            "transport" => {
                self.transport = match value {
                    "auto" => Transport::Auto,
                    "netlink" => Transport::Netlink,
                    "unix" => Transport::Unix,
                    _ => return Err(expected("transport", "auto, netlink or unix")),
                }
            }
            "fsname" if value.is_empty() => return Err(expected("fsname", "a name")),
            "fsname" => self.source_name = Some(value.into()),
            "log" => {
                let path = PathBuf::from(value);
                if !path.is_absolute() {
                    return Err(expected("log", "an absolute path"));
                }
                self.log = Some(path);
            }
            "format" => (),
            "subtype" if value == "claviger" => (),
            "subtype" => return Err(expected("subtype", "claviger")),
            "user" | "comment" => (),
            _ if name.starts_with("x-") || name.starts_with("X-") => (),
            // What it says may be secret.
            _ => return Err(OptionError::Unknown(format!("{name}="))),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use claviger_vault::ecryptfs::PlainFiles;

    use super::*;

    fn with(change: impl FnOnce(&mut Options)) -> Result<Options, OptionError> {
        let mut options = Options::default();
        change(&mut options);
        Ok(options)
    }

    #[test]
    fn each_option_sets_what_it_names_and_nothing_else() {
        let table = [
            ("", with(|_| ())),
            ("ro", with(|o| o.flags |= MsFlags::MS_RDONLY)),
            ("ro,rw", with(|_| ())),
            ("noexec", with(|o| o.flags |= MsFlags::MS_NOEXEC)),
            ("noexec,exec", with(|_| ())),
            ("suid", with(|o| o.flags -= MsFlags::MS_NOSUID)),
            ("dev", with(|o| o.flags -= MsFlags::MS_NODEV)),
            ("dev,nodev,suid,nosuid", with(|_| ())),
            ("noatime", with(|o| o.flags |= MsFlags::MS_NOATIME)),
            ("allow_other", with(|o| o.audience = Audience::Everyone)),
            ("direct_io", with(|o| o.caching = Caching::DirectIo)),
            ("transport=unix", with(|o| o.transport = Transport::Unix)),
            (
                "transport=netlink",
                with(|o| o.transport = Transport::Netlink),
            ),
            ("transport=unix,transport=auto", with(|_| ())),
            ("fsname=home", with(|o| o.source_name = Some("home".into()))),
            (
                "log=/var/log/x",
                with(|o| o.log = Some("/var/log/x".into())),
            ),
            ("subtype=claviger,default_permissions", with(|_| ())),
            ("defaults,nofail,noauto,_netdev,user,user=ann", with(|_| ())),
            (
                "x-systemd.automount,x-gvfs-name=Work,X-mount.mkdir",
                with(|_| ()),
            ),
            ("format=native", with(|_| ())),
            ("format=ecryptfs,format=native", with(|_| ())),
            (
                "ecryptfs_passthrough,format=ecryptfs,ecryptfs_unlink_sigs,ro",
                with(|o| {
                    o.flags |= MsFlags::MS_RDONLY;
                    o.format = FormatOption::Ecryptfs(MountOptions {
                        plain_files: PlainFiles::PassedThrough,
                        ..MountOptions::default()
                    });
                }),
            ),
            (
                "format=ecryptfs,ecryptfs_encrypted_view,rw",
                with(|o| {
                    o.flags |= MsFlags::MS_RDONLY;
                    o.format = FormatOption::Ecryptfs(MountOptions {
                        view: View::Encrypted,
                        ..MountOptions::default()
                    });
                }),
            ),
        ];
        for (text, expected) in table {
            assert_eq!(Options::parse(text), expected, "-o {text}");
        }
    }

    #[test]
    fn what_is_not_understood_is_named_in_the_error() {
        let table = [
            ("ro,shiny", "unknown mount option 'shiny'"),
            ("shiny=1", "unknown mount option 'shiny='"),
            (
                "ro,remount",
                "a mount is not changed through its filesystem: as root, 'mount -i -o remount,…' changes what the \
                 kernel checks, such as ro and noexec; for anything else unmount it first",
            ),
            ("ro=1", "unknown mount option 'ro='"),
            ("transport", "unknown mount option 'transport'"),
            (
                "transport=tcp",
                "mount option 'transport=tcp': expected auto, netlink or unix",
            ),
            (
                "subtype=ext4",
                "mount option 'subtype=ext4': expected claviger",
            ),
            ("fsname=", "mount option 'fsname=': expected a name"),
            (
                "format=zip",
                "mount option 'format=zip': expected native or ecryptfs",
            ),
            (
                "ecryptfs_passthrough",
                "unknown mount option 'ecryptfs_passthrough'",
            ),
            (
                "format=ecryptfs,sig=f2291ce4c3069633,shiny",
                "unknown mount option 'shiny'",
            ),
            (
                "format=ecryptfs,noexec",
                "mount option 'ecryptfs_sig=' is missing: it names the key that new files are for",
            ),
            (
                "format=ecryptfs,ecryptfs_hmac",
                "unknown mount option 'ecryptfs_hmac'",
            ),
            (
                "log=fs.log",
                "mount option 'log=fs.log': expected an absolute path",
            ),
        ];
        for (text, expected) in table {
            let error = Options::parse(text).unwrap_err();
            assert_eq!(error.to_string(), expected, "-o {text}");
        }
    }

    #[test]
    fn only_root_turns_on_set_uid_programs_and_devices() {
        for (text, option) in [("suid", "suid"), ("dev", "dev")] {
            let options = Options::parse(text).unwrap();
            assert_eq!(
                options.check_unprivileged(),
                Err(OptionError::OnlyRoot(option))
            );
        }
        assert_eq!(Options::default().check_unprivileged(), Ok(()));
    }
}
