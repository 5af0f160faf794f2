//! Making a volume at a terminal: what is offered, and that no recovery key gets lost on the way.

use std::fs;

use claviger_hw_tests::{PIN, Process, SoftHsm, Swtpm, story, wait_until};
use nix::sys::signal::Signal;

use crate::scene::{says, software_key};
use crate::terminals::{CLAVIGER, asks};

/// Whether a signal waits for `process` to take it.
fn is_signalled(process: Process) -> bool {
    let status = fs::read_to_string(format!("/proc/{}/status", process.pid)).unwrap_or_default();
    let pending = status.lines().find_map(|line| line.strip_prefix("ShdPnd:"));
    pending.is_some_and(|mask| mask.trim().bytes().any(|digit| digit != b'0'))
}

story! {
    /// "`init` asks what shall open it": a key that is in the card, or a new one, with what it takes to make it.
    fn a_card_is_offered_and_a_key_made_in_it_where_there_is_none(world) {
        let mut alice = world.user("alice");
        let card = SoftHsm::new(&mut alice);
        card.alone(&alice);
        let token = card.token(&alice, "work");
        // Neither is a recipient that is named taken for something else.
        let said = alice.claviger(["init", "--recipient", &token, "Named"]).answers(&[PIN]).fails(3);
        says(&said, &[&token, "holds no key that can be used", "claviger key generate"]);
        alice.claviger(["stop"]).ok();
        let mut terminal = alice.terminal();
        terminal.begins(&format!("{CLAVIGER} init --no-recovery First"));
        terminal.shows("Use a key in the token 'work' (");
        terminal.types("y\n");
        asks(&mut terminal, "PIN");
        terminal.types(&format!("{PIN}\n"));
        terminal.shows("no key that can be used. Make one? [y/N] ");
        terminal.types("y\n");
        says(&terminal.ends(0), &["It opens with any one of:", "First"]);

        // Now there is one, and it is found although it is not enrolled any more.
        alice.claviger(["key", "remove", "First"]).ok();
        alice.claviger(["stop"]).ok();
        terminal.begins(&format!("{CLAVIGER} init --no-recovery Second"));
        terminal.shows("Use a key in the token 'work' (");
        terminal.types("y\n");
        asks(&mut terminal, "PIN");
        terminal.types(&format!("{PIN}\n"));
        terminal.ends(0);
        alice.claviger(["stop"]).ok();
        for volume in ["First", "Second"] {
            alice.claviger(["unlock", volume]).answers(&[PIN]).ok();
        }
    }
}

story! {
    /// The same for a TPM, whose keys are in files: a new one, with a PIN if that is wanted.
    fn a_tpm_is_offered_to_make_a_key_in(world) {
        let alice = world.user("alice");
        let _tpm = Swtpm::new(&alice);
        let mut terminal = alice.terminal();
        terminal.begins(&format!("{CLAVIGER} init --no-recovery Private"));
        terminal.shows("Make a key in the TPM '");
        terminal.types("y\n");
        terminal.shows("With a PIN");
        terminal.types("y\n");
        for question in ["New PIN", "The same once more"] {
            asks(&mut terminal, question);
            terminal.types("7051\n");
        }
        says(&terminal.ends(0), &["Private"]);
        alice.claviger(["stop"]).ok();
        alice.claviger(["unlock", "Private"]).fails(8);
        alice.claviger(["unlock", "Private"]).answers(&["7051"]).ok();

        // Who wants neither it nor what is offered then.
        terminal.begins(&format!("{CLAVIGER} init --no-recovery Other"));
        for question in ["Let key 'Private'", "Make a key in the TPM", "Make a key in a file"] {
            terminal.shows(question);
            terminal.types("n\n");
        }
        asks(&mut terminal, "New passphrase");
        terminal.types("\u{4}");
        terminal.ends(8);
        alice.sh("test ! -e Other").ok();
    }
}

story! {
    /// Ctrl-C while the daemon works: nobody would ever learn the recovery key of that volume.
    fn an_init_that_is_interrupted_makes_neither_a_volume_nor_a_recovery_file(world) {
        let alice = world.user("alice");
        alice.write("pass", "correct horse\n");
        let init = "init --passphrase-file pass --recovery-file recovery Private";
        let daemon = alice.daemon();
        let mut terminal = alice.terminal();
        for (signal, status) in [("\u{3}", 130), ("\u{1c}", 131)] {
            // So that it is at work for as long as it takes to interrupt it.
            daemon.signal(Signal::SIGSTOP);
            terminal.begins(&format!("{CLAVIGER} {init}"));
            wait_until("the command is with the daemon", || alice.home().join("recovery").exists());
            let command = terminal.reader();
            terminal.types(signal);
            wait_until("the signal has come", || command.has_ended() || is_signalled(command));
            daemon.signal(Signal::SIGCONT);
            terminal.ends(status);
            alice.sh("test ! -e recovery && test ! -e Private/.claviger").ok();
        }
        // What one that was killed leaves behind is in nobody's way.
        alice.sh("umask 077; >recovery").ok();
        terminal.begins(&format!("{CLAVIGER} {init}"));
        says(&terminal.ends(0), &["Recovery key written to recovery"]);
        alice.claviger(["unlock", "--recovery-file", "recovery", "Private"]).ok();

        let said = alice.claviger(["init", "--passphrase-file", "pass", "--recovery-file", "recovery", "Other"]).fails(2);
        says(&said, &["recovery exists already", "name a new file"]);
        alice.sh("test ! -e Other").ok();
    }
}

story! {
    /// A recovery key that cannot be written down must not exist, or another can be made.
    fn a_recovery_key_for_which_there_is_no_room_is_not_lost_unsaid(world) {
        let alice = world.user("alice");
        software_key(&alice, "k");
        alice.sh("mkdir stick").ok();
        world.root().sh("mount -t tmpfs -o size=4k,mode=777 none /home/alice/stick").ok();
        alice.sh("head -c 4k /dev/zero >stick/full").ok();
        let recovery = "stick/recovery";
        let said = alice.claviger(["init", "--recipient", "k", "--recovery-file", recovery, "Private"]).fails(1);
        says(&said, &[recovery, "No space left"]);
        alice.sh(&format!("test ! -e {recovery} && test ! -e Private")).ok();

        let said = alice.sh(&format!("{CLAVIGER} init --recipient k Private >/dev/full")).fails(1);
        says(&said, &["No space left", "recovery key is lost", "'claviger recipient add /home/alice/Private --recovery' makes another"]);
        alice.claviger(["unlock", "Private"]).ok();
        let said = alice.sh(&format!("{CLAVIGER} recipient add Private --recovery >/dev/full")).fails(1);
        says(&said, &["recovery key is lost", "--recovery' makes another"]);
        says(&alice.claviger(["recipient", "add", "Private", "--recovery"]).ok(), &["Recovery key, shown this once"]);
    }
}
