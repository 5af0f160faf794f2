//! Which nonces were seen: accepts each once, in any order within a window (RFC 6479's idea).

/// Nonces remembered below the highest one seen.
pub(crate) const WINDOW: u64 = 1024;

const WORDS: usize = (WINDOW / 64) as usize;

/// Refuses a nonce seen before, and one too old to know.
#[derive(Debug, Default)]
pub(crate) struct Window {
    /// Highest nonce seen, plus one.
    next: u64,
    /// Bit `nonce % WINDOW`, for nonces in `next - WINDOW .. next`.
    seen: [u64; WORDS],
}

impl Window {
    /// Whether `nonce` may still be accepted. Asked before decrypting, which [`Self::accept`] follows.
    pub(crate) fn admits(&self, nonce: u64) -> bool {
        nonce >= self.next || (self.next - nonce <= WINDOW && !self.bit(nonce))
    }

    /// Marks `nonce`, of a message that authenticated, as seen.
    pub(crate) fn accept(&mut self, nonce: u64) {
        if nonce >= self.next {
            let skipped = (nonce - self.next).min(WINDOW);
            for stale in nonce - skipped..nonce {
                self.set(stale, Seen::No);
            }
            // u64::MAX is no nonce (Noise reserves it), so this does not overflow.
            self.next = nonce + 1;
        }
        self.set(nonce, Seen::Yes);
    }

    fn bit(&self, nonce: u64) -> bool {
        let (word, mask) = place(nonce);
        self.seen.get(word).is_some_and(|word| word & mask != 0)
    }

    fn set(&mut self, nonce: u64, seen: Seen) {
        let (word, mask) = place(nonce);
        if let Some(word) = self.seen.get_mut(word) {
            match seen {
                Seen::Yes => *word |= mask,
                Seen::No => *word &= !mask,
            }
        }
    }
}

enum Seen {
    Yes,
    No,
}

fn place(nonce: u64) -> (usize, u64) {
    let bit = nonce % WINDOW;
    ((bit / 64) as usize, 1 << (bit % 64))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against the plain definition: a set of everything seen.
        #[test]
        fn accepts_each_nonce_once_and_none_below_the_window(
            steps in proptest::collection::vec((0u64..3000, 0u64..40), 1..200),
        ) {
            let mut window = Window::default();
            let mut seen = HashSet::new();
            let mut next = 0u64;
            for (jump, back) in steps {
                let nonce = (next + jump % (back + 1)).saturating_sub(back * 60);
                let fresh = !seen.contains(&nonce) && nonce + WINDOW >= next;
                prop_assert_eq!(window.admits(nonce), fresh);
                if fresh {
                    window.accept(nonce);
                    seen.insert(nonce);
                    next = next.max(nonce + 1);
                }
            }
        }
    }

    #[test]
    fn a_jump_beyond_the_window_forgets_nothing_it_must_refuse() {
        let mut window = Window::default();
        window.accept(5);
        window.accept(5 + 10 * WINDOW);
        assert!(!window.admits(5));
        assert!(!window.admits(5 + 10 * WINDOW));
        assert!(window.admits(4 + 10 * WINDOW));
        assert!(!window.admits(5 + 9 * WINDOW));
    }
}
