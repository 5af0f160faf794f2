//! What a key is used for, and for whom: what prompts and audit lines tell.

use std::fmt;
use std::fs;
use std::path::PathBuf;

use claviger_vault::ids::VolumeId;

/// One use of a key.
#[derive(Clone, Debug)]
pub struct Errand {
    /// The volume it is about, if any.
    pub volume: Option<VolumeName>,
    /// The file's path below the lower root, as the requester gave it: not trusted.
    pub lower_path: Option<String>,
    /// Who asked.
    pub program: Program,
}

/// A volume, as it is named to people.
#[derive(Clone, Debug)]
pub struct VolumeName {
    /// Its id.
    pub id: VolumeId,
    /// Its lower folder.
    pub dir: PathBuf,
    /// Whether `known_volumes` has it.
    pub standing: Standing,
}

/// Whether this machine has seen a volume before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is in `known_volumes`.
    Known,
    /// It is not: whoever made the folder may have chosen everything in it.
    Unknown,
    /// It is no volume but a folder of eCryptfs, in which nothing could be known again.
    Ecryptfs,
}

/// The program that asked, as far as a pid can tell.
///
/// A pid proves nothing: processes end and numbers come back, and across pid namespaces they are not
/// translated. It is told to people and to the log, marked so, and nothing is decided by it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// Process id as reported.
    pub pid: u32,
    /// Its executable, or its command name in brackets where that cannot be read.
    pub name: Option<String>,
}

impl Program {
    /// Looks `pid` up in /proc.
    pub fn of_pid(pid: u32) -> Self {
        let exe = fs::read_link(format!("/proc/{pid}/exe"));
        let name = match exe {
            Ok(path) => Some(path.to_string_lossy().into_owned()),
            Err(_) => fs::read_to_string(format!("/proc/{pid}/comm"))
                .ok()
                .map(|comm| format!("[{}]", comm.trim_end())),
        };
        Self { pid, name }
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name.as_deref().unwrap_or("a program");
        // Names of files are chosen by others: nothing in them may steer a terminal.
        for c in name.chars().filter(|c| !c.is_control()) {
            fmt::Write::write_char(f, c)?;
        }
        write!(f, " (process {})", self.pid)
    }
}

impl fmt::Display for Errand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(volume) = &self.volume {
            let what = match &self.lower_path {
                Some(_) => "to open a file of",
                None => "to unlock",
            };
            let dir: String = volume
                .dir
                .to_string_lossy()
                .replace(|c: char| c.is_control(), "?");
            match volume.standing {
                Standing::Ecryptfs => writeln!(f, "{what} eCryptfs folder {dir}")?,
                Standing::Known | Standing::Unknown => {
                    writeln!(f, "{what} volume {dir} ({})", volume.id)?;
                }
            }
            if volume.standing == Standing::Unknown {
                writeln!(f, "UNKNOWN VOLUME: this machine has not opened it before")?;
            }
        }
        write!(f, "for {}", self.program)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_names_volume_and_program_and_says_that_a_volume_is_unknown() {
        let errand = Errand {
            volume: Some(VolumeName {
                id: VolumeId([0xab; 16]),
                dir: "/home/a/Private\u{1b}[2J".into(),
                standing: Standing::Unknown,
            }),
            lower_path: None,
            program: Program {
                pid: 7,
                name: Some("/usr/bin/cat".into()),
            },
        };
        assert_eq!(
            errand.to_string(),
            "to unlock volume /home/a/Private?[2J (abababababababababababababababab)\n\
             UNKNOWN VOLUME: this machine has not opened it before\n\
             for /usr/bin/cat (process 7)"
        );
    }

    #[test]
    fn a_program_is_named_by_its_executable() {
        let program = Program::of_pid(std::process::id());
        let exe = std::env::current_exe().unwrap();
        assert_eq!(program.name.as_deref(), exe.to_str());
    }
}
