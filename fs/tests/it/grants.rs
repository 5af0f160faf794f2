//! What one user has open, and another whose daemon invents the key of it.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;

use claviger_hw_tests::wait_until;

use crate::keys::Manner;
use crate::mounted::Mounted;
use crate::namespaces::isolated_test;
use crate::owners::{as_user, try_as_user};

const MALLORY: u32 = 1234;

/// All that he can do to open a file whose mode lets him.
const ATTEMPTS: [&str; 5] = [
    "cat $1",
    "echo his >> $1",
    "echo his 1<> $1",
    "true > $1",
    "truncate -s 3 $1",
];

/// A mount with one file that all may read and write.
fn with_file() -> Mounted {
    let mut mounted = Mounted::new();
    fs::write(mounted.path("file"), "secret").unwrap();
    fs::set_permissions(mounted.path("file"), fs::Permissions::from_mode(0o666)).unwrap();
    mounted.remount();
    mounted
}

fn answer_by(mounted: &Mounted, manner: Manner) {
    *mounted.keys.manner.lock().unwrap() = manner;
}

/// Whatever he tries he is refused, by what says that it does not verify.
pub(crate) fn is_refused(uid: u32, path: &Path) {
    for attempt in ATTEMPTS {
        let refused = try_as_user(uid, uid, &[], attempt, path);
        let said = String::from_utf8_lossy(&refused.stderr);
        assert!(!refused.status.success(), "{attempt}");
        assert!(refused.stdout.is_empty(), "{attempt}");
        assert!(said.contains("Input/output error"), "{attempt}: {said}");
    }
}

isolated_test! {
    fn an_invented_key_opens_nothing_that_another_has_open() {
        let mounted = with_file();
        let path = mounted.path("file");
        let reader = File::open(&path).unwrap();
        answer_by(&mounted, Manner::Invented);
        is_refused(MALLORY, &path);
        answer_by(&mounted, Manner::AtOnce);
        let writer = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        writer.write_all_at(b"S", 0).unwrap();
        answer_by(&mounted, Manner::Invented);
        is_refused(MALLORY, &path);

        // She has lost nothing by it, and he is let in once he has the key.
        let mut content = [0; 6];
        reader.read_exact_at(&mut content, 0).unwrap();
        assert_eq!(&content, b"Secret");
        answer_by(&mounted, Manner::AtOnce);
        assert_eq!(as_user(MALLORY, MALLORY, &[], "cat $1", &path), "Secret");
    }
}

isolated_test! {
    fn an_invented_key_opens_nothing_that_another_has_just_written_and_closed() {
        let mounted = with_file();
        let path = mounted.path("file");
        let writer = OpenOptions::new().write(true).open(&path).unwrap();
        writer.write_all_at(b"S", 0).unwrap();
        drop(writer);
        wait_until("it is closed", || mounted.fs.open_paths().is_empty());
        answer_by(&mounted, Manner::Invented);
        is_refused(MALLORY, &path);
        answer_by(&mounted, Manner::AtOnce);
        assert_eq!(fs::read_to_string(&path).unwrap(), "Secret");
    }
}

isolated_test! {
    fn who_has_the_key_opens_what_another_has_open_only_for_reading() {
        let mounted = with_file();
        let path = mounted.path("file");
        let reader = File::open(&path).unwrap();
        as_user(MALLORY, MALLORY, &[], "echo more >> $1", &path);
        let mut content = [0; 11];
        reader.read_exact_at(&mut content, 0).unwrap();
        assert_eq!(&content, b"secretmore\n");
    }
}
