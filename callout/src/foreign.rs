//! Calling code that is not ours on a thread that must live.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs `call`; a panic in it ends it, is logged as `what`'s, and nothing else.
pub(crate) fn run(what: &'static str, call: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(call)).is_err() {
        tracing::error!("{what} panicked");
    }
}
