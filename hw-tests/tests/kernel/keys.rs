//! Keys that the kernel's eCryptfs uses, each in its kind of token.

use claviger_hw_tests::Guest;

/// Created, read, forgotten, read again, for root, with the key whose sig is in `$sig`.
const ROUND: &str = "
    mount_for root $sig
    echo 'first words' >/mnt/root/file
    same 'unwraps of a file just made' 0 $(unwraps root)
    forget_files
    same content 'first words' \"$(cat /mnt/root/file)\"
    same unwraps 1 $(unwraps root)
    if grep -rq 'first words' /lower; then fail 'plaintext in the lower folder'; fi
";

fn round(guest: &Guest, set_up: &str) -> String {
    guest.ok(&format!("lower_disk\nperson root\n{set_up}\n{ROUND}"))
}

#[test]
fn the_kernel_reads_and_writes_with_a_key_in_a_file() {
    round(
        &Guest::new(),
        "
        as root claviger key generate --module openssl --type rsa2048 --label k
        sig=$(add_key root k)
        ",
    );
}
