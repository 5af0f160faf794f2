//! What becomes of seeds: the same each time, so that a failure can be repeated.

/// A source of mutations.
pub struct Mutator {
    state: u64,
}

impl Mutator {
    /// The one that goes by this name.
    pub fn new(name: &str) -> Self {
        let seed = name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Self { state: seed }
    }

    /// One of `seeds` with one to four changes.
    pub fn mutate(&mut self, seeds: &[Vec<u8>]) -> Vec<u8> {
        let mut input = seeds[self.below(seeds.len())].clone();
        for _ in 0..=self.below(4) {
            let other = &seeds[self.below(seeds.len())];
            self.change(&mut input, other);
        }
        input
    }

    fn change(&mut self, input: &mut Vec<u8>, other: &[u8]) {
        // Numbers and lengths that parsers trip over.
        const BYTES: [u8; 8] = [0, 1, 0x7f, 0x80, 0xff, b'%', b'"', b'\n'];
        let at = self.below(input.len() + 1);
        let len = self.below(17).min(input.len() - at);
        match self.below(8) {
            0 if at < input.len() => input[at] ^= 1 << self.below(8),
            1 if at < input.len() => input[at] = BYTES[self.below(BYTES.len())],
            2 if at < input.len() => input[at] = input[at].wrapping_add(1),
            3 => input.truncate(at),
            4 => drop(input.drain(at..at + len)),
            5 => input
                .splice(at..at, vec![BYTES[self.below(BYTES.len())]; 1 + len])
                .for_each(drop),
            6 => {
                let again = input[at..at + len].to_vec();
                input.splice(at..at, again).for_each(drop);
            }
            // The end of another seed.
            _ => {
                let from = self.below(other.len() + 1);
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
        }
    }

    fn below(&mut self, end: usize) -> usize {
        // splitmix64 (Steele, Lea and Flood, 2014).
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % end.max(1) as u64) as usize
    }
}
