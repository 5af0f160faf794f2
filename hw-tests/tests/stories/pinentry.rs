//! A file is opened that nobody has a CLI running for: pinentry asks, where an earlier CLI call was.

use claviger_hw_tests::{Display, PIN, Terminal, User, story, wait_until};

use crate::scene::{alice_with_a_card, says};
use crate::terminals::{CLAVIGER, cold_file, cool_down};

/// A terminal of hers, which she has used for a command: prompts may appear there from now on.
fn her_terminal(alice: &User) -> Terminal {
    let mut terminal = alice.terminal();
    terminal.begins(&format!("{CLAVIGER} status"));
    terminal.ends(0);
    terminal
}

/// Opens the cold file in that terminal, and waits for the dialogue.
fn a_dialogue_comes(terminal: &mut Terminal) -> String {
    terminal.begins("cat private/one");
    let said = terminal.shows("PIN:");
    wait_until("the dialogue has the terminal", || !terminal.echoes());
    said
}

/// The only process of that name, of anybody here.
fn dialogues(alice: &User) -> String {
    alice
        .sh("for p in /proc/[0-9]*; do cat $p/comm; done 2>/dev/null | grep -c ^pinentry || true")
        .ok()
}

/// What happens with each of Debian's two that need a terminal only.
fn asks_where_she_is(alice: &User, program: &str) {
    alice.write(".config/claviger/config.toml", "");
    let library = "/usr/lib/softhsm/libsofthsm2.so";
    alice.configure(&format!(
        "[pkcs11]\nlibraries = [\"{library}\"]\n[prompts]\npinentry = \"{program}\"\n"
    ));
    alice.claviger(["stop"]).ok();
    alice
        .claviger(["mount", "Private", "private"])
        .answers(&[PIN])
        .ok();
    cool_down(alice);
    let mut terminal = her_terminal(alice);
    let said = a_dialogue_comes(&mut terminal);
    says(
        &said,
        &["work", "to open a file of volume", "/home/alice/Private"],
    );
    terminal.types(&format!("{PIN}\r"));
    terminal.shows("1\r\n");
    terminal.ends(0);
    assert!(terminal.echoes());
    assert_eq!(dialogues(alice), "0\n");

    // The wrong one is sent once.
    cool_down(alice);
    a_dialogue_comes(&mut terminal);
    terminal.types("wrong\r");
    says(&terminal.ends(1), &["Key was rejected by service"]);
    assert!(!terminal.all_shown().contains(PIN) && !terminal.all_shown().contains("wrong\r"));
    alice.claviger(["umount", "private"]).ok();
}

story! {
    /// "By pinentry run only with a display or tty that a CLI call named": the curses one.
    fn pinentry_asks_on_the_terminal_of_an_earlier_command(world) {
        let (alice, _card) = alice_with_a_card(world);
        cold_file(&alice);
        asks_where_she_is(&alice, "/usr/bin/pinentry-curses");
    }
}

story! {
    /// The one that writes lines.
    fn a_pinentry_of_lines_asks_there_too(world) {
        let (alice, _card) = alice_with_a_card(world);
        cold_file(&alice);
        asks_where_she_is(&alice, "/usr/bin/pinentry-tty");
    }
}

story! {
    /// A dialogue that nobody answers is taken off the screen, and the open fails.
    fn a_pinentry_that_nobody_answers_leaves_the_terminal_in_order(world) {
        let (alice, _card) = alice_with_a_card(world);
        alice.configure("[prompts]\npinentry = \"/usr/bin/pinentry-curses\"\ntimeout-s = 2\n");
        alice.claviger(["stop"]).ok();
        cold_file(&alice);
        alice.claviger(["mount", "Private", "private"]).ok();
        let mut terminal = her_terminal(&alice);
        a_dialogue_comes(&mut terminal);
        says(&terminal.ends(1), &["timed out"]);
        assert!(terminal.echoes());
        assert_eq!(dialogues(&alice), "0\n");
        // Who is killed while it waits takes the dialogue along.
        a_dialogue_comes(&mut terminal);
        terminal.reader().signal(nix::sys::signal::Signal::SIGKILL);
        terminal.ends(137);
        wait_until("the dialogue has gone", || dialogues(&alice) == "0\n" && terminal.echoes());
    }
}

/// Opens the cold file in no terminal: what comes of it once it is answered.
fn opens_the_file(alice: &User) -> std::process::Child {
    alice.sh("exec cat private/one").spawn()
}

story! {
    /// The same on a display, whose key is where that command's `XAUTHORITY` said: the daemon, which was
    /// started elsewhere, has neither of its own.
    fn pinentry_asks_on_the_display_of_an_earlier_command(world) {
        let (alice, _card) = alice_with_a_card(world);
        alice.configure("[prompts]\npinentry = \"/usr/bin/pinentry-gtk-2\"\n");
        alice.claviger(["stop"]).ok();
        cold_file(&alice);
        alice.claviger(["mount", "Private", "private"]).ok();
        // Nobody is asked before a command has named a place.
        says(&alice.sh("cat private/one").fails(1), &["Required key not available"]);
        let display = Display::new(&alice);
        display.on(alice.claviger(["status"])).ok();

        let reader = opens_the_file(&alice);
        let dialogue = display.shows("Claviger");
        dialogue.types(PIN);
        let read = reader.wait_with_output().unwrap();
        assert_eq!((read.status.code(), read.stdout.as_slice()), (Some(0), &b"1\n"[..]));
        dialogue.goes();
        assert_eq!(dialogues(&alice), "0\n");

        cool_down(&alice);
        let reader = opens_the_file(&alice);
        display.shows("Claviger").presses("Escape");
        let read = reader.wait_with_output().unwrap();
        says(&String::from_utf8_lossy(&read.stderr), &["Operation canceled"]);
        assert_eq!(alice.audit().last().unwrap()["result"], "declined");
    }
}

story! {
    /// From a menu of a desktop there is no terminal, and no earlier command either.
    fn a_command_without_a_terminal_asks_on_its_display(world) {
        let (alice, _card) = alice_with_a_card(world);
        cold_file(&alice);
        alice.configure("[prompts]\npinentry = \"/usr/bin/pinentry-gtk-2\"\n");
        alice.claviger(["stop"]).ok();
        let display = Display::new(&alice);
        let unlock = || {
            let unlock = display.on(alice.claviger(["unlock", "Private"])).spawn();
            (unlock, display.shows("Claviger"))
        };
        let (declined, dialogue) = unlock();
        dialogue.presses("Escape");
        let declined = declined.wait_with_output().unwrap();
        assert_eq!(declined.status.code(), Some(8));
        let (unlocked, dialogue) = unlock();
        dialogue.types(PIN);
        let unlocked = unlocked.wait_with_output().unwrap();
        says(&String::from_utf8_lossy(&unlocked.stderr), &["Unlocked"]);
        assert_eq!(unlocked.status.code(), Some(0));
    }
}
