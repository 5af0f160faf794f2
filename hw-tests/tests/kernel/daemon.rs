//! A daemon that dies, hangs, or must refuse, while the kernel waits.

use claviger_hw_tests::Guest;

/// Root, with a key in a file, and a mount with `file` in it that the kernel has forgotten.
const SCENE: &str = "
    lower_disk
    person root
    enrol_key root k
    sig=$(add_key root k)
    mount_for root $sig
    echo 'first words' >/mnt/root/file
    forget_files
";

fn scene(script: &str) {
    let guest = Guest::new().with_rsa_key("k", 2048);
    guest.ok(&format!("{SCENE}\n{script}"));
}

/// "When the daemon dies, open files stay open; when it is back, all is as before."
#[test]
fn a_daemon_that_is_killed_and_started_again_goes_on_where_it_was() {
    scene(
        "
        exec 3</mnt/root/file
        kill_now $(daemon_of root)
        same 'file that was open' 'first words' \"$(cat <&3)\"
        exec 3<&-
        forget_files
        fails_at_once cat /mnt/root/file
        fails_at_once sh -c 'echo more >/mnt/root/new'
        rm -f /mnt/root/new
        as root claviger status
        # An emulated machine may take longer to start the module than the kernel waits.
        until_true cat /mnt/root/file
        same content 'first words' \"$(cat /mnt/root/file)\"
        echo more >/mnt/root/new
        forget_files
        same content more \"$(cat /mnt/root/new)\"
    ",
    );
}

/// "A daemon that hangs costs an open three seconds", and goes on when it hangs no more.
#[test]
fn a_daemon_that_hangs_is_given_up_by_the_kernel() {
    scene(
        "
        daemon=$(daemon_of root)
        kill -STOP $daemon
        fails cat /mnt/root/file
        kill -CONT $daemon
        until_true logged root 'the kernel gave up request'
        same content 'first words' \"$(cat /mnt/root/file)\"
        same daemon $daemon $(daemon_of root)
    ",
    );
}

/// "An answer that comes too late changes nothing." The daemon is told that the kernel waits longer than
/// it does.
#[test]
fn an_answer_that_comes_too_late_is_dropped() {
    scene(
        "
        echo 'timeout-s = 60' >>/root/.config/claviger/config.toml
        as root claviger stop
        add_key root k
        module=$(pidof claviger-pki-openssl)
        kill -STOP $module
        fails cat /mnt/root/file
        kill -CONT $module
        until_true logged root 'the kernel no longer waits for this answer'
        same content 'first words' \"$(cat /mnt/root/file)\"
    ",
    );
}

/// "A token that hangs is given up while the kernel still waits."
#[test]
fn a_token_that_hangs_is_refused_before_the_kernel_gives_up() {
    scene(
        "
        module=$(pidof claviger-pki-openssl)
        kill -STOP $module
        begun=$(now)
        fails cat /mnt/root/file
        took=$(($(now) - begun))
        [ $took -lt 300 ] || fail \"took $took hundredths\"
        kill -CONT $module || true
        until_true cat /mnt/root/file
    ",
    );
}

/// "What cannot be answered is refused at once": nobody is asked for a PIN while the kernel waits.
#[test]
fn a_request_that_needs_a_login_is_refused_at_once() {
    Guest::new().ok("
        lower_disk
        person root
        card root work
        echo 123456 | as root claviger --pin-fd 0 key generate --module pkcs11 --token pkcs11:token=work \
            --type rsa2048 --label k
        sig=$(add_key root k)
        mount_for root $sig
        echo 'first words' >/mnt/root/file
        forget_files
        as root claviger lock --all
        fails_at_once cat /mnt/root/file
        logged root \"PIN of .* needed, run 'claviger ecryptfs add-key'\"
        # A public key is enough to write.
        echo more >/mnt/root/new
        echo 123456 | as root claviger --pin-fd 0 ecryptfs add-key k
        same content 'first words' \"$(cat /mnt/root/file)\"
        forget_files
        same content more \"$(cat /mnt/root/new)\"
    ");
}

/// "A key that was removed opens nothing", though the mount still has its auth tok.
#[test]
fn a_key_that_was_removed_is_refused_at_once() {
    scene(
        "
        as root claviger key remove k
        fails_at_once cat /mnt/root/file
        fails_at_once sh -c 'echo more >/mnt/root/new'
    ",
    );
}

#[test]
fn forty_opens_at_once_are_answered_as_far_as_the_kernel_has_contexts() {
    scene(
        "
        for i in $(seq 40); do echo \"words $i\" >/mnt/root/$i; done
        forget_files
        for i in $(seq 40); do
            cat /mnt/root/$i >/tmp/read-$i 2>/tmp/error-$i &
        done
        wait
        read=0
        for i in $(seq 40); do
            if [ \"$(cat /tmp/read-$i)\" = \"words $i\" ]; then read=$((read + 1)); fi
        done
        echo \"$read of 40 read at once\"
        [ $read -ge 32 ] || fail \"$read of 40: $(cat /tmp/error-*)\"
        forget_files
        for i in $(seq 40); do same content \"words $i\" \"$(cat /mnt/root/$i)\"; done
    ",
    );
}

/// A PIN file in the key's URI: a new daemon logs in when it starts, before anybody waits.
#[test]
fn a_daemon_that_starts_logs_in_from_a_pin_file() {
    Guest::new().ok("
        lower_disk
        person root
        card root work
        echo 123456 >/root/pin
        chmod 600 /root/pin
        uri='pkcs11:token=work?pin-source=file:/root/pin'
        as root claviger key generate --module pkcs11 --token \"$uri\" --type rsa2048 --label k
        sig=$(add_key root k)
        mount_for root $sig
        echo 'first words' >/mnt/root/file
        forget_files
        as root claviger stop
        as root claviger status
        # An emulated machine may take longer to start the module and log in than the kernel waits.
        until_true cat /mnt/root/file
        same content 'first words' \"$(cat /mnt/root/file)\"
    ");
}
