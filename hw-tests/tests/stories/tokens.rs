//! Tokens that are not there, or not the right ones.

use claviger_hw_tests::{PIN, SoftHsm, story};

use crate::scene::{alice_with_a_card, card_key, folder, says};

story! {
    /// "No token": exit code 5, and what to do.
    fn without_its_token_the_folder_stays_closed_and_with_it_back_it_opens(world) {
        let (alice, card) = alice_with_a_card(world);
        folder(&alice, &["--recipient", "k"]);
        alice.claviger(["mount", "Private", "private"]).answers(&[PIN]).ok();
        alice.sh("echo text >private/letter").ok();
        alice.claviger(["lock", "private"]).ok();
        card.take_out();
        for _ in 0..2 {
            let said = alice.claviger(["unlock", "private"]).answers(&[PIN]).fails(5);
            says(&said, &["token not present", "Insert it", "claviger recipient list"]);
        }
        alice.sh("cat private/letter").fails(1);
        assert!(alice.claviger(["token", "list"]).ok().contains("No token is present"));
        card.put_back();
        alice.claviger(["unlock", "private"]).answers(&[PIN]).ok();
        assert_eq!(alice.sh("cat private/letter").ok(), "text\n");
    }
}

story! {
    /// "Read continues after token removal": what is unlocked stays so until it is locked.
    fn a_token_taken_out_of_an_open_folder_closes_nothing_that_is_open(world) {
        let (alice, card) = alice_with_a_card(world);
        folder(&alice, &["--recipient", "k"]);
        alice.claviger(["mount", "Private", "private"]).answers(&[PIN]).ok();
        alice.sh("echo text >private/letter").ok();
        card.take_out();
        assert_eq!(alice.sh("cat private/letter; echo new >private/new; cat private/new").ok(), "text\nnew\n");
    }
}

story! {
    /// "Wrong token": another card in the reader is not mistaken for this one.
    fn another_card_in_the_reader_does_not_open_the_folder(world) {
        let (alice, card) = alice_with_a_card(world);
        folder(&alice, &["--recipient", "k"]);
        alice.claviger(["stop"]).ok();
        card.take_out();
        alice.sh("mkdir softhsm/tokens").ok();
        // The same label, even.
        card.token(&alice, "work");
        says(&alice.claviger(["unlock", "Private"]).answers(&[PIN]).fails(5), &["token not present"]);
        alice.sh("rm -r softhsm/tokens").ok();
        card.put_back();
        alice.claviger(["unlock", "Private"]).answers(&[PIN]).ok();
    }
}

story! {
    /// "Token without the key": erased, and initialised with the same serial, it is not a recipient.
    fn a_card_from_which_the_key_was_erased_is_told_from_one_that_is_absent(world) {
        let (alice, _card) = alice_with_a_card(world);
        folder(&alice, &["--recipient", "k"]);
        alice.claviger(["stop"]).ok();
        alice.sh("find softhsm/tokens -name '*.object' ! -name token.object -delete").ok();
        let said = alice.claviger(["unlock", "Private"]).answers(&[PIN]).fails(4);
        says(&said, &["not a recipient here"]);
    }
}

story! {
    /// A card whose keys are none of the folder's: not a recipient, and who is.
    fn somebody_elses_card_is_not_a_recipient(world) {
        let (alice, _card) = alice_with_a_card(world);
        let mut bob = world.user("bob");
        let card = SoftHsm::new(&mut bob);
        let token = card.token(&bob, "bobs");
        card_key(&bob, &token, "bob's key");
        folder(&alice, &["--recipient", "k"]);
        bob.sh("cp -r /home/alice/Private Private 2>/dev/null").fails(1);
        std::process::Command::new("cp").args(["-r", "/home/alice/Private", "/home/bob/Stolen"]).status().unwrap();
        std::process::Command::new("chown").args(["-R", &bob.uid().to_string(), "/home/bob/Stolen"]).status().unwrap();
        let said = bob.claviger(["unlock", "Stolen"]).answers(&[PIN]).fails(4);
        says(&said, &["not a recipient here", "it opens with k (token)", "claviger key list"]);
    }
}

story! {
    /// "PKCS#11 URI by serial and id": a label that two tokens share is asked about, not guessed.
    fn a_token_that_is_not_named_clearly_enough_is_not_guessed(world) {
        let mut alice = world.user("alice");
        let card = SoftHsm::new(&mut alice);
        card.alone(&alice);
        card.token(&alice, "twin");
        let token = card.token(&alice, "twin");
        let generate = ["key", "generate", "--module", "pkcs11", "--token", &token, "--label", "k"];
        says(&alice.claviger(generate).answers(&[PIN]).fails(2), &["several tokens", "serial"]);
        says(&alice.claviger(["key", "generate", "--module", "pkcs11", "--token", "pkcs11:token=none", "--label", "k"]).fails(5), &["none"]);
        assert!(alice.claviger(["key", "list"]).ok().contains("No key is enrolled"));
    }
}
