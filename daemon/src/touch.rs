//! Tells whoever waits that a token may want a touch: a light that blinks unseen looks like a hang.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, unbounded};

/// After this time a token operation is taken to wait for a person.
pub const PATIENCE: Duration = Duration::from_millis(300);

/// One thread that watches all operations in progress.
pub struct Hints(Sender<Due>);

/// An operation in progress; dropped, it needs no hint any more.
pub struct InProgress(Arc<AtomicBool>);

struct Due {
    at: Instant,
    over: Arc<AtomicBool>,
    hint: Box<dyn FnOnce() + Send>,
}

impl Hints {
    /// Starts the thread.
    ///
    /// # Panics
    /// If no thread can be started.
    pub fn new() -> Self {
        let (sender, due) = unbounded();
        thread::Builder::new()
            .name("touch".into())
            .spawn(move || watch(&due))
            .expect("a thread can be started when the daemon starts");
        Self(sender)
    }

    /// Calls `hint` unless the operation is over within [`PATIENCE`].
    pub fn watch(&self, hint: impl FnOnce() + Send + 'static) -> InProgress {
        let over = Arc::new(AtomicBool::new(false));
        let due = Due {
            at: Instant::now() + PATIENCE,
            over: over.clone(),
            hint: Box::new(hint),
        };
        // Received as long as `self` is there.
        let _ = self.0.send(due);
        InProgress(over)
    }
}

impl Default for Hints {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for InProgress {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// All wait equally long, so they are due in the order in which they came.
fn watch(due: &Receiver<Due>) {
    while let Ok(next) = due.recv() {
        if !next.over.load(Ordering::Relaxed) {
            thread::sleep(next.at.saturating_duration_since(Instant::now()));
        }
        if !next.over.load(Ordering::Relaxed) {
            (next.hint)();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_operation_that_takes_long_is_hinted_at() {
        let hints = Hints::new();
        let (said, hears) = unbounded();
        let says = |what| {
            let said = said.clone();
            move || said.send(what).unwrap()
        };
        drop(hints.watch(says("short")));
        let long = hints.watch(says("long"));
        assert_eq!(hears.recv().unwrap(), "long");
        drop(long);
        assert!(hears.is_empty());
    }
}
