//! What returned calls leave on the stack.
//!
//! Keys are types that wipe themselves, and still: a compiler moves values through slots of the stack that
//! no destructor knows of. Threads that handle keys live on, or their stacks are kept for the next one.

use std::hint::black_box;

/// Deeper than any request goes; measured at 17 KiB, and at some 25 unoptimised. Not deeper still: it is done after each
/// request, and what it goes over is pushed out of the processor's cache.
const DEPTH: usize = 32 << 10;

/// Overwrites what the calls that this thread has just returned from left below the caller's frame.
///
/// As good as the compiler lets it be: the test that searches the daemon's memory after a lock is what
/// shows that it works. Costs one memset.
#[inline(never)]
pub fn wipe_stack() {
    let zeros = [0_u8; DEPTH];
    black_box(&zeros);
}
