//! Appending goes to the end that a file has, whatever its lower file looks like.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use claviger_hw_tests::wait_until;
use claviger_vault::ids::Scope;
use nix::mount::mount;

use crate::mounted::Mounted;
use crate::namespaces::isolated_test;
use crate::owners::as_user;

/// A mount with a file of one line, behind whose end something was left below: as when the filesystem was
/// killed between the data of an append and the size of it.
fn with_leftovers() -> Mounted {
    let mut mounted = Mounted::new();
    let mut log = File::create(mounted.path("log")).unwrap();
    log.write_all(b"line 1\n").unwrap();
    log.sync_all().unwrap();
    drop(log);
    leave_something(&mut mounted);
    mounted
}

fn leave_something(mounted: &mut Mounted) {
    mounted.unmount();
    let [lower] = &mounted.lower_files()[..] else {
        panic!("one file was written")
    };
    let lower = File::options().write(true).open(lower).unwrap();
    lower.write_all_at(&[9; 500], 8192).unwrap();
    mounted.remount();
    // The kernel now believes something, and keeps that.
    let believed = fs::metadata(mounted.path("log")).unwrap().len();
    assert!(believed > 4096, "{believed}");
}

isolated_test! {
    fn an_append_goes_to_the_end_of_a_file_whose_last_size_was_lost() {
        let appends: [fn(&Path); 3] = [
            |path| drop(as_user(0, 0, &[], "echo line 2 >> $1", path)),
            |path| {
                let log = OpenOptions::new().append(true).open(path);
                log.unwrap().write_all(b"line 2\n").unwrap();
            },
            |path| {
                let log = OpenOptions::new().read(true).append(true).create(true).open(path);
                log.unwrap().write_all(b"line 2\n").unwrap();
            },
        ];
        for append in appends {
            let mut mounted = with_leftovers();
            append(&mounted.path("log"));
            assert_eq!(fs::read_to_string(mounted.path("log")).unwrap(), "line 1\nline 2\n");
            mounted.remount();
            assert_eq!(fs::read_to_string(mounted.path("log")).unwrap(), "line 1\nline 2\n");
            mounted.unmount();
            fs::remove_dir_all(mounted.lower()).unwrap();
        }
    }
}

isolated_test! {
    fn a_file_that_is_opened_has_the_size_that_it_has_from_then_on() {
        let mounted = with_leftovers();
        let mut log = File::open(mounted.path("log")).unwrap();
        assert_eq!(log.metadata().unwrap().len(), 7);
        assert_eq!(log.seek(SeekFrom::End(0)).unwrap(), 7);
        assert_eq!(fs::metadata(mounted.path("log")).unwrap().len(), 7);
        drop(log);
        let mut log = OpenOptions::new().read(true).write(true).open(mounted.path("log")).unwrap();
        assert_eq!(log.seek(SeekFrom::End(0)).unwrap(), 7);
        log.write_all(b"line 2\n").unwrap();
        drop(log);
        assert_eq!(fs::read_to_string(mounted.path("log")).unwrap(), "line 1\nline 2\n");
    }
}

isolated_test! {
    /// Without a name there is no lookup that could tell the kernel better.
    fn what_is_opened_without_a_name_is_read_but_not_appended_to_in_the_wrong_place() {
        let mounted = with_leftovers();
        let held = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(mounted.path("log")).unwrap();
        let nameless = format!("/proc/self/fd/{}", held.as_raw_fd());
        let mut content = String::new();
        File::open(&nameless).unwrap().read_to_string(&mut content).unwrap();
        assert_eq!(content, "line 1\n");
        let refused = OpenOptions::new().append(true).open(&nameless).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::ESTALE));
        // Once it has been opened by a name, it can be.
        assert_eq!(fs::read_to_string(mounted.path("log")).unwrap(), "line 1\n");
        let mut log = OpenOptions::new().append(true).open(mounted.path("log")).unwrap();
        log.write_all(b"line 2\n").unwrap();
        drop(log);
        let mut log = OpenOptions::new().append(true).open(&nameless).unwrap();
        log.write_all(b"line 3\n").unwrap();
        assert_eq!(fs::read_to_string(mounted.path("log")).unwrap(), "line 1\nline 2\nline 3\n");
    }
}

isolated_test! {
    fn an_append_after_one_that_a_full_disk_refused_goes_to_the_end_that_is_told() {
        let disk = Path::new("/mnt/disk");
        fs::create_dir(disk).unwrap();
        let none = nix::mount::MsFlags::empty();
        mount(Some("small"), disk, Some("tmpfs"), none, Some("size=2m")).unwrap();
        let mounted = Mounted::over(&disk.join("lower"), Scope::Volume);
        let path = mounted.path("log");
        let filler = mounted.path("filler");
        fs::write(&filler, vec![5; 500_000]).unwrap();
        fs::write(&path, "line 1\n").unwrap();
        let append = |data: &[u8]| OpenOptions::new().append(true).open(&path)?.write_all(data);
        let full = append(&vec![b'x'; 4 << 20]).unwrap_err();
        assert_eq!(full.raw_os_error(), Some(libc::ENOSPC));
        fs::remove_file(&filler).unwrap();
        // Settled: nothing that is known of it is in memory any more.
        mounted.fs.sync_all();
        fs::metadata(&path).unwrap();
        append(b"line 2\n").unwrap();
        let content = fs::read_to_string(&path).unwrap();
        let appended = content.strip_prefix("line 1\n").and_then(|rest| rest.strip_suffix("line 2\n"));
        assert!(appended.unwrap().bytes().all(|byte| byte == b'x'), "{} octets", content.len());
    }
}

isolated_test! {
    /// As a restore with `rsync --inplace` does, or `cp`.
    fn an_append_goes_to_the_end_of_what_somebody_has_written_over_the_lower_file() {
        let mut mounted = Mounted::new();
        let path = mounted.path("log");
        fs::write(&path, "line 1\n").unwrap();
        // Everything is written out by then.
        mounted.remount();
        let [lower] = &mounted.lower_files()[..] else {
            panic!("one file was written")
        };
        let lower = lower.clone();
        let older = fs::read(&lower).unwrap();
        let append = |data: &str| OpenOptions::new().append(true).open(&path)?.write_all(data.as_bytes());
        append("line 2\nline 3\n").unwrap();
        mounted.unmount();
        let newer = fs::read(&lower).unwrap();
        fs::write(&lower, &older).unwrap();
        mounted.remount();
        assert_eq!(fs::read_to_string(&path).unwrap(), "line 1\n");
        wait_until("it is closed", || mounted.fs.open_paths().is_empty());
        fs::write(&lower, newer).unwrap();
        append("line 4\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "line 1\nline 2\nline 3\nline 4\n");
        mounted.fs.sync_all();
        wait_until("it is closed", || mounted.fs.open_paths().is_empty());
        mounted.fs.sync_all();
        fs::write(&lower, older).unwrap();
        append("line 5\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "line 1\nline 5\n");
    }
}
