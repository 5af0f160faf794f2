//! A locked folder refuses everything, and an unlocked one has lost nothing.

use std::os::unix::net::UnixStream;
use std::thread;

use claviger_hw_tests::{story, wait_until};

use crate::ecryptfs::{PASSPHRASE, unpack};
use crate::scene::{alice_with_an_open_folder, says, software_key};

/// strerror(ENOKEY).
const LOCKED: &str = "Required key not available";

story! {
    /// "A locked mount answers ENOKEY to all but its root's attributes and statfs."
    fn a_locked_folder_refuses_every_operation(world) {
        let alice = alice_with_an_open_folder(world);
        alice.sh("mkdir private/sub; echo text >private/letter; ln -s letter private/link").ok();
        alice.claviger(["lock", "private"]).ok();
        for line in [
            "ls private",
            "cat private/letter",
            "stat private/letter",
            "readlink -v private/link",
            "echo more >>private/letter",
            "echo new >private/new",
            "mkdir private/dir",
            "mkfifo private/fifo",
            "ln -s x private/other",
            "ln private/letter private/hard",
            "mv private/letter private/moved",
            "rm private/letter",
            "rmdir private/sub",
            "chmod 600 private/letter",
            "touch private/letter",
            "truncate -s 0 private/letter",
            "setfattr -n user.x -v y private/letter",
        ] {
            let refused = alice.sh(line).finish();
            assert_ne!(refused.code, 0, "{refused}");
            says(&refused.stderr, &[LOCKED]);
        }
        alice.sh("stat private && stat -f private").ok();
        alice.claviger(["unlock", "private"]).ok();
        assert_eq!(alice.sh("cat private/letter private/link").ok(), "text\ntext\n");
        assert_eq!(alice.sh("ls -A private").ok(), "letter\nlink\nsub\n");
    }
}

story! {
    /// "`lock` forgets the keys of a volume: its mounts refuse everything", what is open included.
    fn files_that_are_open_read_and_write_nothing_while_it_is_locked(world) {
        let alice = alice_with_an_open_folder(world);
        alice.sh("echo text >private/letter; echo first >private/log").ok();
        let mut shell = alice.shell();
        shell.ok("exec 3<private/letter 4>>private/log; cd private");
        shell.ok("/bin/echo second >&4");
        alice.claviger(["lock", "private"]).ok();
        for line in ["cat <&3", "/bin/echo third >&4", "ls", "cat letter"] {
            let said = shell.line(line);
            assert_ne!(said.status, 0, "{line}: {}", said.text);
            says(&said.text, &[LOCKED]);
        }
        alice.claviger(["unlock", "private"]).ok();
        assert_eq!(alice.sh("cat private/letter private/log").ok(), "text\nfirst\nsecond\n");
        // Opened anew in the same shell, in the same folder.
        assert_eq!(shell.ok("cat letter"), "text\n");
    }
}

story! {
    /// "Pages still mapped then fault to SIGBUS": also those of a program that runs from the folder.
    fn what_is_mapped_from_a_locked_folder_can_no_longer_be_touched(world) {
        const SIGBUS: i32 = 7;
        let alice = alice_with_an_open_folder(world);
        alice.sh("cp /bin/sh private/sh").ok();
        let mut shell = alice.shell();
        shell.begin("private/sh -c 'echo runs; read line; echo touched'");
        wait_until("it runs from the folder", || {
            alice.sh("cat /proc/*/cmdline 2>/dev/null | tr '\\0' ' '").ok().contains("private/sh -c")
        });
        alice.claviger(["lock", "private"]).ok();
        shell.type_in("\n");
        let said = shell.end();
        assert_eq!(said.status, 128 + SIGBUS, "{}", said.text);
        assert!(!said.text.contains("touched"), "{}", said.text);
    }
}

story! {
    /// "`lock --all`: all volumes of this user."
    fn lock_all_locks_every_folder(world) {
        let alice = alice_with_an_open_folder(world);
        alice.claviger(["init", "--no-recovery", "--recipient", "k", "Second"]).ok();
        alice.sh("mkdir second").ok();
        alice.claviger(["mount", "Second", "second"]).ok();
        alice.sh("echo one >private/f; echo two >second/f").ok();
        alice.claviger(["lock", "--all"]).ok();
        for folder in ["private", "second"] {
            says(&alice.sh(&format!("cat {folder}/f")).fails(1), &[LOCKED]);
        }
        let status = alice.status();
        let volumes = status["volumes"].as_array().unwrap();
        assert!(volumes.len() == 2 && volumes.iter().all(|volume| volume["unlocked"] == false), "{status}");
        alice.claviger(["unlock", "second"]).ok();
        assert_eq!(alice.sh("cat second/f").ok(), "two\n");
        says(&alice.sh("cat private/f").fails(1), &[LOCKED]);
        assert_eq!(alice.claviger(["lock", "private"]).ok(), "/home/alice/private is locked\n");
        alice.claviger(["umount", "private"]).ok();
        assert_eq!(alice.claviger(["lock", "Private"]).ok(), "Nothing was unlocked\n");
    }
}

story! {
    /// A daemon that crashed has not locked (decision 041); `lock` and `stop` reach what it left open, and say so.
    fn what_a_crashed_daemon_left_open_is_locked_by_lock_and_by_stop(world) {
        let alice = alice_with_an_open_folder(world);
        alice.sh("echo text >private/f").ok();
        for (command, said) in [
            (["lock", "--all"].as_slice(), "/home/alice/private is locked\n"),
            (&["lock", "Private"], "/home/alice/private is locked\n"),
            (&["stop"], "clavigerd did not run; what it left open is locked\n"),
        ] {
            alice.claviger(["unlock", "private"]).ok();
            alice.daemon().kill();
            let socket = alice.runtime().join("claviger/daemon.sock");
            wait_until("its socket is dead", || UnixStream::connect(&socket).is_err());
            alice.sh("ls private/f").ok();
            assert_eq!(alice.claviger(command).ok(), said, "{command:?}");
            says(&alice.sh("ls private/f").fails(2), &[LOCKED]);
        }
        alice.claviger(["umount", "private"]).ok();
        assert_eq!(alice.claviger(["stop"]).ok(), "clavigerd does not run\n");
    }
}

story! {
    /// "Lock … write out what programs have written": whatever was synced before it is there after.
    fn a_lock_while_programs_write_loses_nothing_that_was_synced(world) {
        let alice = alice_with_an_open_folder(world);
        let mut writers: Vec<_> = ["a", "b"].iter().map(|who| (who, alice.shell())).collect();
        for (who, shell) in &mut writers {
            shell.begin(&format!(
                "i=0; while echo $i >private/{who}.$i && echo $i >>private/{who}.all \
                 && sync private/{who}.$i private/{who}.all; do echo $i >>{who}.synced; i=$((i+1)); done"
            ));
        }
        wait_until("both have synced some files", || {
            alice.sh("test $(cat a.synced 2>/dev/null | wc -l) -gt 20 -a $(cat b.synced 2>/dev/null | wc -l) -gt 20").finish().code == 0
        });
        alice.claviger(["lock", "private"]).ok();
        for (_, shell) in &mut writers {
            // dash says "I/O error" of whatever a write of its own met.
            assert_ne!(shell.end().text, "");
        }
        alice.claviger(["unlock", "private"]).ok();
        for (who, _) in &writers {
            alice.sh(&format!("for i in $(cat {who}.synced); do test $(cat private/{who}.$i) = $i || exit 1; done")).ok();
            // One line more may have been written and not been synced.
            let synced = alice.sh(&format!("cat {who}.synced")).ok();
            let all = alice.sh(&format!("cat private/{who}.all")).ok();
            assert!(all.starts_with(&synced), "{who}: synced {synced}, there is {all}");
        }
        alice.claviger(["lock", "private"]).ok();
        alice.claviger(["verify", "Private"]).ok();
    }
}

story! {
    /// Locking twice, unlocking twice, and both at once: the last word counts, and nothing is damaged.
    fn lock_and_unlock_in_each_others_way_leave_the_folder_whole(world) {
        let alice = alice_with_an_open_folder(world);
        alice.sh("echo text >private/letter").ok();
        thread::scope(|scope| {
            for command in ["lock", "unlock", "lock", "unlock"] {
                let alice = &alice;
                scope.spawn(move || {
                    for _ in 0..5 {
                        let done = alice.claviger([command, "private"]).finish();
                        // An unlock may meet the lock halfway.
                        assert!([0, 9, 18].contains(&done.code), "{done}");
                    }
                });
            }
        });
        alice.claviger(["unlock", "private"]).ok();
        assert_eq!(alice.sh("cat private/letter").ok(), "text\n");
    }
}

story! {
    /// "`unlock --all`": what is mounted, by whatever opens each, and what does not open is told.
    fn unlock_all_opens_what_is_mounted_and_tells_what_stays_locked(world) {
        const PASS: &str = "correct horse";
        let alice = alice_with_an_open_folder(world);
        assert_eq!(alice.claviger(["unlock", "--all"]).ok(), "Nothing was locked\n");
        alice.write("pass", PASS);
        alice.claviger(["init", "--no-recovery", "--passphrase-file", "pass", "Other"]).ok();
        software_key(&alice, "away");
        alice.claviger(["init", "--no-recovery", "--recipient", "away", "Away"]).ok();
        unpack(&alice, "aes24-fnek", "lower");
        alice.sh("mkdir other away mnt").ok();
        alice.claviger(["mount", "Other", "other"]).answers(&[PASS]).ok();
        alice.claviger(["mount", "Away", "away"]).ok();
        alice.claviger(["mount", "--format", "ecryptfs", "lower", "mnt"]).answers(&[PASSPHRASE]).ok();
        alice.claviger(["lock", "--all"]).ok();

        alice.sh("mv keys/away.pem elsewhere.pem").ok();
        let said = alice.claviger(["unlock", "--all"]).answers(&[PASS, PASSPHRASE]).fails(5);
        let opened = ["Other", "Private", "lower"].map(|dir| format!("Unlocked /home/alice/{dir} with"));
        says(&said, &opened.each_ref().map(String::as_str));
        says(&said, &["away.pem", "\n/home/alice/Away stays locked"]);
        alice.sh("ls private other mnt").ok();
        says(&alice.sh("ls away").finish().stderr, &[LOCKED]);

        alice.sh("mv elsewhere.pem keys/away.pem").ok();
        alice.claviger(["unlock", "--all"]).ok();
        alice.sh("ls away").ok();
    }
}
