//! Through OpenSC, which most smartcards are used by.

use claviger_hw_tests::{PIV_PIN, PivKey, story};

use crate::table::{
    alice_with_a_piv_card, folder, says, unlock_and_read_the_letter, write_a_letter_and_lock,
};

story! {
    /// "Only your smartcard opens": RSA-2048, made in the card.
    fn the_card_is_listed_and_its_rsa_key_opens_a_folder(world) {
        let (alice, _card) = alice_with_a_piv_card(world, PivKey::Rsa);
        alice.uses_opensc();
        says(&alice.claviger(["token", "list"]).ok(), &["pkcs11:", "serial", "PIN: ok"]);
        folder(&alice, PivKey::Rsa, &[]);
        write_a_letter_and_lock(&alice);
        unlock_and_read_the_letter(&alice);
    }
}

story! {
    /// The same by ECDH on the card: P-256, in a place for retired keys.
    fn its_p256_key_opens_a_folder(world) {
        let (alice, _card) = alice_with_a_piv_card(world, PivKey::EcP256);
        alice.uses_opensc();
        folder(&alice, PivKey::EcP256, &[]);
        write_a_letter_and_lock(&alice);
        unlock_and_read_the_letter(&alice);
    }
}

story! {
    /// "Wrong PIN: never sent twice", by the count of the card itself; and its last try is not spent.
    fn a_wrong_pin_costs_one_try_of_the_card_and_the_last_one_is_not_spent_unasked(world) {
        let (alice, card) = alice_with_a_piv_card(world, PivKey::Rsa);
        alice.uses_opensc();
        alice.configure("[policy]\nfinal-try = \"never\"\n");
        folder(&alice, PivKey::Rsa, &[]);
        write_a_letter_and_lock(&alice);
        assert_eq!(card.tries_left(), 3);
        let unlock = || alice.claviger(["unlock", "private"]);
        says(&unlock().answers(&["000000", PIV_PIN]).fails(6), &["refused the PIN", "sent once"]);
        assert_eq!(card.tries_left(), 2);
        // The same once more is known to be wrong: the card is not asked.
        unlock().answers(&["000000"]).fails(6);
        assert_eq!(card.tries_left(), 2);
        unlock().answers(&["111111"]).fails(6);
        assert_eq!(card.tries_left(), 1);
        says(&alice.claviger(["token", "list"]).ok(), &["final try"]);
        says(&unlock().answers(&[PIV_PIN]).fails(7), &["one try left"]);
        assert_eq!(card.tries_left(), 1);

        // The right one, given to another program, resets the count.
        card.verify_pin();
        assert_eq!(card.tries_left(), 3);
        unlock_and_read_the_letter(&alice);
    }
}
