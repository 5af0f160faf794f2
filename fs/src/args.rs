//! The command line, in its two forms.
//!
//! ```text
//! claviger-fs DIR MNT [-o OPTIONS] [-f | --check]
//! mount.fuse.claviger DIR MNT [-o OPTIONS] [-sfnv] [-N NAMESPACE] [-t TYPE]
//! ```
//!
//! The second is how mount(8) starts a helper, and what the first becomes under a name that begins
//! with `mount.`; there `-f` means *fake*, and the exit codes are those of mount(8).

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use claviger_protocol::failure::ExitCode;

use crate::options::{OptionError, Options};

/// One mount to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Args {
    /// The lower folder.
    pub lower: PathBuf,
    /// Where its plaintext shall appear.
    pub mountpoint: PathBuf,
    /// What stood after `-o`.
    pub options: Options,
    /// What becomes of the process.
    pub stay: Stay,
}

/// What becomes of the process that was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stay {
    /// It ends when the mount answers; another process serves it.
    Background,
    /// `-f`: it serves the mount and logs to standard error.
    Foreground,
    /// [`DETACHED`]: it serves the mount, and reports to standard output how that began.
    Detached,
    /// `--check`, mount(8) `-f`: everything but mounting.
    Fake,
}

/// Tells the process that goes to the background that it is the one; not for people.
pub const DETACHED: &str = "--detached";

/// Whose rules the command line and the exit code follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// `claviger-fs`.
    Own,
    /// A helper of mount(8).
    MountHelper,
}

/// Why the command line is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArgsError {
    /// It has too few or too many words.
    #[error("usage: claviger-fs DIR MOUNTPOINT [-o OPTIONS] [-f | --check]")]
    Usage,
    /// No such flag.
    #[error("unknown flag '{0}'\nusage: claviger-fs DIR MOUNTPOINT [-o OPTIONS] [-f | --check]")]
    Flag(String),
    /// The mount options.
    #[error(transparent)]
    Options(#[from] OptionError),
    /// The mount options are bytes that are no text.
    #[error("mount options are not UTF-8")]
    NotText,
}

impl Dialect {
    /// Goes by the name that the program was started under.
    pub fn of(program: &OsStr) -> Self {
        let name = Path::new(program).file_name().unwrap_or_default();
        if name.as_encoded_bytes().starts_with(b"mount.") {
            return Self::MountHelper;
        }
        Self::Own
    }

    /// The exit status: mount(8) has its own, 1 for wrong use or permissions and 32 for the rest.
    pub fn status(self, code: ExitCode) -> u8 {
        match (self, code) {
            (Self::Own, code) => code as u8,
            (Self::MountHelper, ExitCode::Ok) => 0,
            (Self::MountHelper, ExitCode::Usage | ExitCode::Permission) => 1,
            (Self::MountHelper, _) => 32,
        }
    }
}

impl Args {
    /// Parses what follows the program's name; flags and paths come in any order.
    ///
    /// # Errors
    /// [`ArgsError`].
    pub fn parse(
        dialect: Dialect,
        words: impl IntoIterator<Item = OsString>,
    ) -> Result<Self, ArgsError> {
        let mut words = words.into_iter();
        let mut paths = Vec::new();
        let mut options = String::new();
        let mut stay = Stay::Background;
        while let Some(word) = words.next() {
            let Some(flag) = word.to_str().filter(|word| word.starts_with('-')) else {
                paths.push(PathBuf::from(word));
                continue;
            };
            match (dialect, flag) {
                (_, DETACHED) => stay = Stay::Detached,
                (_, "-o") => push_options(&mut options, words.next())?,
                (Dialect::Own, "-f") => stay = Stay::Foreground,
                (Dialect::Own, "--check") => stay = Stay::Fake,
                (Dialect::MountHelper, "-N" | "-t") => drop(words.next()),
                (Dialect::MountHelper, _) => stay = helper_flags(flag, stay)?,
                (Dialect::Own, _) => return Err(ArgsError::Flag(flag.into())),
            }
        }
        let [lower, mountpoint]: [PathBuf; 2] = paths.try_into().map_err(|_| ArgsError::Usage)?;
        Ok(Self {
            lower,
            mountpoint,
            options: Options::parse(&options)?,
            stay,
        })
    }
}

fn push_options(options: &mut String, more: Option<OsString>) -> Result<(), ArgsError> {
    let more = more.ok_or(ArgsError::Usage)?;
    options.push_str(more.to_str().ok_or(ArgsError::NotText)?);
    options.push(',');
    Ok(())
}

/// `-s` sloppy, `-f` fake, `-n` no mtab, `-v` verbose, alone or together as libmount writes them.
fn helper_flags(flags: &str, stay: Stay) -> Result<Stay, ArgsError> {
    let mut stay = stay;
    for letter in flags.chars().skip(1) {
        match letter {
            'f' => stay = Stay::Fake,
            's' | 'n' | 'v' => (),
            _ => return Err(ArgsError::Flag(flags.into())),
        }
    }
    Ok(stay)
}

#[cfg(test)]
mod tests {
    use nix::mount::MsFlags;

    use super::*;

    fn parse(dialect: Dialect, line: &str) -> Result<Args, ArgsError> {
        Args::parse(dialect, line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn flags_and_paths_come_in_any_order_and_options_add_up() {
        let args = parse(Dialect::Own, "-f -o ro /low /mnt -o noexec").unwrap();
        assert_eq!(args.lower, Path::new("/low"));
        assert_eq!(args.mountpoint, Path::new("/mnt"));
        assert_eq!(args.stay, Stay::Foreground);
        let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOEXEC;
        assert!(args.options.flags.contains(flags));
    }

    #[test]
    fn mount_8_means_fake_by_f_and_its_other_flags_do_nothing() {
        let args = parse(
            Dialect::MountHelper,
            "/low /mnt -sn -N 7 -o rw,nofail -t fuse.claviger",
        );
        assert_eq!(args.unwrap().stay, Stay::Background);
        let fake = parse(Dialect::MountHelper, "/low /mnt -fv");
        assert_eq!(fake.unwrap().stay, Stay::Fake);
    }

    #[test]
    fn a_line_that_is_not_understood_is_refused_and_says_why() {
        let refused = |line| parse(Dialect::Own, line).unwrap_err();
        assert_eq!(refused("/low"), ArgsError::Usage);
        assert_eq!(refused("/low /mnt /more"), ArgsError::Usage);
        assert_eq!(refused("/low /mnt -o"), ArgsError::Usage);
        assert_eq!(refused("/low /mnt -x"), ArgsError::Flag("-x".into()));
        assert_eq!(
            refused("/low /mnt -o shiny").to_string(),
            "unknown mount option 'shiny'"
        );
    }

    #[test]
    fn the_name_of_the_program_chooses_the_dialect_and_its_exit_codes() {
        let helper = Dialect::of(OsStr::new("/sbin/mount.fuse.claviger"));
        assert_eq!(helper, Dialect::MountHelper);
        assert_eq!(helper.status(ExitCode::Ok), 0);
        assert_eq!(helper.status(ExitCode::Usage), 1);
        assert_eq!(helper.status(ExitCode::BadMountpoint), 32);
        let own = Dialect::of(OsStr::new("claviger-fs"));
        assert_eq!(own, Dialect::Own);
        assert_eq!(own.status(ExitCode::BadMountpoint), 10);
    }
}
