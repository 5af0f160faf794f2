//! A process of ours, seen from outside and as root.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};

use memchr::memmem;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::wait_until;

/// Memory is searched in pieces of this size.
const PIECE: usize = 4 << 20;

/// A process of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its process id in the story's namespace.
    pub pid: u32,
}

/// What a search of a process's memory came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Searched {
    /// How often it is there.
    pub found: usize,
    /// Bytes that were looked at.
    pub bytes: u64,
}

impl Process {
    /// SIGKILL, and waits until it has ended.
    pub fn kill(self) {
        self.signal(Signal::SIGKILL);
        wait_until("the killed process has ended", || self.has_ended());
    }

    /// Sends a signal.
    pub fn signal(self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.pid).expect("pids are small"));
        kill(pid, signal).unwrap_or_else(|errno| panic!("signal to {pid}: {errno}"));
    }

    /// Whether it has ended. Pid 1 of the story is the story, which reaps nobody: a zombie has ended.
    pub fn has_ended(self) -> bool {
        fs::read(self.file("cmdline"))
            .unwrap_or_default()
            .is_empty()
    }

    /// The files that are mapped into it.
    pub fn mapped_files(self) -> Vec<String> {
        let mut files: Vec<String> = self
            .maps()
            .lines()
            .filter_map(|line| line.split_once('/').map(|(_, path)| format!("/{path}")))
            .collect();
        files.dedup();
        assert!(!files.is_empty(), "a process has its program mapped");
        files
    }

    /// Looks for `bytes` in all of its memory that can be read.
    ///
    /// Areas of memfd_secret(2) cannot be, not even by root: that is their point.
    ///
    /// # Panics
    /// If the process has no memory that can be read, which would make every search succeed.
    pub fn search(self, bytes: &[u8]) -> Searched {
        let mut memory = File::open(self.file("mem")).expect("root may");
        let mut searched = Searched::default();
        for line in self.maps().lines() {
            let Some((start, end)) = readable_area(line) else {
                continue;
            };
            if memory.seek(SeekFrom::Start(start)).is_ok() {
                search_area(&mut memory, end - start, bytes, &mut searched);
            }
        }
        assert!(searched.bytes > 0, "no memory of {} can be read", self.pid);
        searched
    }

    fn maps(self) -> String {
        fs::read_to_string(self.file("maps")).expect("it runs, and root may")
    }

    fn file(self, name: &str) -> String {
        format!("/proc/{}/{name}", self.pid)
    }
}

/// Start and end of an area in a line of maps: `start-end perms offset device inode path`.
fn readable_area(line: &str) -> Option<(u64, u64)> {
    let mut fields = line.split_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    if !fields.next()?.starts_with('r') || line.contains("[v") {
        return None;
    }
    let number = |text| u64::from_str_radix(text, 16).ok();
    Some((number(start)?, number(end)?))
}

/// Searches `left` bytes from where `memory` stands; ends at the first that cannot be read.
fn search_area(memory: &mut File, mut left: u64, bytes: &[u8], searched: &mut Searched) {
    let overlap = bytes.len() - 1;
    let mut buffer: Vec<u8> = Vec::new();
    while left > 0 {
        let kept = buffer.len().min(overlap);
        buffer.drain(..buffer.len() - kept);
        let piece = left.min(PIECE as u64);
        let got = memory.take(piece).read_to_end(&mut buffer);
        let read = (buffer.len() - kept) as u64;
        searched.found += memmem::find_iter(&buffer, bytes).count();
        searched.bytes += read;
        if got.is_err() || read == 0 {
            return;
        }
        left -= read;
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn what_a_process_holds_is_found_in_it_and_nothing_else() {
        let mut child = Command::new("sleep")
            .arg("60")
            .env("PLANTED", "zeugma-7a51")
            .spawn()
            .unwrap();
        let process = Process { pid: child.id() };
        wait_until("it is sleep", || process.maps().contains("/sleep"));
        assert_eq!(process.search(b"zeugma-7a51").found, 1);
        assert_eq!(process.search(b"zeugma-7a52").found, 0);
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn only_readable_areas_are_searched() {
        let stack = "7ffc1000-7ffc3000 rw-p 00000000 00:00 0  [stack]";
        assert_eq!(readable_area(stack), Some((0x7ffc_1000, 0x7ffc_3000)));
        assert_eq!(readable_area("7000-8000 ---p 00000000 00:00 0"), None);
        assert_eq!(readable_area("7000-8000 r--p 0 00:00 0 [vvar]"), None);
    }
}
