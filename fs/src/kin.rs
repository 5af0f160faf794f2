//! Whether an opener is the daemon itself, or a module or prompt that it started.
//!
//! Such a process must never wait for the daemon, which may be waiting for it: its opens are refused
//! at once. Kinship goes by the parent in `/proc/PID/status`, up to the daemon's pid. Best effort: a
//! process whose parent has ended belongs to init, and pids of another pid namespace mean nothing
//! here. What slips through meets the deadline of every unwrap.

use std::collections::HashMap;
use std::fs;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

/// How long an answer is believed: `grep -r` opens thousands of files as one process.
const BELIEVED: Duration = Duration::from_secs(1);

/// No ancestry is followed further.
const GENERATIONS: usize = 32;

/// Remembers who descends from whom, for a moment.
#[derive(Debug, Default)]
pub(crate) struct Kin {
    answers: Mutex<HashMap<(u32, u32), (Kinship, Instant)>>,
}

/// What one process is to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kinship {
    /// The process itself, or one that it started, at any remove.
    Descendant,
    /// Anyone else.
    Stranger,
}

impl Kin {
    /// What thread `tid` is to process `daemon`.
    pub(crate) fn of(&self, tid: u32, daemon: u32) -> Kinship {
        let now = Instant::now();
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((kinship, asked)) = answers.get(&(tid, daemon))
            && now.duration_since(*asked) < BELIEVED
        {
            return *kinship;
        }
        answers.retain(|_, (_, asked)| now.duration_since(*asked) < BELIEVED);
        let kinship = kinship(tid, daemon);
        answers.insert((tid, daemon), (kinship, now));
        kinship
    }
}

fn kinship(tid: u32, daemon: u32) -> Kinship {
    let mut pid = tid;
    for _ in 0..GENERATIONS {
        match pid {
            0 | 1 => return Kinship::Stranger,
            _ if pid == daemon => return Kinship::Descendant,
            _ => (),
        }
        let Some(Stat { process, parent }) = Stat::read(pid) else {
            return Kinship::Stranger;
        };
        if process == daemon {
            return Kinship::Descendant;
        }
        pid = parent;
    }
    Kinship::Stranger
}

/// The two ids that matter here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stat {
    /// The process that the thread belongs to.
    process: u32,
    parent: u32,
}

impl Stat {
    fn read(tid: u32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{tid}/status")).ok()?)
    }

    /// From `/proc/TID/status`: unlike `stat` it names the thread's process, and a program's name
    /// cannot forge a line of it (the kernel escapes newlines).
    pub(crate) fn parse(status: &str) -> Option<Self> {
        let id = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim().parse().ok()
        };
        Some(Self {
            process: id("Tgid:")?,
            parent: id("PPid:")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};
    use std::thread;

    use nix::unistd::gettid;

    use super::*;

    #[test]
    fn a_process_its_threads_and_its_children_are_kin() {
        let me = std::process::id();
        let kin = Kin::default();
        assert_eq!(kin.of(me, me), Kinship::Descendant);

        let in_thread = thread::spawn(move || {
            let tid = gettid().as_raw().unsigned_abs();
            assert_ne!(tid, me);
            Kin::default().of(tid, me)
        });
        assert_eq!(in_thread.join().unwrap(), Kinship::Descendant);

        let mut child = Command::new("cat")
            .stdin(Stdio::piped())
            .spawn()
            .expect("cat is everywhere");
        assert_eq!(kin.of(child.id(), me), Kinship::Descendant);
        assert_eq!(kin.of(me, child.id()), Kinship::Stranger);
        drop(child.stdin.take());
        child.wait().unwrap();
    }

    #[test]
    fn init_and_callers_of_foreign_namespaces_are_strangers() {
        let kin = Kin::default();
        assert_eq!(kin.of(1, std::process::id()), Kinship::Stranger);
        assert_eq!(kin.of(0, std::process::id()), Kinship::Stranger);
    }

    #[test]
    fn a_program_name_cannot_pose_as_a_parent() {
        let status = "Name:\tx\\nPPid:\\t1\nTgid:\t40\nPid:\t41\nPPid:\t7\n";
        let expected = Stat {
            process: 40,
            parent: 7,
        };
        assert_eq!(Stat::parse(status), Some(expected));
    }
}
