//! Through Yubico's own library.

use claviger_hw_tests::{PivKey, story};

use crate::table::{
    alice_with_a_piv_card, folder, says, unlock_and_read_the_letter, write_a_letter_and_lock,
};

story! {
    /// "Their PKCS#11 library": RSA.
    fn ykcs11_lists_the_card_and_opens_a_folder_by_its_rsa_key(world) {
        let (alice, mut card) = alice_with_a_piv_card(world, PivKey::Rsa);
        alice.uses_ykcs11();
        says(&alice.claviger(["token", "list"]).ok(), &["YubiKey PIV"]);
        folder(&alice, PivKey::Rsa, &[]);
        write_a_letter_and_lock(&alice);
        card.take_out();
        alice.claviger(["unlock", "private"]).fails(5);
        card.put_back();
        unlock_and_read_the_letter(&alice);
    }
}

story! {
    /// And ECDH, which this library stands one at a time of only.
    fn ykcs11_opens_a_folder_by_a_p256_key(world) {
        let (alice, _card) = alice_with_a_piv_card(world, PivKey::EcP256);
        alice.uses_ykcs11();
        folder(&alice, PivKey::EcP256, &[]);
        write_a_letter_and_lock(&alice);
        unlock_and_read_the_letter(&alice);
    }
}
