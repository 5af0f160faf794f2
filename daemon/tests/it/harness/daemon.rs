//! A running daemon.

use std::fs;
use std::process::Child;

/// A running `clavigerd`, killed when dropped.
pub struct Daemon {
    pub child: Child,
}

impl Daemon {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = nix::unistd::Pid::from_raw(self.pid().try_into().unwrap());
        nix::sys::signal::kill(pid, signal).unwrap();
    }

    /// What its threads are called.
    pub fn threads(&self) -> Vec<String> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap();
        let names = tasks.map(|task| fs::read_to_string(task.unwrap().path().join("comm")));
        names
            .map(|name| name.unwrap_or_default().trim_end().into())
            .collect()
    }

    /// Processes that it has started and that live.
    pub fn children(&self) -> Vec<u32> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap();
        let lists = tasks.map(|task| fs::read_to_string(task.unwrap().path().join("children")));
        let lists: Vec<String> = lists.map(Result::unwrap_or_default).collect();
        lists
            .join(" ")
            .split_whitespace()
            .map(|pid| pid.parse().unwrap())
            .collect()
    }

    /// Where in the memory of `pid` that can be read `needle` is; to be called as root.
    pub fn find_in_memory(pid: u32, needle: &[u8]) -> Option<String> {
        use std::os::unix::fs::FileExt;

        let finder = memchr::memmem::Finder::new(needle);
        let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
        let memory = fs::File::open(format!("/proc/{pid}/mem")).unwrap();
        let mut searched = 0;
        for line in maps.lines() {
            let (range, rest) = line.split_once(' ').unwrap();
            if !rest.starts_with('r') || line.contains("[v") {
                continue;
            }
            let (start, end) = range.split_once('-').unwrap();
            let parse = |text| u64::from_str_radix(text, 16).unwrap();
            let mut area = vec![0; usize::try_from(parse(end) - parse(start)).unwrap()];
            // A secret area cannot be read, not even by root: that is its purpose.
            if memory.read_exact_at(&mut area, parse(start)).is_ok() {
                searched += 1;
                if let Some(offset) = finder.find(&area) {
                    return Some(format!("{offset:#x} into {line}"));
                }
            }
        }
        assert!(searched > 0, "nothing of process {pid} could be read");
        None
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
