//! From nothing to an open folder and back, by each kind of key.

use claviger_hw_tests::{PIN, SoftHsm, Swtpm, story};

use crate::scene::{alice_with_a_card, card_key, folder, says, software_key};

const LOCKED: &str = "Required key not available";

story! {
    /// "`claviger init`, `claviger mount`": README, the session by hand.
    fn a_card_opens_the_folder_and_nothing_else_does(world) {
        let mut alice = world.user("alice");
        let card = SoftHsm::new(&mut alice);
        let token = card.token(&alice, "work");
        let said = alice
            .claviger(["key", "generate", "--module", "pkcs11", "--type", "ec-p256", "--label", "work key"])
            .fails(2);
        says(&said, &["--token", "claviger token list"]);
        assert!(alice.claviger(["token", "list"]).ok().contains("work"));
        card_key(&alice, &token, "k");
        alice.claviger(["init", "--recipient", "k", "--no-recovery", "Private"]).ok();
        alice.sh("mkdir private").ok();
        alice.claviger(["mount", "Private", "private"]).answers(&[PIN]).ok();
        alice.sh("echo secret words >private/letter && cat private/letter").ok();
        alice.sh("grep -r 'secret words' Private").fails(1);
        assert!(!alice.sh("find Private").ok().contains("letter"));
        alice.claviger(["lock", "private"]).ok();
        says(&alice.sh("cat private/letter").fails(1), &[LOCKED]);
        alice.claviger(["unlock", "private"]).answers(&[PIN]).ok();
        assert_eq!(alice.sh("cat private/letter").ok(), "secret words\n");
        alice.claviger(["umount", "private"]).ok();
        assert_eq!(alice.sh("ls -A private").ok(), "");
    }
}

story! {
    /// "TPM-sealed laptop homes: opened by the machine, useless when the disk is moved."
    fn a_tpm_opens_the_folder_on_its_own_machine_only(world) {
        let alice = world.user("alice");
        let mut tpm = Swtpm::new(&alice);
        alice.claviger(["key", "generate", "--module", "tpm", "--label", "laptop"]).ok();
        folder(&alice, &["--recipient", "laptop"]);
        alice.claviger(["mount", "Private", "private"]).ok();
        alice.sh("echo here >private/note").ok();
        alice.claviger(["lock", "--all"]).ok();

        tpm.replace();
        let said = alice.claviger(["unlock", "private"]).finish();
        assert!([4, 5].contains(&said.code), "{said}");
        says(&alice.sh("cat private/note").fails(1), &[LOCKED]);

        tpm.return_home();
        alice.claviger(["unlock", "private"]).ok();
        assert_eq!(alice.sh("cat private/note").ok(), "here\n");
    }
}

story! {
    /// "Opened by the machine and a PIN."
    fn a_tpm_key_with_a_pin_wants_the_pin(world) {
        let alice = world.user("alice");
        let _tpm = Swtpm::new(&alice);
        alice
            .claviger(["key", "generate", "--module", "tpm", "--label", "laptop", "--pin"])
            .answers(&["7051", "7051"])
            .ok();
        folder(&alice, &["--recipient", "laptop"]);
        alice.claviger(["mount", "Private", "private"]).answers(&["7051"]).ok();
        alice.sh("echo here >private/note").ok();
        alice.claviger(["lock", "private"]).ok();
        alice.claviger(["unlock", "private"]).fails(8);
        alice.claviger(["unlock", "private"]).answers(&["7051"]).ok();
        assert_eq!(alice.sh("cat private/note").ok(), "here\n");
    }
}

story! {
    /// "RSA and EC keys from PEM, with and without passphrase."
    fn a_key_file_made_by_openssl_opens_the_folder(world) {
        let alice = world.user("alice");
        for (name, make) in [
            ("plain", "openssl genpkey -quiet -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out plain.pem"),
            ("closed", "openssl genpkey -quiet -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -aes-256-cbc -pass pass:sesame -out closed.pem"),
        ] {
            alice.sh(&make.replace("-quiet ", "")).ok();
            alice.sh(&format!("chmod 600 {name}.pem")).ok();
            alice.claviger(["key", "add", &format!("{name}.pem"), "--label", name]).answers(&["sesame"]).ok();
            alice.claviger(["init", "--recipient", name, "--no-recovery", &format!("Of-{name}")]).ok();
            alice.claviger(["lock", "--all"]).ok();
        }
        alice.claviger(["unlock", "Of-plain"]).ok();
        alice.claviger(["unlock", "Of-closed"]).fails(8);
        alice.claviger(["unlock", "Of-closed"]).answers(&["open"]).fails(6);
        alice.claviger(["unlock", "Of-closed"]).answers(&["sesame"]).ok();
        alice.claviger(["lock", "--all"]).ok();
        alice.sh("mv plain.pem elsewhere.pem").ok();
        says(&alice.claviger(["unlock", "Of-plain"]).fails(5), &["plain.pem"]);
    }
}

story! {
    /// "Without any token it offers a software key or passphrase and says it is weaker."
    fn a_passphrase_opens_the_folder_and_another_does_not(world) {
        let alice = world.user("alice");
        alice.write("pass", "correct horse\n");
        folder(&alice, &["--passphrase-file", "pass"]);
        alice.claviger(["mount", "Private", "private"]).answers(&["correct horse"]).ok();
        alice.sh("echo here >private/note").ok();
        alice.claviger(["lock", "private"]).ok();
        says(&alice.claviger(["unlock", "private"]).fails(8), &["Passphrase", "claviger unlock"]);
        let said = alice.claviger(["unlock", "private"]).answers(&["wrong horse"]).fails(4);
        says(&said, &["passphrase does not open"]);
        alice.claviger(["unlock", "--passphrase-file", "pass", "private"]).ok();
        assert_eq!(alice.sh("cat private/note").ok(), "here\n");
    }
}

story! {
    /// "A lost token loses no data."
    fn the_recovery_key_opens_the_folder_when_the_card_is_lost(world) {
        let (alice, card) = alice_with_a_card(world);
        alice.claviger(["init", "--recipient", "k", "--recovery-file", "recovery", "Private"]).ok();
        assert_eq!(alice.sh("stat -c %a recovery").ok(), "600\n");
        alice.sh("mkdir private").ok();
        alice.claviger(["mount", "Private", "private"]).answers(&[PIN]).ok();
        alice.sh("echo here >private/note").ok();
        alice.claviger(["lock", "private"]).ok();

        card.take_out();
        alice.claviger(["unlock", "private"]).fails(5);
        alice.claviger(["unlock", "--recovery-file", "recovery", "private"]).ok();
        assert_eq!(alice.sh("cat private/note").ok(), "here\n");

        alice.claviger(["lock", "private"]).ok();
        alice.sh("tr a-z b-za <recovery >mistyped").ok();
        alice.claviger(["unlock", "--recovery-file", "mistyped", "private"]).fails(2);
        alice.claviger(["init", "--recipient", "k", "--recovery-file", "other", "Other"]).ok();
        let said = alice.claviger(["unlock", "--recovery-file", "other", "private"]).fails(4);
        says(&said, &["recovery key does not open"]);
    }
}

story! {
    /// "Any one recipient opens."
    fn of_two_tokens_the_one_that_is_here_opens_the_folder(world) {
        let (alice, card) = alice_with_a_card(world);
        let mut tpm = Swtpm::new(&alice);
        alice.claviger(["stop"]).ok();
        alice.claviger(["key", "generate", "--module", "tpm", "--label", "laptop"]).ok();
        folder(&alice, &["--recipient", "k", "--recipient", "laptop"]);
        let opened_by = |pin: &[&str]| {
            alice.claviger(["lock", "--all"]).ok();
            alice.claviger(["unlock", "Private"]).answers(pin).ok();
            alice.status()["volumes"][0]["opened_by"]["label"].as_str().map(str::to_owned)
        };
        card.take_out();
        assert_eq!(opened_by(&[]).as_deref(), Some("laptop"));
        card.put_back();
        tpm.take_out();
        assert_eq!(opened_by(&[PIN]).as_deref(), Some("k"));
        card.take_out();
        alice.claviger(["lock", "--all"]).ok();
        says(&alice.claviger(["unlock", "Private"]).fails(5), &["not present"]);
    }
}

story! {
    /// Without a name, the only key there is serves, and the person is asked before.
    fn init_without_a_key_and_without_anybody_to_ask_makes_nothing(world) {
        let alice = world.user("alice");
        software_key(&alice, "k");
        let said = alice.claviger(["init", "Private"]).fails(2);
        says(&said, &["--recipient", "--passphrase-file"]);
        alice.sh("test ! -e Private").ok();
        // Who writes lines for `--pin-fd` knows the one key there is, and agrees to nothing else.
        alice.claviger(["init", "--no-recovery", "Private"]).answers(&[]).ok();
        alice.claviger(["unlock", "Private"]).ok();
        software_key(&alice, "another");
        let said = alice.claviger(["init", "--no-recovery", "Other"]).answers(&["y", "y"]).fails(2);
        says(&said, &["no key is named", "--recipient"]);
        alice.sh("test ! -e Other").ok();
    }
}
