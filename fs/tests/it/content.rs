//! What is written is what is read.

use std::fs;

use crate::mounted::Mounted;
use crate::namespaces::isolated_test;

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
