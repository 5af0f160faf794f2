//! Telling keys apart.

use std::sync::OnceLock;

use aws_lc_rs::hmac;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::secret::fill_random;

/// Tells the keys of one file from others, and tells nothing else of them: whoever has a file open keeps
/// it, and proves by it the keys of whoever comes next.
///
/// HMAC-SHA-256 under a key that each process draws for itself. Not comparable but by
/// [`KeysMark::is`], which takes the same time whatever differs.
#[derive(Clone, Debug)]
pub struct KeysMark([u8; 32]);

impl KeysMark {
    /// Of all FEKs of a file, in their order.
    pub fn of<'a>(feks: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut context = hmac::Context::with_key(own_key());
        for fek in feks {
            context.update(&(fek.len() as u64).to_le_bytes());
            context.update(fek);
        }
        let mut mark = [0; 32];
        mark.copy_from_slice(context.sign().as_ref());
        Self(mark)
    }

    /// Whether both are of the same keys.
    pub fn is(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

fn own_key() -> &'static hmac::Key {
    static KEY: OnceLock<hmac::Key> = OnceLock::new();
    KEY.get_or_init(|| {
        let mut bytes = Zeroizing::new([0; 32]);
        fill_random(bytes.as_mut_slice());
        hmac::Key::new(hmac::HMAC_SHA256, bytes.as_slice())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_that_of_the_same_keys_in_the_same_order_and_of_no_others() {
        let mark = |feks: &[&[u8]]| KeysMark::of(feks.iter().copied());
        let one = mark(&[&[1; 32], &[2; 32]]);
        assert!(one.is(&mark(&[&[1; 32], &[2; 32]])));
        let others: [&[&[u8]]; 5] = [
            &[],
            &[&[1; 32]],
            &[&[2; 32], &[1; 32]],
            &[&[1; 32], &[3; 32]],
            &[&[1; 31], &[2; 33]],
        ];
        for other in others {
            assert!(!one.is(&mark(other)), "{other:?}");
        }
    }
}
