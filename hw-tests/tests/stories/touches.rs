//! Tokens that want a touch: "when an operation passes 300 ms on a token that may want one, the user is
//! told, and told what for".

use claviger_hw_tests::{PIN, SoftHsm, User, World, story};

use crate::scene::{folder, says};
use crate::terminals::CLAVIGER;

/// Alice, with a token that wants touches, and a key `k` in it that opens the folder `Private`.
fn alice_with_a_touch_token(world: &mut World, scope: &str) -> (User, SoftHsm) {
    let mut alice = world.user("alice");
    let token = SoftHsm::new(&mut alice);
    token.alone_and_wants_touches(&alice);
    let uri = token.token(&alice, "yubi");
    let mut terminal = alice.terminal();
    // A key is tried out when it is enrolled: that is a use as well.
    terminal.begins(&format!(
        "{CLAVIGER} key generate --module pkcs11 --token {uri} --label k"
    ));
    terminal.shows("PIN: ");
    terminal.types(&format!("{PIN}\n"));
    terminal.shows("may be waiting for a touch");
    token.touch();
    says(&terminal.ends(0), &["Made and enrolled"]);
    folder(&alice, &["--recipient", "k", "--scope", scope]);
    alice.claviger(["stop"]).ok();
    (alice, token)
}

/// Mounts `Private`, makes files in it, and mounts it anew: they are cold, and the token is logged in.
fn mounts(alice: &User, token: &SoftHsm, files: &str) {
    let mut shell = alice.shell();
    shell.begin(&format!(
        "echo {PIN} | {CLAVIGER} --pin-fd 0 mount Private private"
    ));
    token.touch();
    assert_eq!(shell.end().status, 0);
    shell.ok(&format!("echo 1 | tee private/{files}"));
    shell.ok(&format!(
        "{CLAVIGER} umount private && {CLAVIGER} mount Private private"
    ));
}

story! {
    /// A command at a terminal: told between the PIN and the touch.
    fn an_unlock_says_that_the_token_may_want_a_touch_and_what_for(world) {
        let (alice, token) = alice_with_a_touch_token(world, "volume");
        let mut terminal = alice.terminal();
        terminal.begins(&format!("{CLAVIGER} unlock Private"));
        terminal.shows("PIN: ");
        terminal.types(&format!("{PIN}\n"));
        token.wait_until_it_blinks();
        let said = terminal.shows("for [claviger]");
        says(&said, &["may be waiting for a touch", "to unlock volume /home/alice/Private ("]);
        token.touch();
        says(&terminal.ends(0), &["Unlocked /home/alice/Private"]);
    }
}

story! {
    /// Over callout, to a CLI that is attached; and a touch that comes at once needs no word.
    fn a_cold_file_says_so_too_and_a_quick_touch_is_not_spoken_of(world) {
        let (alice, token) = alice_with_a_touch_token(world, "file");
        mounts(&alice, &token, "one");
        let mut shell = alice.shell();
        shell.begin(&format!("{CLAVIGER} cat Private one"));
        token.touch();
        let said = shell.end();
        assert_eq!((said.status, said.text.as_str()), (0, "1\n"));

        let mut terminal = alice.terminal();
        terminal.begins(&format!("{CLAVIGER} cat Private one"));
        let said = terminal.shows("for [claviger]");
        says(&said, &["may be waiting for a touch", "to open a file of volume /home/alice/Private ("]);
        token.touch();
        terminal.shows("1\r\n");
        terminal.ends(0);
    }
}

story! {
    /// A program opens the file: told on the terminal that she used last, once for all that wait.
    fn what_a_program_opens_is_told_on_the_terminal_used_last(world) {
        let (alice, token) = alice_with_a_touch_token(world, "file");
        mounts(&alice, &token, "one private/two");
        let mut terminal = alice.terminal();
        terminal.begins(&format!("{CLAVIGER} status"));
        terminal.ends(0);
        terminal.begins("cat private/one & cat private/two & wait");
        let said = terminal.shows("for /usr/bin/cat (process ");
        says(&said, &["claviger: The token may be waiting for a touch", "to open a file of volume /home/alice/Private ("]);
        token.touch();
        terminal.shows("\r\n");
        token.touch();
        terminal.ends(0);
        assert_eq!(terminal.all_shown().matches("may be waiting").count(), 1);
    }
}

story! {
    /// A token that nobody touches gives up; nothing hangs.
    fn a_touch_that_does_not_come_ends_in_a_failure_of_the_token(world) {
        let (alice, _token) = alice_with_a_touch_token(world, "volume");
        alice.configure("[policy]\ntoken-timeout-s = 2\n");
        let mut terminal = alice.terminal();
        terminal.begins(&format!("{CLAVIGER} unlock Private"));
        terminal.shows("PIN: ");
        terminal.types(&format!("{PIN}\n"));
        terminal.shows("may be waiting for a touch");
        let said = terminal.ends(8);
        says(&said, &["timed out"]);
    }
}
