//! Going to the background, but not before the mount answers.
//!
//! The process that was started starts another, with the same words and `--detached`, and waits for
//! its report on a pipe that is the other's standard output:
//!
//! ```text
//! report := "ready\n" | "failed " exit code, decimal "\n" text
//! ```
//!
//! A new process rather than fork(2): the child of a fork shares what the parent had open and
//! mapped, and fork cannot be had without `unsafe`.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::{self, PipeReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use claviger_protocol::failure::ExitCode;
use claviger_protocol::{log_file, paths};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{Uid, User, dup2_stdout, setsid};

use crate::args::DETACHED;

/// How long the mount may take to answer. Nobody is asked for anything meanwhile.
const PATIENCE: Duration = Duration::from_secs(30);

/// A report longer than this is cut off.
const REPORT_MAX: usize = 4096;

/// How a mount began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// It answers.
    Ready,
    /// It ended, and why.
    Failed {
        /// What the process that waits shall exit with.
        exit_code: u8,
        /// For people.
        text: String,
    },
}

/// Starts the process that serves the mount and waits for its report.
///
/// It is called `name`, like this one, and gets the same `words`; `log` gets its standard error.
///
/// # Errors
/// If the process cannot be started or waited for.
pub fn start(name: &OsStr, words: &[OsString], log: File) -> io::Result<Report> {
    let (reader, writer) = io::pipe()?;
    let mut child = Command::new(std::env::current_exe()?)
        .arg0(name)
        .args(words)
        .arg(DETACHED)
        .stdin(Stdio::null())
        .stdout(writer)
        .stderr(log)
        .spawn()?;
    let report = read_report(reader, Instant::now() + PATIENCE);
    match report {
        Ok(Some(Report::Ready)) => Ok(Report::Ready),
        Ok(Some(report)) => {
            child.wait()?;
            Ok(report)
        }
        Ok(None) => Ok(ended_silently(&mut child)?),
        Err(error) => {
            // It must not come up later, when nobody expects it any more.
            child.kill()?;
            child.wait()?;
            Err(error)
        }
    }
}

/// Turns this process, which [`start`] started, into one of its own session.
///
/// # Errors
/// If `/` cannot be entered.
pub fn detach() -> io::Result<()> {
    // Fails only for a process group leader, and that has a session of its own already.
    let _ = setsid();
    std::env::set_current_dir("/")
}

/// Tells the process that waits in [`start`], and lets go of its pipe.
///
/// # Errors
/// If it no longer waits.
pub fn report(report: &Report) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(report.to_text().as_bytes())?;
    stdout.flush()?;
    let null = OpenOptions::new().write(true).open("/dev/null")?;
    dup2_stdout(null)?;
    Ok(())
}

/// Opens the log of mounts in the background: `chosen`, else `fs.log` in the state folder, begun anew when it
/// is full. What was chosen is for whoever chose it to keep small.
///
/// # Errors
/// If it can be neither opened nor made, with its path.
pub fn open_log(chosen: Option<&Path>) -> Result<File, (PathBuf, io::Error)> {
    if let Some(path) = chosen {
        return in_its_folder(path, log_file::append).map_err(|error| (path.into(), error));
    }
    let path = match paths::state_dir() {
        // Root's mounts are the machine's, and mount(8) under systemd has no HOME.
        _ if Uid::effective().is_root() => PathBuf::from("/var/log/claviger-fs.log"),
        Some(state) => state.join("fs.log"),
        // mount(8) takes HOME from what it starts for a user. Not the standard error of whoever runs
        // it: a shell that reads it to its end would wait for the mount's.
        None => match User::from_uid(Uid::effective()) {
            Ok(Some(user)) => user.dir.join(".local/state/claviger/fs.log"),
            Ok(None) | Err(_) => PathBuf::from("/dev/null"),
        },
    };
    in_its_folder(&path, log_file::begin).map_err(|error| (path, error))
}

fn in_its_folder(path: &Path, open: impl FnOnce(&Path) -> io::Result<File>) -> io::Result<File> {
    if let Some(folder) = path.parent() {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)?;
    }
    open(path)
}

/// `None` at an end without a report.
fn read_report(mut reader: PipeReader, deadline: Instant) -> io::Result<Option<Report>> {
    let mut bytes = Vec::new();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        if poll(
            &mut [PollFd::new(reader.as_fd(), PollFlags::POLLIN)],
            timeout,
        )? == 0
        {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let mut part = [0; 512];
        let n = reader.read(&mut part)?;
        bytes.extend_from_slice(part.get(..n).unwrap_or_default());
        let report = Report::parse(&String::from_utf8_lossy(&bytes));
        match report {
            // The pipe stays open if something inherited it: the word is enough.
            Some(Report::Ready) => return Ok(report),
            _ if n == 0 || bytes.len() > REPORT_MAX => return Ok(report),
            _ => (),
        }
    }
}

fn ended_silently(child: &mut Child) -> io::Result<Report> {
    let status = child.wait()?;
    Ok(Report::Failed {
        exit_code: ExitCode::Internal as u8,
        text: format!("the filesystem ended before it was mounted ({status}); its log may say why"),
    })
}

impl Report {
    fn to_text(&self) -> String {
        match self {
            Self::Ready => "ready\n".into(),
            Self::Failed { exit_code, text } => format!("failed {exit_code}\n{text}"),
        }
    }

    /// `None` for what is no report, or not yet.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (head, text) = text.split_once('\n')?;
        if head == "ready" {
            return Some(Self::Ready);
        }
        Some(Self::Failed {
            exit_code: head.strip_prefix("failed ")?.parse().ok()?,
            text: text.into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn soon() -> Instant {
        Instant::now() + PATIENCE
    }

    #[test]
    fn a_report_arrives_as_it_was_told() {
        for report in [
            Report::Ready,
            Report::Failed {
                exit_code: 10,
                text: "mountpoint /x is not a directory\nchoose another".into(),
            },
        ] {
            let (reader, mut writer) = io::pipe().unwrap();
            writer.write_all(report.to_text().as_bytes()).unwrap();
            drop(writer);
            assert_eq!(read_report(reader, soon()).unwrap(), Some(report));
        }
    }

    #[test]
    fn ready_counts_although_the_pipe_stays_open() {
        let (reader, mut writer) = io::pipe().unwrap();
        writer.write_all(b"ready\n").unwrap();
        assert_eq!(read_report(reader, soon()).unwrap(), Some(Report::Ready));
    }

    #[test]
    fn an_end_without_a_report_is_told_from_silence() {
        let (reader, writer) = io::pipe().unwrap();
        let silence = read_report(reader, Instant::now());
        assert_eq!(silence.unwrap_err().kind(), io::ErrorKind::TimedOut);
        drop(writer);

        let (reader, mut writer) = io::pipe().unwrap();
        writer.write_all(b"thread 'main' panicked").unwrap();
        drop(writer);
        assert_eq!(read_report(reader, soon()).unwrap(), None);
    }
}
