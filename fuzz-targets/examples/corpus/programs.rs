//! What the programs read of files, the kernel and each other.

use std::fs::{self};

use crate::Corpus;

pub(crate) fn seeds(corpus: &Corpus) {
    corpus.seed(
        "programs_mount_options",
        "some",
        "ro,noexec,allow_other,transport=unix,fsname=/home/a/Private,log=/tmp/log",
    );
    let mounts = "22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n\
                  62 31 0:50 / /home/a/my\\040files rw,nosuid - fuse.claviger /home/a/Private rw\n";
    corpus.seed("programs_mountinfo", "two", mounts);
    corpus.seed("programs_own_mounts", "two", mounts);
    corpus.seed("programs_directory_entries", "three", directory_entries());
    let status = fs::read("/proc/self/status").unwrap();
    corpus.seed("programs_proc_status", "own", status);
    corpus.seed("programs_report", "ready", "ready\n");
    corpus.seed("programs_report", "failed", "failed 10\nno folder /x\n");
    let uri = "pkcs11:token=Card?pin-source=file:/run/pin&module-name=x";
    corpus.seed("programs_pin_source", "file", uri);
    let config = "[pkcs11]\nlibraries = [\"/usr/lib/card.so\"]\n[tpm]\ntcti = \"swtpm:port=1\"\n\
                  [modules.vendor]\nprogram = \"/opt/vendor\"\nsettings = { reader = \"front\" }\n\
                  [prompts]\npinentry = \"pinentry-tty\"\ntimeout-s = 60\n\
                  [policy]\nfinal-try = \"ask\"\ntoken-timeout-s = 30\n";
    corpus.seed("programs_daemon_config", "all", config);
    corpus.seed("programs_pinentry_answer", "pin", "D 12%2534\nOK\n");
    corpus.seed(
        "programs_pinentry_answer",
        "declined",
        "ERR 83886179 Operation cancelled\n",
    );
}

/// As `struct linux_dirent64` has it (getdents64(2)).
fn directory_entries() -> Vec<u8> {
    let mut records = Vec::new();
    for (number, name) in ["a", "bcdefghij", ".claviger.dir"].iter().enumerate() {
        let len = (19 + name.len() + 1).next_multiple_of(8);
        let start = records.len();
        records.extend(number.to_ne_bytes());
        records.extend((number + 1).to_ne_bytes());
        records.extend(u16::try_from(len).unwrap().to_ne_bytes());
        records.push(8);
        records.extend(name.as_bytes());
        records.resize(start + len, 0);
    }
    records
}
