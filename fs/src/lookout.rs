//! Looking for the next request for a moment before sleeping.
//!
//! A program that asks for one thing after the other waits for each answer. Between two of its requests the
//! event loops have nothing to do for a few microseconds; to fall asleep and be woken on another processor
//! takes longer than most requests do (decision 102). So one loop looks for the next request after it has
//! answered one, and does so less and less often where that is in vain.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::sched_yield;

/// About what it takes to sleep and be woken: who looks for so long loses at most as much again.
const MOMENT: Duration = Duration::from_micros(50);

/// Binary logarithm of the most requests that are answered without a look after one in vain.
const MISSES_MAX: u32 = 7;

/// Looks out for requests, one loop at a time.
#[derive(Default)]
pub(crate) struct Lookout {
    device: OnceLock<OwnedFd>,
    /// Held by the loop that looks. The others go to sleep at once.
    luck: Mutex<Luck>,
}

impl Lookout {
    /// From now on, looks at this connection to the kernel.
    pub(crate) fn over(&self, device: BorrowedFd<'_>) -> io::Result<()> {
        let device = device.try_clone_to_owned()?;
        // A session has one device.
        let _ = self.device.set(device);
        Ok(())
    }

    /// Looks out for the next request once what this returns is dropped, after the answer.
    pub(crate) fn afterwards(&self) -> Afterwards<'_> {
        Afterwards(self)
    }

    fn look(&self) {
        let (Some(device), Ok(mut luck)) = (self.device.get(), self.luck.try_lock()) else {
            return;
        };
        if luck.tries() {
            luck.came(look(device.as_fd(), Instant::now() + MOMENT));
        }
    }
}

/// See [`Lookout::afterwards`].
pub(crate) struct Afterwards<'a>(&'a Lookout);

impl Drop for Afterwards<'_> {
    fn drop(&mut self) {
        self.0.look();
    }
}

/// What looking led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    /// There is a request, or the connection is over.
    Found,
    Vain,
}

/// Looks at `device` until then, without sleeping.
fn look(device: BorrowedFd<'_>, until: Instant) -> Look {
    let mut devices = [PollFd::new(device, PollFlags::POLLIN)];
    loop {
        match poll(&mut devices, PollTimeout::ZERO) {
            Ok(0) if Instant::now() < until => {
                // Whoever else has something to do on this processor does it first.
                let _ = sched_yield();
            }
            Ok(0) => return Look::Vain,
            Ok(_) | Err(_) => return Look::Found,
        }
    }
}

/// How it went lately.
#[derive(Default)]
struct Luck {
    /// Looks in vain since the last that was not.
    misses: u32,
    /// Answers after which it does not look.
    skips: u32,
}

impl Luck {
    /// Whether to look after this answer.
    fn tries(&mut self) -> bool {
        let rests = self.skips > 0;
        self.skips = self.skips.saturating_sub(1);
        !rests
    }

    fn came(&mut self, look: Look) {
        match look {
            Look::Found => self.misses = 0,
            Look::Vain => {
                self.misses = (self.misses + 1).min(MISSES_MAX);
                self.skips = 1 << self.misses;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::thread;

    use super::*;

    #[test]
    fn what_comes_while_one_looks_is_found_and_what_does_not_come_is_not_waited_for() {
        let (reader, mut writer) = io::pipe().unwrap();
        assert_eq!(look(reader.as_fd(), Instant::now()), Look::Vain);
        let far = Instant::now() + Duration::from_secs(3600);
        let looks = thread::spawn(move || look(reader.as_fd(), far));
        writer.write_all(b"request").unwrap();
        assert_eq!(looks.join().unwrap(), Look::Found);
    }

    #[test]
    fn the_end_of_a_connection_ends_the_look() {
        let (reader, writer) = io::pipe().unwrap();
        drop(writer);
        let far = Instant::now() + Duration::from_secs(3600);
        assert_eq!(look(reader.as_fd(), far), Look::Found);
    }

    #[test]
    fn a_look_in_vain_is_followed_by_ever_fewer_until_one_is_not() {
        let mut luck = Luck::default();
        let answers_until_it_looks =
            |luck: &mut Luck| (1..).find(|_| luck.tries()).unwrap_or_default();
        for answers in [1, 3, 5, 9, 17, 33, 65, 129, 129] {
            assert_eq!(answers_until_it_looks(&mut luck), answers);
            luck.came(Look::Vain);
        }
        assert_eq!(answers_until_it_looks(&mut luck), 129);
        luck.came(Look::Found);
        assert_eq!(answers_until_it_looks(&mut luck), 1);
    }

    #[test]
    fn while_one_looks_no_other_does_and_without_a_device_nobody() {
        let lookout = Lookout::default();
        drop(lookout.afterwards());
        let (reader, _writer) = io::pipe().unwrap();
        lookout.over(reader.as_fd()).unwrap();
        let looking = lookout.luck.lock().unwrap();
        drop(lookout.afterwards());
        assert_eq!(looking.misses, 0);
        drop(looking);
        drop(lookout.afterwards());
        assert_eq!(lookout.luck.lock().unwrap().misses, 1);
    }
}
