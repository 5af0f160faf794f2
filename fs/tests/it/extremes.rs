//! Sizes, times and names at their limits.

use std::fs::{self, File, FileTimes};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::fcntl::{FallocateFlags, fallocate};
use nix::unistd::{Whence, lseek};

use crate::mounted::Mounted;
use crate::namespaces::isolated_test;

/// The largest file.
const MOST: u64 = 1 << 62;

isolated_test! {
    fn a_file_of_four_exbibytes_is_written_cut_and_searched_at_once() {
        let began = Instant::now();
        let mut mounted = Mounted::new();
        let path = mounted.path("file");
        let open = || File::options().read(true).write(true).create(true).truncate(false).open(&path).unwrap();
        let file = open();
        let places = [0, (1 << 44) - 3, (1 << 45) + 4096, MOST - 5];
        for place in places {
            file.write_all_at(b"place", place).unwrap();
        }
        let refused = file.write_all_at(b"x", MOST).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EFBIG));
        for size in [MOST + 1, i64::MAX as u64] {
            assert_eq!(file.set_len(size).unwrap_err().raw_os_error(), Some(libc::EFBIG));
        }
        let check = |file: &File, upto: usize| {
            for place in &places[..upto] {
                let mut found = [0; 5];
                file.read_exact_at(&mut found, *place).unwrap();
                assert_eq!(&found, b"place", "{place}");
            }
        };
        check(&file, 4);
        file.sync_all().unwrap();
        drop(file);
        mounted.remount();
        let file = open();
        assert_eq!(file.metadata().unwrap().len(), MOST);
        check(&file, 4);
        assert_eq!(lseek(&file, 5000, Whence::SeekData).unwrap(), ((1 << 44) - 3) / 4096 * 4096);
        assert_eq!(lseek(&file, 1 << 50, Whence::SeekData).unwrap() as u64, MOST - 4096);
        file.set_len(1 << 60).unwrap();
        file.set_len(MOST).unwrap();
        let mut found = [1; 5];
        file.read_exact_at(&mut found, MOST - 5).unwrap();
        assert_eq!(found, [0; 5]);
        check(&file, 3);
        let punch = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        fallocate(&file, punch, 10, 1_i64 << 61).unwrap();
        check(&file, 1);
        assert!(lseek(&file, 5000, Whence::SeekData).is_err());
        file.set_len(3).unwrap();
        file.set_len(1 << 61).unwrap();
        drop(file);
        mounted.remount();
        assert_eq!(fs::metadata(&path).unwrap().len(), 1 << 61);
        fs::remove_file(&path).unwrap();
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    }
}

isolated_test! {
    fn times_are_what_they_were_set_to_before_1970_and_after_2106() {
        let mut mounted = Mounted::new();
        let path = mounted.path("file");
        fs::write(&path, "content").unwrap();
        let nanosecond = Duration::from_nanos(1);
        let after = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        let times: [SystemTime; 9] = [
            UNIX_EPOCH,
            UNIX_EPOCH - nanosecond,
            UNIX_EPOCH - Duration::from_millis(1500),
            UNIX_EPOCH - Duration::from_secs(1 << 31) - nanosecond,
            after(1 << 31) - nanosecond,
            after(1 << 31) + nanosecond,
            after(1 << 32),
            after(1 << 34) - nanosecond,
            after(250_000_000_000),
        ];
        for time in times {
            let times = FileTimes::new().set_accessed(time).set_modified(time);
            File::options().write(true).open(&path).unwrap().set_times(times).unwrap();
            for _ in 0..2 {
                let metadata = fs::metadata(&path).unwrap();
                assert_eq!([metadata.modified().unwrap(), metadata.accessed().unwrap()], [time; 2]);
                mounted.remount();
            }
        }
    }
}

isolated_test! {
    fn names_that_differ_in_normalisation_or_are_no_text_are_names_of_their_own() {
        let mut mounted = Mounted::new();
        use std::os::unix::ffi::OsStrExt;
        let names: [&[u8]; 6] = ["é".as_bytes(), "e\u{301}".as_bytes(), "E".as_bytes(), "e".as_bytes(), b"\xff\xfe", b"\n"];
        for name in names {
            fs::write(mounted.path(std::ffi::OsStr::from_bytes(name)), name).unwrap();
        }
        mounted.remount();
        let mut seen = 0;
        for entry in fs::read_dir(mounted.root()).unwrap() {
            let entry = entry.unwrap();
            assert_eq!(fs::read(entry.path()).unwrap(), entry.file_name().as_bytes());
            assert_eq!(entry.metadata().unwrap().size(), entry.file_name().len() as u64);
            seen += 1;
        }
        assert_eq!(seen, names.len());
    }
}
