//! Memory maps, for the promise about mapped pages.
#![allow(unsafe_code)] // mmap(2) cannot be had without.

use std::fs::File;
use std::num::NonZeroUsize;
use std::ptr::NonNull;

use nix::sys::mman::{MapFlags, ProtFlags, mmap};

/// The beginning of a file, mapped for reading until the process ends.
#[derive(Debug)]
pub(crate) struct Map {
    at: NonNull<u8>,
    len: usize,
}

impl Map {
    /// # Errors
    /// Those of mmap(2).
    pub(crate) fn of(file: &File, len: usize) -> nix::Result<Self> {
        let size = NonZeroUsize::new(len).unwrap();
        // SAFETY: a new mapping at a place that the kernel chooses; nothing else refers to it.
        let at = unsafe {
            mmap(
                None,
                size,
                ProtFlags::PROT_READ,
                MapFlags::MAP_SHARED,
                file,
                0,
            )
        };
        Ok(Self {
            at: at?.cast(),
            len,
        })
    }

    /// The byte at `offset`, from the page as it is now.
    pub(crate) fn look(&self, offset: usize) -> u8 {
        assert!(offset < self.len);
        // SAFETY: within the mapping, which is never undone; volatile, for the file changes under us,
        // and a page that can no longer be read ends the process by SIGBUS, which is what is tested.
        unsafe { self.at.add(offset).read_volatile() }
    }
}
