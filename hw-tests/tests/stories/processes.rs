//! Processes: what is in them, and what their death costs.

use claviger_hw_tests::{PIN, Process, Swtpm, User, World, story, wait_until};
use nix::sys::signal::Signal;

use crate::scene::{alice_with_a_card, alice_with_an_open_folder, folder, says};

/// Names of libraries that reach tokens or key files.
const TOKEN_LIBRARIES: [&str; 9] = [
    "softhsm",
    "opensc",
    "ykcs11",
    "p11-kit",
    "pcsc",
    "libtss2",
    "libcrypto",
    "libssl",
    "libbotan",
];

#[track_caller]
fn has_no_token_library(process: Process) {
    let files = process.mapped_files();
    let found: Vec<&String> = files
        .iter()
        .filter(|file| TOKEN_LIBRARIES.iter().any(|name| file.contains(name)))
        .collect();
    assert!(found.is_empty(), "{found:?}");
}

story! {
    /// "`/proc/PID/maps` of `clavigerd` and `claviger-fs` name no token library."
    fn token_libraries_are_in_the_modules_and_nowhere_else(world) {
        let (alice, _card) = alice_with_a_card(world);
        let _tpm = Swtpm::new(&alice);
        alice.claviger(["stop"]).ok();
        alice.claviger(["key", "generate", "--module", "tpm", "--label", "laptop"]).ok();
        alice.sh("mkdir keys").ok();
        alice.claviger(["key", "generate", "--module", "openssl", "--label", "file", "--out", "keys/file.pem"]).ok();
        folder(&alice, &["--recipient", "k", "--recipient", "laptop", "--recipient", "file"]);
        alice.claviger(["mount", "Private", "private"]).answers(&[PIN]).ok();
        for key in ["k", "laptop", "file"] {
            alice.claviger(["lock", "--all"]).ok();
            alice.claviger(["unlock", "--key", key, "private"]).answers(&[PIN]).ok();
        }
        alice.sh("echo text >private/letter").ok();
        has_no_token_library(alice.daemon());
        has_no_token_library(alice.filesystem());
        let maps = |module| alice.module(module).mapped_files().join("\n");
        says(&maps("pkcs11"), &["softhsm"]);
        says(&maps("tpm"), &["libtss2"]);
        says(&maps("openssl"), &["libcrypto"]);
    }
}

story! {
    /// "A module that dies or hangs is killed and restarted."
    fn a_module_that_is_killed_is_started_anew_by_the_next_request(world) {
        let (alice, _card) = alice_with_a_card(world);
        folder(&alice, &["--recipient", "k", "--scope", "file"]);
        alice.claviger(["mount", "Private", "private"]).answers(&[PIN]).ok();
        alice.sh("echo 1 >private/one; echo 2 >private/two").ok();
        alice.claviger(["lock", "private"]).ok();
        alice.claviger(["unlock", "private"]).answers(&[PIN]).ok();
        let module = alice.module("pkcs11");
        module.kill();
        // Its login has gone with it.
        says(&alice.claviger(["cat", "Private", "one"]).fails(8), &["PIN"]);
        assert_eq!(alice.claviger(["cat", "Private", "one"]).answers(&[PIN]).ok(), "1\n");
        assert_ne!(alice.module("pkcs11"), module);
        assert_eq!(alice.sh("cat private/two").ok(), "2\n");
        let status = alice.status();
        assert!(status["modules"].as_array().unwrap().iter().any(|module| module["restarts"] == 1), "{status}");
    }
}

story! {
    /// "No token, driver, daemon or prompt can hang a file operation": a module that is stopped in the
    /// middle costs the one request its deadline, and no more.
    fn a_module_that_hangs_is_killed_at_the_deadline(world) {
        let (alice, _card) = alice_with_a_card(world);
        alice.configure("[policy]\ntoken-timeout-s = 1\n");
        alice.claviger(["stop"]).ok();
        folder(&alice, &["--recipient", "k"]);
        alice.claviger(["unlock", "Private"]).answers(&[PIN]).ok();
        alice.claviger(["lock", "Private"]).ok();
        let module = alice.module("pkcs11");
        module.signal(Signal::SIGSTOP);
        let said = alice.claviger(["unlock", "Private"]).answers(&[PIN]).fails(8);
        says(&said, &["timed out"]);
        wait_until("the module is killed", || module.has_ended());
        wait_until("its host knows", || !alice.modules().into_iter().any(Process::has_ended));
        alice.claviger(["unlock", "Private"]).answers(&[PIN]).ok();
    }
}

story! {
    /// "The thread that serves FUSE never blocks on a token": an open that waits for one holds up nobody
    /// else, and whoever waits can be killed.
    fn an_open_that_waits_for_a_token_can_be_killed_and_holds_up_nobody(world) {
        killed_while_it_waits(world, Signal::SIGKILL);
    }
}

story! {
    /// "Ctrl-C … answered EINTR."
    fn an_open_that_waits_for_a_token_can_be_interrupted(world) {
        killed_while_it_waits(world, Signal::SIGINT);
    }
}

fn killed_while_it_waits(world: &mut World, signal: Signal) {
    let (alice, _card) = alice_with_a_card(world);
    folder(&alice, &["--recipient", "k", "--scope", "file"]);
    alice
        .claviger(["mount", "Private", "private"])
        .answers(&[PIN])
        .ok();
    alice.sh("echo 1 >private/one; echo 2 >private/two").ok();
    alice.claviger(["umount", "private"]).ok();
    alice
        .claviger(["mount", "Private", "private"])
        .answers(&[PIN])
        .ok();
    alice.sh("cat private/two").ok();
    let mut two = alice.shell();
    two.ok("exec 3<private/two");
    let module = alice.module("pkcs11");
    module.signal(Signal::SIGSTOP);

    let mut waits = alice.sh("exec cat private/one").spawn();
    let waiting = Process { pid: waits.id() };
    wait_until("it waits in open(2)", || {
        std::fs::read_to_string(format!("/proc/{}/syscall", waiting.pid)).is_ok_and(|text| {
            let number: i64 = text
                .split(' ')
                .next()
                .and_then(|it| it.parse().ok())
                .unwrap_or(-1);
            [2, 56, 257].contains(&number) // open(2), and openat(2) of arm64 and x86-64
        })
    });
    alice
        .sh("ls -l private && stat private/one && echo 3 >private/three && mkdir private/dir")
        .ok();
    assert_eq!(two.ok("cat <&3"), "2\n");
    let begun = std::time::Instant::now();
    waiting.signal(signal);
    let status = waits.wait().unwrap();
    assert!(
        begun.elapsed() < std::time::Duration::from_secs(2),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(
        std::os::unix::process::ExitStatusExt::signal(&status),
        Some(signal as i32)
    );
    module.signal(Signal::SIGCONT);
    assert_eq!(alice.sh("cat private/one").ok(), "1\n");
}

story! {
    /// "Daemon not there": the mount says so at once or nearly, and any command brings one.
    fn without_a_daemon_a_mount_refuses_and_the_next_command_brings_one(world) {
        let alice = alice_with_an_open_folder(world);
        alice.sh("echo text >private/letter").ok();
        alice.claviger(["stop"]).ok();
        let begun = std::time::Instant::now();
        says(&alice.sh("cat private/letter").fails(1), &["Required key not available"]);
        assert!(begun.elapsed() < std::time::Duration::from_secs(5));
        alice.claviger(["unlock", "private"]).ok();
        assert_eq!(alice.sh("cat private/letter").ok(), "text\n");
    }
}

story! {
    /// "A daemon that vanishes without QUIT": what is open goes on, and the next command starts another.
    fn a_daemon_that_is_killed_takes_no_open_file_with_it(world) {
        let alice = alice_with_an_open_folder(world);
        alice.sh("echo old >private/old; echo cold >private/cold").ok();
        alice.claviger(["umount", "private"]).ok();
        alice.claviger(["mount", "Private", "private"]).ok();
        let mut shell = alice.shell();
        shell.ok("exec 3<private/old 4>>private/log");
        let daemon = alice.daemon();
        daemon.kill();

        assert_eq!(shell.ok("cat <&3; echo more >&4; cat private/log"), "old\nmore\n");
        alice.sh("ls -l private").ok();
        let said = alice.sh("timeout 60 cat private/cold").finish();
        assert_eq!(said.code, 1, "{said}");

        assert_ne!(alice.daemon(), daemon);
        alice.claviger(["unlock", "private"]).ok();
        assert_eq!(alice.sh("cat private/cold").ok(), "cold\n");
        alice.claviger(["lock", "private"]).ok();
        assert_ne!(shell.line("echo too late | cat >&4").status, 0);
        alice.claviger(["unlock", "private"]).ok();
        assert_eq!(alice.sh("cat private/log").ok(), "more\n");
    }
}

story! {
    /// "A kill of the filesystem process loses nothing of a new file."
    fn a_filesystem_that_is_killed_leaves_data_whole_and_a_mount_to_be_cleaned_up(world) {
        let alice = alice_with_an_open_folder(world);
        alice.sh("for i in $(seq 200); do echo line $i; done >private/lines; head -c 300000 /dev/urandom >noise; cp noise private/").ok();
        alice.filesystem().kill();
        wait_until("the mount is dead", || alice.sh("cat private/lines").finish().stderr.contains("not connected"));
        says(&alice.claviger(["mount", "Private", "private"]).fails(10), &["fusermount3 -u"]);
        alice.sh("fusermount3 -u private").ok();
        alice.claviger(["mount", "Private", "private"]).ok();
        alice.sh("cmp noise private/noise && test $(wc -l <private/lines) = 200").ok();
        alice.claviger(["verify", "Private"]).ok();
    }
}

story! {
    /// "A kill loses what was written over something durable in the last 5 seconds", and no more than that.
    fn what_is_written_over_is_below_within_seconds(world) {
        let alice = alice_with_an_open_folder(world);
        alice.sh("echo 'the old content' >private/letter && sync private/letter").ok();
        let sum = || alice.sh("cat $(find Private -type f -size +3 ! -path '*/.claviger/*') | sha256sum").ok();
        let mut shell = alice.shell();
        shell.ok("exec 4<>private/letter && printf 'the new' >&4");
        assert_eq!(alice.sh("cat private/letter").ok(), "the new content\n");
        let announced = sum();
        wait_until("it is written below, and the file still open", || sum() != announced);
        alice.filesystem().kill();
        wait_until("the mount is dead", || alice.sh("cat private/letter").finish().stderr.contains("not connected"));
        shell.line("exec 4>&-");
        alice.sh("fusermount3 -u private").ok();
        alice.claviger(["mount", "Private", "private"]).ok();
        assert_eq!(alice.sh("cat private/letter").ok(), "the new content\n");

        alice.sh("printf 'too late' 1<>private/letter").ok();
        alice.filesystem().kill();
        wait_until("the mount is dead", || alice.sh("cat private/letter").finish().stderr.contains("not connected"));
        alice.sh("fusermount3 -u private").ok();
        alice.claviger(["mount", "Private", "private"]).ok();
        let found = alice.sh("cat private/letter").ok();
        assert!(["the new content\n", "too latecontent\n"].contains(&found.as_str()), "{found}");
        alice.claviger(["verify", "Private"]).ok();
    }
}

story! {
    /// "A lock, an unmount and SIGTERM write everything out."
    fn what_is_written_over_is_not_lost_by_a_lock_an_unmount_or_a_signal_to_end(world) {
        let alice = alice_with_an_open_folder(world);
        alice.sh("echo old >private/letter && sync private/letter").ok();
        let over = |text: &str| alice.sh(&format!("printf {text} 1<>private/letter")).ok();
        let holds = |text: &str| assert_eq!(alice.sh("cat private/letter").ok(), format!("{text}\n"));
        over("one");
        alice.claviger(["lock", "private"]).ok();
        alice.claviger(["unlock", "private"]).ok();
        holds("one");
        over("two");
        alice.claviger(["umount", "private"]).ok();
        alice.claviger(["mount", "Private", "private"]).ok();
        holds("two");
        over("end");
        let filesystem = alice.filesystem();
        filesystem.signal(Signal::SIGTERM);
        wait_until("it has ended", || filesystem.has_ended());
        alice.claviger(["mount", "Private", "private"]).ok();
        holds("end");
    }
}

/// What another process of the same user gets of a process.
fn intrusions(alice: &User, process: Process) {
    for file in ["environ", "mem", "maps", "auxv", "exe", "fd/0"] {
        let path = format!("/proc/{}/{file}", process.pid);
        let line = match file {
            "exe" | "fd/0" => format!("readlink -v {path}"),
            _ => format!("head -c 1 {path}"),
        };
        says(&alice.sh(&line).fails(1), &["Permission denied"]);
    }
}

story! {
    /// "Not dumpable, no core": another process of the same user reads nothing out of them.
    fn another_process_of_the_same_user_cannot_look_into_ours(world) {
        let (alice, _card) = alice_with_a_card(world);
        folder(&alice, &["--recipient", "k"]);
        alice.claviger(["mount", "Private", "private"]).answers(&[PIN]).ok();
        // What can be read of a process that does not protect itself: the tests' own eyes work.
        let shell = alice.shell();
        alice.sh(&format!("head -c 1 /proc/{}/environ", shell.pid())).ok();
        for process in [alice.daemon(), alice.filesystem(), alice.module("pkcs11")] {
            intrusions(&alice, process);
            let limits = std::fs::read_to_string(format!("/proc/{}/limits", process.pid)).unwrap();
            let core = limits.lines().find(|line| line.starts_with("Max core")).unwrap();
            assert!(core.contains(" 0 "), "{core}");
        }
    }
}

story! {
    /// "The daemon starts on demand", once, however many ask at the same time.
    fn however_many_commands_start_at_once_there_is_one_daemon(world) {
        let alice = world.user("alice");
        let pids: Vec<Process> = std::thread::scope(|scope| {
            let asking: Vec<_> = (0..6).map(|_| scope.spawn(|| alice.daemon())).collect();
            asking.into_iter().map(|asked| asked.join().unwrap()).collect()
        });
        assert!(pids.iter().all(|pid| *pid == pids[0]), "{pids:?}");
        alice.claviger(["stop"]).ok();
        assert!(pids[0].has_ended());
        assert!(alice.claviger(["stop"]).ok().contains("does not run"));
    }
}
