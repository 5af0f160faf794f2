//! Waiting for a condition, never for luck.

use std::time::{Duration, Instant};

/// Waits until `condition` holds.
///
/// # Panics
/// If it does not within 20 seconds, on a machine that may be busy.
#[track_caller]
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(
            begun.elapsed() < Duration::from_secs(20),
            "waited 20 s in vain until {what}"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}
