//! PINs: asked for once, sent once, counted.

use claviger_hw_tests::{PIN, SoftHsm, Swtpm, User, World, story, wait_until};

use crate::scene::{alice_with_a_card, card_key, folder, says};

story! {
    /// "Wrong PIN: never sent twice."
    fn a_wrong_pin_is_refused_and_not_sent_again(world) {
        let (alice, _card) = alice_with_a_card(world);
        folder(&alice, &["--recipient", "k"]);
        alice.claviger(["stop"]).ok();
        let said = alice.claviger(["unlock", "Private"]).answers(&["000000", PIN]).fails(6);
        says(&said, &["refused the PIN", "sent once", "try again"]);
        alice.claviger(["unlock", "Private"]).fails(8);
        let lines = alice.audit();
        let last = &lines[lines.len() - 2];
        assert!(last["result"].as_str().is_some_and(|it| it.contains("refused the PIN")), "{last}");
        alice.claviger(["unlock", "Private"]).answers(&[PIN]).ok();
    }
}

/// Alice, with a TPM key that has a PIN, in whose TPM few failures lock.
pub fn alice_with_a_tpm_pin(world: &mut World) -> (User, Swtpm) {
    let alice = world.user("alice");
    let tpm = Swtpm::new(&alice);
    tpm.tool(
        "tpm2_dictionarylockout",
        &[
            "--setup-parameters",
            "--max-tries=4",
            "--recovery-time=1000",
            "--lockout-recovery-time=1000",
        ],
    );
    alice
        .claviger([
            "key", "generate", "--module", "tpm", "--label", "laptop", "--pin",
        ])
        .answers(&["7051", "7051"])
        .ok();
    folder(&alice, &["--recipient", "laptop"]);
    alice.claviger(["stop"]).ok();
    (alice, tpm)
}

/// The TPM's own count of failed authorisations.
fn failures(tpm: &Swtpm) -> u32 {
    let properties = tpm.tool("tpm2_getcap", &["properties-variable"]);
    let line = properties
        .lines()
        .find(|line| line.contains("TPM2_PT_LOCKOUT_COUNTER"))
        .unwrap();
    let value = line.split_once(':').unwrap().1.trim();
    u32::from_str_radix(value.trim_start_matches("0x"), 16).unwrap()
}

story! {
    /// "Tries left shown": and each wrong answer costs one try, not two.
    fn a_wrong_tpm_pin_costs_one_try_and_the_tries_left_are_told(world) {
        let (alice, tpm) = alice_with_a_tpm_pin(world);
        let said = alice.claviger(["unlock", "Private"]).answers(&["1111", "7051"]).fails(6);
        says(&said, &["3 tries left"]);
        alice.claviger(["stop"]).ok();
        assert_eq!(failures(&tpm), 1);
        assert!(alice.claviger(["token", "list"]).ok().contains("3 tries left"));
        alice.claviger(["unlock", "Private"]).answers(&["7051"]).ok();
    }
}

story! {
    /// "Automatic use stops before the final try"; "TPM lockout" has an exit code of its own.
    fn the_last_try_is_not_spent_unasked_and_a_lockout_is_told_as_such(world) {
        let (alice, tpm) = alice_with_a_tpm_pin(world);
        for (wrong, left) in [("1111", "3 tries left"), ("2222", "2 tries left"), ("3333", "1 try left")] {
            let said = alice.claviger(["unlock", "Private"]).answers(&[wrong]).fails(6);
            says(&said, &[left]);
        }
        // Nobody is there who could agree: the PIN is not even sent. Who wrote lines for --pin-fd was not told.
        says(&alice.claviger(["unlock", "Private"]).answers(&["7051"]).fails(7), &["one try left"]);
        alice.configure("[policy]\nfinal-try = \"never\"\n");
        alice.claviger(["stop"]).ok();
        says(&alice.claviger(["unlock", "Private"]).answers(&["7051"]).fails(7), &["one try left"]);
        alice.claviger(["stop"]).ok();
        assert_eq!(failures(&tpm), 3);

        // Somebody else spends the last one.
        tpm.tool("tpm2_dictionarylockout", &["--setup-parameters", "--max-tries=3", "--recovery-time=1000", "--lockout-recovery-time=1000"]);
        let said = alice.claviger(["unlock", "Private"]).answers(&["7051"]).fails(16);
        says(&said, &["lockout", "minutes"]);
        alice.claviger(["stop"]).ok();
        tpm.tool("tpm2_dictionarylockout", &["--clear-lockout"]);
        alice.claviger(["unlock", "Private"]).answers(&["7051"]).ok();
    }
}

story! {
    /// "Else a cold access fails at once and says what to type."
    fn where_nobody_can_be_asked_the_command_fails_at_once_and_says_what_to_type(world) {
        let (alice, _card) = alice_with_a_card(world);
        folder(&alice, &["--recipient", "k", "--scope", "file"]);
        alice.claviger(["mount", "Private", "private"]).answers(&[PIN]).ok();
        alice.sh("echo 1 >private/one").ok();
        alice.claviger(["lock", "private"]).ok();
        let said = alice.claviger(["unlock", "private"]).fails(8);
        says(&said, &["PIN of token", "needed, and no terminal", "claviger unlock"]);
        assert!(!said.contains("declined"), "{said}");
        alice.claviger(["unlock", "private"]).answers(&[PIN]).ok();
        // The login is gone, the folder is open, and cat(1) has no terminal.
        alice.module("pkcs11").kill();
        let begun = std::time::Instant::now();
        says(&alice.sh("cat private/one").fails(1), &["Required key not available"]);
        assert!(begun.elapsed() < std::time::Duration::from_secs(5));
        says(&alice.logs(), &["claviger unlock"]);
    }
}

story! {
    /// "`pin-source` for scripts": and a PIN in a file is not tried twice either.
    fn a_pin_in_a_file_opens_the_folder_and_a_wrong_one_is_read_once(world) {
        let mut alice = world.user("alice");
        let card = SoftHsm::new(&mut alice);
        card.alone(&alice);
        let token = card.token(&alice, "work");
        let file = alice.write("pin", PIN);
        let with_pin = format!("{token}?pin-source=file:{}", file.display());
        says(
            &alice.claviger(["key", "generate", "--module", "pkcs11", "--token", &with_pin, "--label", "k"]).fails(11),
            &["nobody else may read"],
        );
        alice.sh("chmod 600 pin").ok();
        alice.claviger(["key", "generate", "--module", "pkcs11", "--token", &with_pin, "--label", "k"]).ok();
        folder(&alice, &["--recipient", "k"]);
        alice.claviger(["stop"]).ok();
        alice.claviger(["unlock", "Private"]).ok();
        alice.claviger(["stop"]).ok();

        alice.sh("echo 999999 >pin").ok();
        says(&alice.claviger(["unlock", "Private"]).fails(6), &["refused the PIN"]);
        says(&alice.claviger(["unlock", "Private"]).fails(11), &["was refused", "has not changed"]);
        alice.sh(&format!("echo {PIN} >pin")).ok();
        alice.claviger(["unlock", "Private"]).ok();
        says(&alice.claviger(["key", "add", &format!("{token}?pin-value={PIN}")]).fails(2), &["pin-source"]);
    }
}

story! {
    /// What needs nobody comes first, also behind a card that needs somebody.
    fn a_key_whose_pin_is_in_a_file_opens_the_folder_where_nobody_can_be_asked_for_another(world) {
        let mut alice = world.user("alice");
        let card = SoftHsm::new(&mut alice);
        card.alone(&alice);
        alice.write("pin", PIN);
        alice.sh("chmod 600 pin").ok();
        let (a, b) = (card.token(&alice, "a"), card.token(&alice, "b"));
        card_key(&alice, &a, "a");
        card_key(&alice, &format!("{b}?pin-source=file:/home/alice/pin"), "b");
        folder(&alice, &["--recipient", "a", "--recipient", "b"]);
        alice.claviger(["stop"]).ok();
        alice.claviger(["unlock", "Private"]).ok();
        assert_eq!(alice.status()["volumes"][0]["opened_by"]["label"], "b");
        alice.claviger(["stop"]).ok();

        // Once its PIN was refused, the other is asked for where somebody is.
        alice.sh("echo 999999 >pin").ok();
        says(&alice.claviger(["unlock", "Private"]).fails(6), &["refused the PIN"]);
        says(&alice.claviger(["unlock", "Private"]).fails(11), &["has not changed"]);
        alice.claviger(["unlock", "Private"]).answers(&[PIN]).ok();
        assert_eq!(alice.status()["volumes"][0]["opened_by"]["label"], "a");
    }
}

story! {
    /// "No token, driver, daemon or prompt can hang": a prompt that nobody answers ends when its time is up.
    fn a_prompt_that_nobody_answers_ends_when_its_time_is_up(world) {
        let (alice, _card) = alice_with_a_card(world);
        alice.configure("[prompts]\ntimeout-s = 1\n");
        folder(&alice, &["--recipient", "k"]);
        alice.claviger(["stop"]).ok();
        // A pipe that stays open and says nothing.
        let mut asked = alice.claviger(["--pin-fd", "0", "unlock", "Private"]).spawn();
        let silent = asked.stdin.take();
        wait_until("the prompt has run out", || asked.try_wait().unwrap().is_some());
        let said = asked.wait_with_output().unwrap();
        assert_eq!(said.status.code(), Some(8), "{said:?}");
        says(&String::from_utf8_lossy(&said.stderr), &["timed out", "PIN of token"]);
        drop(silent);
        alice.claviger(["unlock", "Private"]).answers(&[PIN]).ok();
    }
}
