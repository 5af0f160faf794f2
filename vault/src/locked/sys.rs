//! The page itself.
#![allow(unsafe_code)] // mmap(2), and keys living in what it gave

use std::ffi::{c_int, c_void};
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{Ordering, compiler_fence};
use std::sync::{Arc, Mutex, PoisonError};

use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags};
use nix::sys::mman::{madvise, mlock, mmap, mmap_anonymous, munmap};
use zeroize::Zeroize;

const PAGE: NonZeroUsize = NonZeroUsize::new(4096).expect("not zero");
const SLOT: usize = 32;
const SLOTS: u32 = 128;

/// One locked page of [`SLOTS`] keys; all zero where no key is.
pub(super) struct Page {
    start: NonNull<u8>,
    /// Bit n: slot n is taken.
    taken: Mutex<u128>,
}

// SAFETY: a page is memory of this process, not of one thread. `taken` is behind its mutex, and the
// bytes of a slot are reached only through the one `Slot` that owns them.
unsafe impl Send for Page {}
// SAFETY: as above.
unsafe impl Sync for Page {}

impl Page {
    /// Maps a page that the kernel itself leaves alone (memfd_secret), or else an anonymous one.
    pub(super) fn map() -> io::Result<Self> {
        // Absent before Linux 5.14, off by default before 6.5, refused by some seccomp filters.
        match memfd_secret() {
            Ok(memory) => Self::map_secret(&memory),
            Err(_) => Self::map_anonymous(),
        }
    }

    fn map_secret(memory: &OwnedFd) -> io::Result<Self> {
        nix::unistd::ftruncate(memory, PAGE.get() as i64)?;
        // SAFETY: no address is asked for, so no other mapping is replaced.
        let start = unsafe { mmap(None, PAGE, readable(), MapFlags::MAP_SHARED, memory, 0) }?;
        // Locked and left out of core dumps from the start (Linux mm/secretmem.c); mlock(2) would
        // fail, as it cannot fault the page in on the process's behalf.
        Self::own(start).keep_from_children()
    }

    /// Maps an ordinary page and locks it.
    fn map_anonymous() -> io::Result<Self> {
        // SAFETY: no address is asked for, so no other mapping is replaced.
        let start = unsafe { mmap_anonymous(None, PAGE, readable(), MapFlags::MAP_PRIVATE) }?;
        let page = Self::own(start);
        // SAFETY: the mapping is one page long, and neither call changes what is in it.
        unsafe {
            mlock(start, PAGE.get())?;
            madvise(start, PAGE.get(), MmapAdvise::MADV_DONTDUMP)?;
        }
        page.keep_from_children()
    }

    /// Takes over a mapping of one page: unmapped on drop, so on every error from here on.
    fn own(start: NonNull<c_void>) -> Self {
        Self {
            start: start.cast(),
            taken: Mutex::new(0),
        }
    }

    /// A child between fork and exec has no use for keys.
    fn keep_from_children(self) -> io::Result<Self> {
        // SAFETY: the mapping is one page long; the advice changes nothing in this process.
        unsafe { madvise(self.start.cast(), PAGE.get(), MmapAdvise::MADV_DONTFORK) }?;
        Ok(self)
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // SAFETY: mapped by `own`'s caller with this length; every `Slot` holds an `Arc` of the page,
        // so no reference into it is left. munmap(2) of a whole mapping does not fail.
        let _ = unsafe { munmap(self.start.cast(), PAGE.get()) };
    }
}

/// 32 bytes of a [`Page`], owned.
pub(super) struct Slot {
    page: Arc<Page>,
    index: u32,
}

impl Slot {
    /// Takes a free slot of `page`, if there is one.
    pub(super) fn take(page: &Arc<Page>) -> Option<Self> {
        let mut taken = page.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let index = taken.trailing_ones();
        if index == SLOTS {
            return None;
        }
        *taken |= 1 << index;
        Some(Self {
            page: Arc::clone(page),
            index,
        })
    }

    pub(super) fn bytes(&self) -> &[u8; SLOT] {
        // SAFETY: see `start`; a shared borrow of the slot is one of its bytes.
        unsafe { self.start().as_ref() }
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8; SLOT] {
        // SAFETY: see `start`; an exclusive borrow of the slot is one of its bytes.
        unsafe { self.start().as_mut() }
    }

    /// Valid, initialised (a fresh mapping is zero) and mapped as long as `self` is: `index` is
    /// below [`SLOTS`], so the slot ends within the page that `self.page` keeps. Only this slot
    /// reaches these bytes, because its bit stays set until it is dropped.
    fn start(&self) -> NonNull<[u8; SLOT]> {
        // SAFETY: within the page, as said above.
        unsafe { self.page.start.add(self.index as usize * SLOT) }.cast()
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.bytes_mut().zeroize();
        compiler_fence(Ordering::SeqCst);
        let mut taken = self
            .page
            .taken
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *taken &= !(1 << self.index);
    }
}

fn readable() -> ProtFlags {
    ProtFlags::PROT_READ | ProtFlags::PROT_WRITE
}

fn memfd_secret() -> io::Result<OwnedFd> {
    // SAFETY: takes one flags argument and no pointer.
    let fd = unsafe { libc::syscall(libc::SYS_memfd_secret, libc::O_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = c_int::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel has just opened it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
