//! A card that is taken out of its reader, and put back.

use claviger_hw_tests::{PIV_PIN, PivKey, story};

use crate::table::{
    alice_with_a_piv_card, folder, says, unlock_and_read_the_letter, write_a_letter_and_lock,
};

story! {
    /// "No token": exit code 5. And with it back the same daemon opens the folder, without a restart.
    fn without_its_card_the_folder_stays_locked_and_with_it_back_the_same_daemon_opens_it(world) {
        let (alice, mut card) = alice_with_a_piv_card(world, PivKey::Rsa);
        alice.uses_opensc();
        folder(&alice, PivKey::Rsa, &[]);
        write_a_letter_and_lock(&alice);
        unlock_and_read_the_letter(&alice);
        let daemon = alice.daemon();
        for _ in 0..2 {
            card.take_out();
            // What is open stays so until it is locked.
            assert_eq!(alice.sh("cat private/letter").ok(), "text\n");
            alice.claviger(["lock", "private"]).ok();
            let said = alice.claviger(["unlock", "private"]).answers(&[PIV_PIN]).fails(5);
            says(&said, &["token not present", "Insert it"]);
            alice.sh("cat private/letter").fails(1);
            says(&alice.claviger(["token", "list"]).ok(), &["No token is present"]);
            card.put_back();
            unlock_and_read_the_letter(&alice);
        }
        assert_eq!(alice.daemon(), daemon);
    }
}

story! {
    /// In file scope each file is opened by the card: one that was out in between wants its PIN again.
    fn a_card_that_was_out_while_nobody_looked_is_logged_in_to_again(world) {
        let (alice, mut card) = alice_with_a_piv_card(world, PivKey::EcP256);
        alice.uses_opensc();
        folder(&alice, PivKey::EcP256, &["--scope", "file"]);
        write_a_letter_and_lock(&alice);
        unlock_and_read_the_letter(&alice);
        // Nobody looks while it is out.
        card.take_out();
        card.put_back();
        alice.claviger(["lock", "private"]).ok();
        unlock_and_read_the_letter(&alice);
    }
}
