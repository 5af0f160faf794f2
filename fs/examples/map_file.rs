//! Maps two pages of a file, and looks at the second before and after a line comes in; for the test
//! of what a lock does to programs that have files mapped. A file that cannot be mapped is said so.

#![allow(unsafe_code)] // mmap(2) cannot be had without.
#![allow(clippy::unwrap_used)] // It serves tests only.

use std::fs::File;
use std::num::NonZeroUsize;
use std::ptr::NonNull;

use nix::sys::mman::{MapFlags, ProtFlags, mmap};

fn main() {
    let path = std::env::args_os().nth(1).expect("map_file FILE");
    let map = match Map::of(&File::open(path).unwrap(), 8192) {
        Ok(map) => map,
        Err(errno) => return println!("not mapped: {errno:?}"),
    };
    println!("first look: {}", char::from(map.look(4096)));
    std::io::stdin().read_line(&mut String::new()).unwrap();
    println!("second look: {}", char::from(map.look(4096)));
}

/// The beginning of a file, mapped for reading until the process ends.
struct Map {
    at: NonNull<u8>,
    len: usize,
}

impl Map {
    /// # Errors
    /// Those of mmap(2).
    fn of(file: &File, len: usize) -> nix::Result<Self> {
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
    fn look(&self, offset: usize) -> u8 {
        assert!(offset < self.len);
        // SAFETY: within the mapping, which is never undone; volatile, for the file changes under us,
        // and a page that can no longer be read ends the process by SIGBUS, which is what is tested.
        unsafe { self.at.add(offset).read_volatile() }
    }
}
