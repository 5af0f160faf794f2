//! Memory for keys: never swapped, never in a core dump, wiped when given back.
//!
//! One page holds 128 keys of 32 bytes: RLIMIT_MEMLOCK is 8 MiB on a desktop and 64 KiB in many
//! containers, so a page a key would run out at the epochs of a few volumes. The last key of a page
//! takes the page with it, because a live memfd_secret(2) area forbids hibernation: a machine with
//! no volume unlocked may hibernate.

use std::io;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use zeroize::Zeroize;

mod sys;

/// 32 bytes in locked memory. Not printable, not clonable.
pub struct LockedKey(sys::Slot);

/// The kernel refuses to lock memory, and keys go nowhere else.
#[derive(Debug, thiserror::Error)]
#[error("cannot lock memory for keys (is RLIMIT_MEMLOCK 0?): {0}")]
pub struct LockedMemoryError(#[from] io::Error);

impl LockedKey {
    /// Takes over `bytes`; the caller's copy is wiped whatever happens.
    ///
    /// # Errors
    /// [`LockedMemoryError`] if no memory can be locked.
    pub fn new(bytes: &mut [u8; 32]) -> Result<Self, LockedMemoryError> {
        let slot = free_slot();
        let key = slot.map(|mut slot| {
            slot.bytes_mut().copy_from_slice(bytes);
            Self(slot)
        });
        bytes.zeroize();
        Ok(key?)
    }

    /// Lets `fill` write a fresh key in place.
    pub(crate) fn filled_by(fill: impl FnOnce(&mut [u8; 32])) -> Result<Self, LockedMemoryError> {
        let mut slot = free_slot()?;
        fill(slot.bytes_mut());
        Ok(Self(slot))
    }

    /// The key itself.
    pub fn expose(&self) -> &[u8; 32] {
        self.0.bytes()
    }
}

/// Pages with a key in them; a page that lost its last key is gone, and its entry goes next time.
static PAGES: Mutex<Vec<Weak<sys::Page>>> = Mutex::new(Vec::new());

fn free_slot() -> io::Result<sys::Slot> {
    // A panic while the list was held leaves it whole: it only ever loses dead entries or gains one.
    let mut pages = PAGES.lock().unwrap_or_else(PoisonError::into_inner);
    pages.retain(|page| page.strong_count() > 0);
    let taken = pages
        .iter()
        .filter_map(Weak::upgrade)
        .find_map(|page| sys::Slot::take(&page));
    if let Some(slot) = taken {
        return Ok(slot);
    }
    let page = Arc::new(sys::Page::map()?);
    pages.push(Arc::downgrade(&page));
    Ok(sys::Slot::take(&page).expect("a new page has free slots"))
}

#[cfg(test)]
mod tests {
    use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

    use super::*;

    /// The paragraph of /proc/self/smaps about the mapping that `address` lies in.
    fn mapping_of(address: usize) -> String {
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut found = String::new();
        let mut inside = false;
        for line in smaps.lines() {
            let range = line.split(' ').next().and_then(|range| {
                let (start, end) = range.split_once('-')?;
                let parse = |text| usize::from_str_radix(text, 16).ok();
                Some(parse(start)?..parse(end)?)
            });
            if let Some(range) = range {
                inside = range.contains(&address);
            }
            if inside {
                found += line;
                found += "\n";
            }
        }
        found
    }

    fn flags_of(mapping: &str) -> Vec<&str> {
        let flags = mapping
            .lines()
            .find_map(|line| line.strip_prefix("VmFlags:"));
        flags.unwrap().split_whitespace().collect()
    }

    #[test]
    fn a_key_lies_in_a_page_that_is_locked_and_left_out_of_core_dumps_and_forks() {
        let key = LockedKey::new(&mut [7; 32]).unwrap();
        let mapping = mapping_of(key.expose().as_ptr().addr());
        let flags = flags_of(&mapping);
        for flag in ["lo", "dd", "dc"] {
            assert!(flags.contains(&flag), "no {flag} in {mapping}");
        }
    }

    /// Refuses `call` to this thread with `errno`, as kernels and containers without it do.
    fn refuse(call: i64, errno: i32) {
        let filter = SeccompFilter::new(
            [(call, Vec::new())].into(),
            SeccompAction::Allow,
            SeccompAction::Errno(errno.unsigned_abs()),
            std::env::consts::ARCH.try_into().unwrap(),
        );
        let program: BpfProgram = filter.unwrap().try_into().unwrap();
        seccompiler::apply_filter(&program).unwrap();
    }

    #[test]
    fn without_memfd_secret_the_page_is_locked_all_the_same() {
        let mapped_without = || {
            refuse(libc::SYS_memfd_secret, libc::ENOSYS);
            sys::Page::map().unwrap()
        };
        let page = std::thread::scope(|scope| scope.spawn(mapped_without).join().unwrap());
        let page = Arc::new(page);
        let slot = sys::Slot::take(&page).unwrap();
        let mapping = mapping_of(slot.bytes().as_ptr().addr());
        assert!(!mapping.contains("secretmem"), "{mapping}");
        let flags = flags_of(&mapping);
        for flag in ["lo", "dd", "dc"] {
            assert!(flags.contains(&flag), "no {flag} in {mapping}");
        }
        assert!(mapping.contains("Locked:                4 kB"), "{mapping}");
    }

    #[test]
    fn where_no_memory_can_be_locked_a_key_goes_nowhere() {
        let map_without = || {
            refuse(libc::SYS_memfd_secret, libc::ENOSYS);
            refuse(libc::SYS_mlock, libc::EPERM);
            sys::Page::map().map(drop)
        };
        let refused = std::thread::scope(|scope| scope.spawn(map_without).join().unwrap());
        assert_eq!(refused.unwrap_err().raw_os_error(), Some(libc::EPERM));
    }

    #[test]
    fn the_caller_s_copy_is_wiped() {
        let mut bytes = [7; 32];
        let key = LockedKey::new(&mut bytes).unwrap();
        assert_eq!(key.expose(), &[7; 32]);
        assert_eq!(bytes, [0; 32]);
    }

    #[test]
    fn a_dropped_key_is_wiped_and_its_place_used_again() {
        let page = Arc::new(sys::Page::map().unwrap());
        let _stays = sys::Slot::take(&page).unwrap();
        let mut slot = sys::Slot::take(&page).unwrap();
        slot.bytes_mut().fill(7);
        let address = slot.bytes().as_ptr();
        drop(slot);
        let next = sys::Slot::take(&page).unwrap();
        assert_eq!(next.bytes().as_ptr(), address);
        assert_eq!(next.bytes(), &[0; 32]);
    }

    #[test]
    fn a_page_holds_128_keys_and_no_two_overlap() {
        let page = Arc::new(sys::Page::map().unwrap());
        let mut slots: Vec<_> = (0..128).map(|_| sys::Slot::take(&page).unwrap()).collect();
        assert!(sys::Slot::take(&page).is_none());
        for (slot, n) in slots.iter_mut().zip(0..) {
            slot.bytes_mut().fill(n);
        }
        for (slot, n) in slots.iter().zip(0..) {
            assert_eq!(slot.bytes(), &[n; 32]);
        }
    }

    #[test]
    fn the_last_key_takes_its_page_with_it() {
        let page = Arc::new(sys::Page::map().unwrap());
        let slot = sys::Slot::take(&page).unwrap();
        let address = slot.bytes().as_ptr().addr();
        drop(page);
        assert!(flags_of(&mapping_of(address)).contains(&"lo"));
        drop(slot);
        // Another thread's ordinary memory may be mapped there by now, but no locked page.
        assert!(!mapping_of(address).contains(" lo "));
    }
}
