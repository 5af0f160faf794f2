//! Keys as types: wiped on drop, not printable, not clonable, each read through `expose()` only.

use core::fmt;

use zeroize::{Zeroize, ZeroizeOnDrop};

/// Declares a 32-byte key.
macro_rules! key_32 {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        ///
        /// Wiped on drop. No `Clone`, no `PartialEq`, no `Serialize`; `Debug` prints the length only.
        #[derive(Zeroize, ZeroizeOnDrop)]
        pub struct $name(Box<[u8; 32]>);

        impl $name {
            /// Takes over `bytes`; the caller's copy is wiped.
            pub fn new(bytes: &mut [u8; 32]) -> Self {
                // Straight into its box: a key moved by value leaves copies on the stack.
                let mut key = Box::new([0; 32]);
                key.copy_from_slice(bytes);
                bytes.zeroize();
                Self(key)
            }

            /// Draws a fresh one from getrandom(2).
            pub fn random() -> Self {
                let mut key = Box::new([0; 32]);
                fill_random(key.as_mut_slice());
                Self(key)
            }

            /// The key itself.
            pub fn expose(&self) -> &[u8; 32] {
                &self.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}(32 bytes)", stringify!($name))
            }
        }
    };
}

key_32! {
    /// File encryption key (FEK): everything that encrypts one native file derives from it.
    Fek
}

key_32! {
    /// Seals the FEKs of one file in file scope; itself wrapped to each recipient in the header.
    FileKey
}

key_32! {
    /// Encrypts one sealed stream; wrapped to each recipient in its header.
    StreamKey
}

key_32! {
    /// Derived from an epoch key: encrypts and binds the names of that epoch's directories.
    NamesKey
}

/// Draws `N` bytes from getrandom(2).
pub fn random_array<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    fill_random(&mut bytes);
    bytes
}

/// Fills `out` from getrandom(2).
///
/// # Panics
/// If the kernel refuses random bytes, which it does not once it has booted; nothing that needs a
/// nonce could go on.
pub fn fill_random(out: &mut [u8]) {
    // Not aws-lc's generator: its state lies in this process, where a fork or a snapshot of the
    // machine would have it repeat a nonce.
    getrandom::fill(out).expect("getrandom(2) does not fail after boot");
}
