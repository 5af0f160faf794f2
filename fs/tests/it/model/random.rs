//! Random choices that a seed repeats.

use std::time::{SystemTime, UNIX_EPOCH};

/// xorshift64*.
pub(crate) struct Random(u64);

impl Random {
    /// Seeded by `CLAVIGER_TEST_SEED`, or the clock; the seed is printed.
    pub(crate) fn seeded() -> Self {
        let given = std::env::var("CLAVIGER_TEST_SEED").ok();
        let seed = given.and_then(|seed| seed.parse().ok()).unwrap_or_else(|| {
            let now = SystemTime::now().duration_since(UNIX_EPOCH);
            now.expect("it is after 1970").as_nanos() as u64
        });
        println!("CLAVIGER_TEST_SEED={seed}");
        Self(seed | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        (self.next() >> 11) % end
    }

    pub(crate) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub(crate) fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }
}
