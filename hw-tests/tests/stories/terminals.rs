//! People at terminals: what they are asked, what shows of their answers, and how a question ends.

use claviger_hw_tests::{PIN, SoftHsm, Swtpm, Terminal, User, story, wait_until};
use nix::sys::signal::Signal;

use crate::scene::{alice_with_a_card, folder, says};

pub const CLAVIGER: &str = "/run/programs/claviger";

/// Begins `claviger ARGS`, and waits until it asks for `what` with its echo off; all that it says.
#[track_caller]
fn is_asked(terminal: &mut Terminal, args: &str, what: &str) -> String {
    terminal.begins(&format!("{CLAVIGER} {args}"));
    asks(terminal, what)
}

/// Waits until `what` is asked for with the echo off; all that is said.
#[track_caller]
pub fn asks(terminal: &mut Terminal, what: &str) -> String {
    let said = terminal.shows(&format!("{what}: "));
    assert!(!terminal.echoes(), "{said}");
    said
}

/// A volume of file scope with a file `one`, mounted, unlocked and cold: the next open needs the PIN.
pub fn cold_file(alice: &User) {
    folder(alice, &["--recipient", "k", "--scope", "file"]);
    alice
        .claviger(["mount", "Private", "private"])
        .answers(&[PIN])
        .ok();
    alice.sh("echo 1 >private/one").ok();
    alice.claviger(["umount", "private"]).ok();
    cool_down(alice);
}

/// Ends the login, and leaves the folder open.
pub fn cool_down(alice: &User) {
    alice.claviger(["unlock", "Private"]).answers(&[PIN]).ok();
    alice.module("pkcs11").kill();
    // What it was in the middle of would fail; the next request starts it anew.
    wait_until("the daemon has noticed", || alice.modules().is_empty());
}

story! {
    /// "The prompt names volume and token", and "a PIN is never echoed", whoever asks for it.
    fn a_pin_is_asked_for_by_name_and_never_shown(world) {
        const PIN: &str = "No digits, which ids have";
        let mut alice = world.user("alice");
        let card = SoftHsm::new(&mut alice);
        card.alone(&alice);
        let token = card.token_with_pin(&alice, "work", PIN);
        alice.claviger(["key", "generate", "--module", "pkcs11", "--token", &token, "--label", "k"]).answers(&[PIN]).ok();
        folder(&alice, &["--recipient", "k"]);
        alice.claviger(["stop"]).ok();
        let mut terminal = alice.terminal();
        let said = is_asked(&mut terminal, "unlock Private", "PIN");
        says(&said, &["PIN of token \"work\"", "to unlock volume /home/alice/Private (", "for [claviger] (process "]);
        terminal.types(&format!("{PIN}\n"));
        terminal.ends(0);
        assert!(terminal.echoes());
        alice.claviger(["stop"]).ok();

        says(&is_asked(&mut terminal, "mount Private private", "PIN"), &["\"work\"", "/home/alice/Private ("]);
        // Backspace and Ctrl-U edit what nobody sees.
        terminal.types(&format!("wrong\u{15}{PIN}x\u{7f}\n"));
        terminal.ends(0);
        terminal.begins("echo diary >private/diary; cat private/diary");
        terminal.shows("diary\r\n");
        terminal.ends(0);
        alice.claviger(["stop"]).ok();
        is_asked(&mut terminal, "cat Private diary", "PIN");
        terminal.types(&format!("{PIN}\n"));
        terminal.shows("diary\r\n");
        terminal.ends(0);
        // What was typed is on no screen, and nothing of it was left to the shell.
        let shown = terminal.all_shown();
        assert!(!shown.contains("digits") && !shown.contains("wrong"), "{shown}");
        assert!(!alice.logs().contains(PIN));
    }
}

story! {
    /// The same for what the CLI itself wants to know: new PINs twice, passphrases of old folders.
    fn new_pins_and_passphrases_are_never_shown(world) {
        let alice = world.user("alice");
        let _tpm = Swtpm::new(&alice);
        let mut terminal = alice.terminal();
        let generate = "key generate --module tpm --label laptop --pin";
        is_asked(&mut terminal, generate, "New PIN");
        terminal.types("secretly\n");
        asks(&mut terminal, "The same once more");
        terminal.types("secretli\n");
        says(&terminal.ends(2), &["the two PINs differ"]);
        is_asked(&mut terminal, generate, "New PIN");
        terminal.types("secretly\n");
        asks(&mut terminal, "The same once more");
        terminal.types("secretly\n");
        terminal.ends(0);

        crate::ecryptfs::unpack(&alice, "aes24-fnek", "lower");
        let said = is_asked(&mut terminal, "cat --format ecryptfs lower size1", "passphrase of lower");
        says(&said, &["Mount passphrase of lower"]);
        terminal.types("secretly\n");
        says(&terminal.ends(4), &["opens with key"]);
        assert!(terminal.echoes());
        let shown = terminal.all_shown();
        assert!(!shown.contains("secret"), "{shown}");
    }
}

story! {
    /// "Without any token it offers a software key or passphrase and says it is weaker."
    fn init_without_a_token_offers_a_key_in_a_file_and_then_a_passphrase(world) {
        let alice = world.user("alice");
        let mut terminal = alice.terminal();
        let chooses = |terminal: &mut Terminal, passphrase: &str| {
            for question in ["New passphrase", "The same once more"] {
                asks(terminal, question);
                terminal.types(&format!("{passphrase}\n"));
            }
            terminal.ends(0)
        };
        terminal.begins(&format!("{CLAVIGER} init --no-recovery Private"));
        says(&terminal.shows("Make a key in a file, with a passphrase? [y/N] "), &["Without a token", "weaker"]);
        terminal.types("y\n");
        let file = "/home/alice/.config/claviger/private/openssl-Private.pem";
        says(&chooses(&mut terminal, "sesame"), &[&format!("Key 'Private' is in {file}: keep a copy"), "Volume"]);
        says(&alice.sh(&format!("head -n 1 {file}")).ok(), &["ENCRYPTED PRIVATE KEY"]);
        alice.claviger(["stop"]).ok();
        alice.claviger(["unlock", "Private"]).answers(&["open"]).fails(6);
        alice.claviger(["unlock", "Private"]).answers(&["sesame"]).ok();

        // Who wants neither that key nor another.
        terminal.begins(&format!("{CLAVIGER} init --no-recovery Other"));
        for question in ["Let key 'Private' (openssl, ec-p256) open the volume? [y/N] ", "Make a key in a file, with a passphrase? [y/N] "] {
            terminal.shows(question);
            terminal.types("n\n");
        }
        chooses(&mut terminal, "correct horse");
        alice.claviger(["lock", "--all"]).ok();
        alice.claviger(["unlock", "Other"]).answers(&["correct horse"]).ok();
        let opened_by = |it: &serde_json::Value| it["opened_by"]["kind"].clone();
        assert_eq!(opened_by(&alice.status()["volumes"][0]), "passphrase");
    }
}

story! {
    /// "Echo off and restored, also after Ctrl-C at the prompt": for one thread and for several, and for
    /// whatever else ends a program. What was half typed is not the shell's.
    fn whatever_ends_a_prompt_the_terminal_is_as_before(world) {
        let (alice, _card) = alice_with_a_card(world);
        cold_file(&alice);
        let mut terminal = alice.terminal();
        for (ends, status) in [("\u{3}", 130), ("\u{1c}", 131), ("\u{4}", 8), ("\n", 6)] {
            // Over the control connection, and over callout.
            for args in ["key add pkcs11:token=work", "cat Private one"] {
                let half = if status == 8 { "" } else { "half" };
                is_asked(&mut terminal, args, "PIN");
                terminal.types(&format!("{half}{ends}"));
                terminal.ends(status);
                assert!(terminal.echoes(), "after {ends:?} {args}");
            }
        }
        is_asked(&mut terminal, "cat Private one", "PIN");
        terminal.reader().signal(Signal::SIGTERM);
        terminal.ends(143);
        assert!(terminal.echoes());
        let shown = terminal.all_shown();
        assert!(!shown.contains("half") && !shown.contains("not found"), "{shown}");

        // Stopped, the shell has the terminal; continued, it asks again.
        is_asked(&mut terminal, "cat Private one", "PIN");
        terminal.types("\u{1a}");
        terminal.ends(148);
        assert!(terminal.echoes());
        terminal.begins("fg");
        asks(&mut terminal, "PIN");
        terminal.types(&format!("{PIN}\n"));
        terminal.shows("1\r\n");
        terminal.ends(0);
        // Nobody waits any more for those that were ended.
        assert_eq!(alice.claviger(["cat", "Private", "one"]).ok(), "1\n");
    }
}

story! {
    /// A prompt that the daemon gives up on is over at once, without an Enter from anybody.
    fn a_prompt_that_took_too_long_is_over_at_once(world) {
        let (alice, _card) = alice_with_a_card(world);
        alice.configure("[prompts]\ntimeout-s = 2\n");
        alice.claviger(["stop"]).ok();
        cold_file(&alice);
        alice.sh("echo text >plain; true").ok();
        alice.claviger(["seal", "--recipient", "k", "-o", "sealed", "plain"]).ok();
        let mut terminal = alice.terminal();
        for args in ["key add pkcs11:token=work", "cat Private one", "unseal sealed"] {
            is_asked(&mut terminal, args, "PIN");
            terminal.types("12");
            let said = terminal.ends(8);
            says(&said, &["PIN of token \"work\""]);
            assert!(terminal.echoes(), "after {args}: {said}");
        }
        // The next one starts afresh, with nothing of what was typed before.
        is_asked(&mut terminal, "cat Private one", "PIN");
        terminal.types(&format!("{PIN}\n"));
        terminal.shows("1\r\n");
        terminal.ends(0);
    }
}

story! {
    /// "A wrong PIN says how many tries are left", and the last one is spent only by who agrees.
    fn at_a_terminal_the_tries_left_are_told_and_the_last_is_asked_about(world) {
        let (alice, _tpm) = crate::pins::alice_with_a_tpm_pin(world);
        let mut terminal = alice.terminal();
        is_asked(&mut terminal, "unlock Private", "PIN");
        terminal.types("1111\n");
        says(&terminal.ends(6), &["3 tries left", "sent once"]);
        says(&is_asked(&mut terminal, "unlock Private", "PIN"), &["3 tries left"]);
        terminal.types("2222\n");
        says(&terminal.ends(6), &["2 tries left"]);
        is_asked(&mut terminal, "unlock Private", "PIN");
        terminal.types("3333\n");
        says(&terminal.ends(6), &["1 try left"]);

        terminal.begins(&format!("{CLAVIGER} unlock Private"));
        says(&terminal.shows("[y/N] "), &["FINAL TRY", "/home/alice/Private"]);
        assert!(terminal.echoes(), "a yes shows");
        terminal.types("n\n");
        terminal.ends(8);
        terminal.begins(&format!("{CLAVIGER} unlock Private"));
        terminal.shows("[y/N] ");
        terminal.types("y\n");
        says(&asks(&mut terminal, "PIN"), &["1 try left"]);
        terminal.types("7051\n");
        terminal.ends(0);
    }
}

story! {
    /// Of two who unlock the same, one is asked; if that one gives up, the other.
    fn who_waits_for_somebody_who_gives_up_is_asked_himself(world) {
        let alice = world.user("alice");
        alice.write("pass", "sesame\n");
        folder(&alice, &["--passphrase-file", "pass"]);
        alice.claviger(["stop"]).ok();
        for (gives_up, status) in [("\u{3}", 130), ("\u{4}", 8)] {
            let (mut first, mut second) = (alice.terminal(), alice.terminal());
            is_asked(&mut first, "unlock Private", "Passphrase");
            second.begins(&format!("{CLAVIGER} unlock Private"));
            // By then it waits, most likely; it is asked in any case.
            alice.claviger(["status"]).ok();
            first.types(gives_up);
            first.ends(status);
            asks(&mut second, "Passphrase");
            second.types("sesame\n");
            second.ends(0);
            alice.claviger(["lock", "--all"]).ok();
        }
    }
}

story! {
    /// Without a terminal, `--pin-fd` is not waited for either once the daemon has given up.
    fn a_pin_that_comes_too_late_over_a_descriptor_is_not_waited_for(world) {
        let (alice, _card) = alice_with_a_card(world);
        alice.configure("[prompts]\ntimeout-s = 1\n");
        alice.claviger(["stop"]).ok();
        cold_file(&alice);
        let mut cat = alice.claviger(["--pin-fd", "0", "cat", "Private", "one"]).spawn();
        // Its input is open, and nothing comes.
        wait_until("it gives up", || cat.try_wait().unwrap().is_some());
        assert_eq!(cat.wait().unwrap().code(), Some(8));
    }
}
