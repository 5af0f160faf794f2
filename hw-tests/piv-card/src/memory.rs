//! What a card keeps without power, and what it does not.

use trussed::virt::{Store, StoreConfig};

/// The memory of one card, which lasts as long as this program.
pub struct Memory(StoreConfig<'static>);

impl Memory {
    /// As it leaves the factory.
    pub fn blank() -> Self {
        Self(StoreConfig::ram())
    }

    /// Powers it for the length of `use_it`. What is volatile is blank at the start.
    pub fn power<T>(&mut self, use_it: impl FnOnce(Store<'_>) -> T) -> T {
        let done = self.0.with_store(use_it);
        self.0.internal.format = false;
        self.0.external.format = false;
        done
    }
}
