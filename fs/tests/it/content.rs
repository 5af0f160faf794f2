//! What is written is what is read.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime};

use claviger_vault::ids::Scope;
use nix::fcntl::{FallocateFlags, Flock, FlockArg, fallocate};
use nix::mount::mount;
use nix::sys::mman::{MapFlags, MsFlags, ProtFlags, mmap, msync, munmap};
use nix::unistd::{Whence, lseek64};

use crate::mounted::Mounted;
use crate::namespaces::isolated_test;
use crate::owners::as_user;

isolated_test! {
    fn what_was_written_reads_back_after_a_remount() {
        let mut mounted = Mounted::new();
        let sizes = [0, 1, 4095, 4096, 4097, 48 * 4096, 48 * 4096 + 1, 3_000_000];
        let content = |size: usize| (0..size).map(|i| (i * 7 % 251) as u8).collect::<Vec<_>>();
        for size in sizes {
            fs::write(mounted.path(format!("{size}")), content(size)).unwrap();
        }
        mounted.remount();
        for size in sizes {
            let path = mounted.path(format!("{size}"));
            assert_eq!(fs::metadata(&path).unwrap().len(), size as u64);
            assert!(fs::read(&path).unwrap() == content(size), "{size} bytes differ");
        }
    }
}

isolated_test! {
    fn an_unlinked_file_lives_as_long_as_it_is_open() {
        let mounted = Mounted::new();
        let path = mounted.path("file");
        let mut file = File::create_new(&path).unwrap();
        fs::remove_file(&path).unwrap();
        file.write_all(b"still here").unwrap();
        file.set_len(5).unwrap();
        file.sync_all().unwrap();
        let stat = file.metadata().unwrap();
        assert_eq!((stat.len(), stat.nlink()), (5, 0));
        file.set_permissions(fs::Permissions::from_mode(0o640)).unwrap();
        let mut content = String::new();
        file.seek(SeekFrom::Start(0)).unwrap();
        file.read_to_string(&mut content).unwrap();
        assert_eq!(content, "still");
        // A new file of the same name is another one.
        fs::write(&path, "new").unwrap();
        file.seek(SeekFrom::Start(0)).unwrap();
        assert_eq!(file.read(&mut [0; 8]).unwrap(), 5);
    }
}

isolated_test! {
    fn a_file_written_and_closed_keeps_the_time_that_was_set() {
        let mut mounted = Mounted::new();
        let path = mounted.path("copy");
        let set = SystemTime::UNIX_EPOCH + Duration::new(981_173_106, 123_456_789);
        let file = File::create(&path).unwrap();
        file.write_all_at(&[7; 10_000], 0).unwrap();
        file.set_modified(set).unwrap();
        drop(file);
        // Neither closing nor syncing nor moving it writes content.
        File::open(&path).unwrap().sync_all().unwrap();
        fs::create_dir(mounted.path("dir")).unwrap();
        let moved = mounted.path("dir/moved");
        fs::rename(&path, &moved).unwrap();
        fs::hard_link(&moved, mounted.path("link")).unwrap();
        mounted.remount();
        assert_eq!(fs::metadata(&moved).unwrap().modified().unwrap(), set);
    }
}

isolated_test! {
    fn a_shared_mapping_writes_to_the_file() {
        let mut mounted = Mounted::new();
        let path = mounted.path("mapped");
        fs::write(&path, vec![1; 10_000]).unwrap();
        let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let len = std::num::NonZeroUsize::new(10_000).unwrap();
        map_and_write(&file, len);
        drop(file);
        mounted.remount();
        let content = fs::read(&path).unwrap();
        assert_eq!((content[4999], content[5000], content[5001]), (1, 9, 1));
    }
}

isolated_test! {
    /// Though nobody answers FLUSH: whoever copies the lower folder then has what the mapping held.
    fn what_a_mapping_holds_is_below_when_the_file_is_closed() {
        let mounted = Mounted::new();
        let path = mounted.path("mapped");
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path).unwrap();
        file.write_all_at(&[1; 10_000], 0).unwrap();
        file.sync_all().unwrap();
        let below = || mounted.lower_files().iter().map(|path| fs::read(path).unwrap()).collect::<Vec<_>>();
        let before = below();
        map_and_close(file, std::num::NonZeroUsize::new(10_000).unwrap(), || {
            assert!(below() != before);
        });
    }
}

/// Writes into a mapping, closes the file, and calls `closed` before the mapping goes.
#[allow(unsafe_code)] // As below.
fn map_and_close(file: File, len: std::num::NonZeroUsize, closed: impl FnOnce()) {
    let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: as in `map_and_write`; the mapping outlives the descriptor.
    unsafe {
        let map = mmap(None, len, access, MapFlags::MAP_SHARED, &file, 0).unwrap();
        map.as_ptr().cast::<u8>().add(5000).write(9);
        drop(file);
        closed();
        munmap(map, len.get()).unwrap();
    }
}

#[allow(unsafe_code)] // Memory that is a file has no safe form.
fn map_and_write(file: &File, len: std::num::NonZeroUsize) {
    let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: a fresh mapping of `len` bytes of a file as long; one byte within it is written, and
    // nothing refers to it after it is unmapped.
    unsafe {
        let map = mmap(None, len, access, MapFlags::MAP_SHARED, file, 0).unwrap();
        map.as_ptr().cast::<u8>().add(5000).write(9);
        msync(map, len.get(), MsFlags::MS_SYNC).unwrap();
        munmap(map, len.get()).unwrap();
    }
}

isolated_test! {
    fn holes_are_found_and_zeroed_ranges_read_as_zeros() {
        let mounted = Mounted::new();
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(mounted.path("sparse"))
            .unwrap();
        file.write_all_at(&[5; 4096], 1 << 20).unwrap();
        assert_eq!(lseek64(&file, 0, Whence::SeekData), Ok(1 << 20));
        assert_eq!(lseek64(&file, 0, Whence::SeekHole), Ok(0));
        assert_eq!(lseek64(&file, 1 << 20, Whence::SeekHole), Ok((1 << 20) + 4096));

        file.write_all_at(&[5; 20_000], 0).unwrap();
        fallocate(&file, FallocateFlags::FALLOC_FL_ZERO_RANGE, 1000, 10_000).unwrap();
        let mut content = vec![1; 20_000];
        file.read_exact_at(&mut content, 0).unwrap();
        let zeros = content.iter().enumerate().filter(|(_, byte)| **byte == 0);
        assert_eq!(zeros.map(|(at, _)| at).collect::<Vec<_>>(), (1000..11_000).collect::<Vec<_>>());

        let size = file.metadata().unwrap().len();
        fallocate(&file, FallocateFlags::FALLOC_FL_ZERO_RANGE, size as i64 - 10, 100).unwrap();
        assert_eq!(file.metadata().unwrap().len(), size + 90);
        let refused = fallocate(&file, FallocateFlags::FALLOC_FL_COLLAPSE_RANGE, 0, 4096);
        assert_eq!(refused, Err(nix::errno::Errno::EOPNOTSUPP));
    }
}

isolated_test! {
    fn a_file_locked_by_one_handle_is_refused_to_another() {
        let mounted = Mounted::new();
        fs::write(mounted.path("lock"), "").unwrap();
        let open = || File::open(mounted.path("lock")).unwrap();
        let held = Flock::lock(open(), FlockArg::LockExclusiveNonblock).unwrap();
        let (_, refused) = Flock::lock(open(), FlockArg::LockExclusiveNonblock).unwrap_err();
        assert_eq!(refused, nix::errno::Errno::EWOULDBLOCK);
        drop(held);
        Flock::lock(open(), FlockArg::LockExclusiveNonblock).unwrap();
    }
}

isolated_test! {
    fn set_user_id_goes_when_another_user_changes_the_content() {
        let mounted = Mounted::new();
        let changes = [r#"echo >> "$1""#, r#"truncate -s 3 "$1""#, r#"true > "$1""#, r#"fallocate -l 9000 "$1""#];
        for (at, change) in changes.iter().enumerate() {
            let path = mounted.path(format!("program {at}"));
            fs::write(&path, "program").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o6777)).unwrap();
            as_user(1234, 1234, &[], change, &path);
            assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o777, "{change}");
        }
    }
}

isolated_test! {
    fn the_same_write_goes_on_when_its_file_is_written_only() {
        let mut mounted = Mounted::new();
        fs::write(mounted.path("log"), "one\n").unwrap();
        mounted.remount();
        // Opened for writing only, a partial block still has to be read.
        let mut log = OpenOptions::new().append(true).open(mounted.path("log")).unwrap();
        log.write_all(b"two\n").unwrap();
        drop(log);
        mounted.remount();
        assert_eq!(fs::read_to_string(mounted.path("log")).unwrap(), "one\ntwo\n");
    }
}

isolated_test! {
    fn a_file_that_never_reached_the_disk_is_not_empty_but_refused_and_can_be_replaced() {
        let mut mounted = Mounted::new();
        fs::write(mounted.path("file"), "content").unwrap();
        mounted.unmount();
        let [lower] = &mounted.lower_files()[..] else { panic!("one file was written") };
        File::options().write(true).open(lower).unwrap().set_len(0).unwrap();
        mounted.remount();
        let refused = fs::read(mounted.path("file")).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EIO));
        fs::rename(mounted.path("file"), mounted.path("renamed")).unwrap();
        fs::write(mounted.path("renamed"), "anew").unwrap();
        mounted.remount();
        assert_eq!(fs::read_to_string(mounted.path("renamed")).unwrap(), "anew");
    }
}

isolated_test! {
    fn a_full_lower_disk_is_told_and_what_was_there_stays() {
        let disk = Path::new("/mnt/disk");
        fs::create_dir(disk).unwrap();
        let options = Some("size=2m");
        mount(Some("small"), disk, Some("tmpfs"), nix::mount::MsFlags::empty(), options).unwrap();
        let mut mounted = Mounted::over(&disk.join("lower"), Scope::Volume);
        fs::write(mounted.path("kept"), vec![4; 100_000]).unwrap();
        let full = fs::write(mounted.path("large"), vec![5; 4 << 20]).unwrap_err();
        assert_eq!(full.raw_os_error(), Some(libc::ENOSPC));
        // Not even room for a header: then there is no file.
        let refused = (0..1000).find_map(|n| File::create(mounted.path(format!("{n}"))).err());
        assert_eq!(refused.and_then(|error| error.raw_os_error()), Some(libc::ENOSPC));
        for entry in fs::read_dir(mounted.root()).unwrap() {
            fs::read(entry.unwrap().path()).unwrap();
        }
        fs::remove_file(mounted.path("large")).unwrap();
        mounted.remount();
        assert!(fs::read(mounted.path("kept")).unwrap() == vec![4; 100_000]);
        fs::write(mounted.path("again"), vec![6; 100_000]).unwrap();
    }
}

isolated_test! {
    fn a_lower_folder_that_is_read_only_can_be_read() {
        let disk = Path::new("/mnt/disk");
        fs::create_dir(disk).unwrap();
        let none = nix::mount::MsFlags::empty();
        mount(Some("disk"), disk, Some("tmpfs"), none, None::<&str>).unwrap();
        let mut mounted = Mounted::over(&disk.join("lower"), Scope::Volume);
        fs::write(mounted.path("file"), "content").unwrap();
        mounted.unmount();
        // A mount of its own, since the old filesystem may still have descriptors in the other.
        let bind = nix::mount::MsFlags::MS_BIND;
        mount(Some(disk), disk, None::<&str>, bind, None::<&str>).unwrap();
        let read_only = bind | nix::mount::MsFlags::MS_REMOUNT | nix::mount::MsFlags::MS_RDONLY;
        mount(None::<&str>, disk, None::<&str>, read_only, None::<&str>).unwrap();
        mounted.remount();
        assert_eq!(fs::read_to_string(mounted.path("file")).unwrap(), "content");
        let refused = [
            fs::write(mounted.path("file"), "other"),
            fs::write(mounted.path("new"), ""),
            fs::create_dir(mounted.path("dir")),
            fs::rename(mounted.path("file"), mounted.path("renamed")),
            fs::remove_file(mounted.path("file")),
        ];
        let errnos = refused.map(|refused| refused.unwrap_err().raw_os_error());
        assert_eq!(errnos, [Some(libc::EROFS); 5]);
        assert_eq!(fs::read_to_string(mounted.path("file")).unwrap(), "content");
    }
}
