# What the guest's scripts have in common. They run under sh -eu, as root, with busybox.

# A disk of ext4 at /lower: eCryptfs does not stack on everything, and 9p is not what people use.
lower_disk() {
    mount -t ext4 /dev/vda /lower
}

home_of() { # NAME
    awk -F: -v name="$1" '$1 == name { print $6 }' /etc/passwd
}

# A user with a home, a runtime folder, and a daemon that will serve the kernel: root, alice or bob.
person() { # NAME
    home=$(home_of "$1")
    runtime=/run/user/$(id -u "$1")
    mkdir -p "$home/.config/claviger" "$runtime"
    printf '[ecryptfs]\nkernel = true\n' >"$home/.config/claviger/config.toml"
    chown -R "$1:$1" "$home" "$runtime"
    chmod 700 "$home" "$runtime"
}

# Lets everybody serve himself; what a udev rule does on a machine that is set up for it.
open_device() {
    chmod 666 /dev/ecryptfs
}

# Runs a program as that user, logging as much as $log says, from their home, in a session keyring that has their user keyring in it: what
# pam_keyinit(8) makes at login.
as() { # NAME PROGRAM ARG…
    name=$1
    shift
    in_session "$name" "--reuid=$name --regid=$name --clear-groups" "$@"
}

# The same with root's powers: what sudo(8) leaves of that user's session.
as_root_of() { # NAME PROGRAM ARG…
    name=$1
    shift
    in_session "$name" --euid=root "$@"
}

in_session() { # NAME IDENTITY PROGRAM ARG…
    name=$1
    identity=$2
    home=$(home_of "$name")
    runtime=/run/user/$(id -u "$name")
    shift 2
    # "The user keyring" is that of the real uid.
    link="/usr/bin/setpriv --ruid=$name keyctl link @u @s"
    (
        cd "$home"
        exec env -i HOME="$home" USER="$name" PATH="$PATH" XDG_RUNTIME_DIR="$runtime" CLAVIGER_LOG="${log:-debug}" \
            SOFTHSM2_CONF="$home/softhsm2.conf" \
            keyctl session - sh -c "$link && exec /usr/bin/setpriv $identity \"\$@\"" in-session "$@"
    )
}

# Enrols the RSA key that the host has left as NAME.pem: making one takes an emulated processor long.
enrol_key() { # NAME KEY
    file=$(home_of "$1")/$2.pem
    cp "/host/$2.pem" "$file"
    chown "$1:$1" "$file"
    chmod 600 "$file"
    as "$1" claviger key add "$file" --label "$2"
}

# 'claviger ecryptfs add-key'; the key sig that it prints.
add_key() { # NAME KEY [ARG…]
    owner=$1
    key=$2
    shift 2
    as "$owner" claviger "$@" ecryptfs add-key "$key" | sed -n 's/.*ecryptfs_sig=\([0-9a-f]*\).*/\1/p'
}

# Mounts /lower/NAME at /mnt/NAME, as the line that add-key prints says.
mount_for() { # NAME SIG
    mkdir -p "/lower/$1" "/mnt/$1"
    chown "$1:$1" "/lower/$1"
    as_root_of "$1" mount -i -t ecryptfs -o "ecryptfs_sig=$2,ecryptfs_cipher=aes,ecryptfs_key_bytes=32" \
        "/lower/$1" "/mnt/$1"
}

# Puts the auth tok of a passphrase into a user's keyring, where the kernel and Claviger look for it. The host has left
# its payload.
put_auth_tok() { # NAME SIG
    as "$1" sh -c "keyctl padd user $2 @u </host/authtok.$2.bin" >/dev/null
}

# Takes it away again.
take_auth_tok() { # NAME SIG
    as "$1" sh -c "keyctl unlink \$(keyctl search @u user $2) @u" >/dev/null
}

# Has root's daemon serve the RSA key in a PEM file that the host has left.
serve_rsa_key() {
    cp /host/rsa2048.pem /root/key.pem
    chmod 600 /root/key.pem
    echo keypass | add_key root /root/key.pem --pin-fd 0 >/dev/null
}

# For root, mounts the folder /lower/NAME at /mnt/NAME: by the kernel or by Claviger, with the same options.
mount_by() { # kernel|claviger NAME OPTIONS
    mkdir -p "/lower/$2" "/mnt/$2"
    forget_files
    case $1 in
    kernel) as_root_of root mount -i -t ecryptfs -o "ecryptfs_cipher=aes,$3" "/lower/$2" "/mnt/$2" ;;
    claviger)
        as root claviger mount --format ecryptfs -o "$3" "/lower/$2" "/mnt/$2" >/tmp/mounted 2>&1 || cat /tmp/mounted
        # On a slow machine the daemon comes a moment later.
        until_true ls "/mnt/$2" >/tmp/listed 2>&1
        ;;
    esac
}

# Ends that mount.
unmount_by() { # kernel|claviger NAME
    case $1 in
    kernel) umount "/mnt/$2" ;;
    claviger) as root claviger umount "/mnt/$2" ;;
    esac
}

# Has the kernel forget inodes, and their FEKs with them.
forget_files() {
    sync
    echo 3 >/proc/sys/vm/drop_caches
}

# A card of SoftHSM's with this label, and the PIN 123456.
card() { # NAME LABEL
    home=$(home_of "$1")
    mkdir -p "$home/tokens"
    printf 'directories.tokendir = %s\nobjectstore.backend = file\nlog.level = ERROR\n' "$home/tokens" \
        >"$home/softhsm2.conf"
    chown -R "$1:$1" "$home/tokens" "$home/softhsm2.conf"
    as "$1" softhsm2-util --init-token --free --label "$2" --so-pin 12345678 --pin 123456
}

# How often a FEK was unwrapped for a user so far, well or not.
unwraps() { # NAME
    grep -c '"event":"unwrap"' "$(home_of "$1")/.local/state/claviger/audit.log" || true
}

# Whether the user's daemon has logged this.
logged() { # NAME TEXT
    grep -q "$2" "$(home_of "$1")/.local/state/claviger/daemon.log"
}

# The user's daemon.
daemon_of() { # NAME
    as "$1" claviger status --json | sed -n 's/.*"daemon_pid": \([0-9]*\).*/\1/p'
}

# Ends a process that is no child of this one, and waits for its end.
kill_now() { # PID
    kill -KILL "$1"
    until_true has_ended "$1"
}

has_ended() { # PID
    [ ! -e "/proc/$1/exe" ] || ! readlink "/proc/$1/exe" >/dev/null
}

# Says what went wrong, and ends the script.
fail() {
    echo "FAILED: $*"
    exit 1
}

# Expects a command to fail; what it said is in /tmp/said.
fails() { # PROGRAM ARG…
    if "$@" >/tmp/said 2>&1; then
        fail "worked, and should not: $*"
    fi
}

# Hundredths of a second since the machine was switched on.
now() {
    awk '{ print int($1 * 100) }' /proc/uptime
}

# Expects a command to fail within two seconds: the kernel's patience is three.
fails_at_once() { # PROGRAM ARG…
    begun=$(now)
    fails "$@"
    [ $(($(now) - begun)) -lt 200 ] || fail "took $(($(now) - begun)) hundredths: $*"
}

# Expects two numbers or texts to be the same.
same() { # WHAT EXPECTED FOUND
    [ "$2" = "$3" ] || fail "$1: expected $2, found $3"
}

# Waits for a condition, 20 seconds at most.
until_true() { # PROGRAM ARG…
    tries=0
    until "$@"; do
        tries=$((tries + 1))
        [ "$tries" -lt 200 ] || fail "waited in vain: $*"
        sleep 0.1
    done
}

# Prints LENGTH bytes of a text in which no two places are alike, from the byte FIRST.
text() { # FIRST LENGTH
    [ -e /tmp/text ] || seq 40000 >/tmp/text
    tail -c "+$1" /tmp/text | head -c "$2"
}

# Prints a word so often that it has this length.
long() { # LENGTH WORD
    yes "$2" | tr -d '\n' | head -c "$1"
}

# Makes one of everything that a folder of eCryptfs may have in it. FIRST makes the contents differ from another's.
make_tree() { # DIR FIRST
    mkdir -p "$1/a/b/.c"
    (
        cd "$1"
        : >empty
        for length in 1 4096 4097 100000; do
            text "$2" $length >$length
        done
        # With a hole.
        printf 'first' >70005
        printf 'final' | dd of=70005 bs=5 seek=14000 conv=notrunc 2>/dev/null
        # The longest name that can be encrypted.
        text "$2" 20 >"$(long 143 name)"
        text "$2" 30 >'a/b/.c/Über alles, 終'
        ln 4097 a/hard-link
        ln -s 4096 link
        ln -s ../4096 a/b/link
        ln -s "$(long 600 nowhere/)" a/long-link
        chmod 640 1
        chmod 750 a/b
    )
}

# Changes that in all ways that there are, for the TURN-th time.
change_tree() { # DIR TURN
    (
        cd "$1"
        first=$(($2 * 700))
        # Over the border of two extents.
        text $first 300 | dd of=100000 bs=100 seek=409 conv=notrunc 2>/dev/null
        truncate -s $((98765 - $2 * 5000)) 100000
        truncate -s $(($2 * 2500)) 4096
        text $first 5000 >>4097
        # Beyond the end.
        text $first 10 | dd of=1 bs=10 seek=$(($2 * 333)) conv=notrunc 2>/dev/null
        mv 70005* "70005 $2"
        mv a* "a $2"
        text $first 777 >replacing
        mv replacing empty
        rm -rf link made
        mkdir made
        text $first 20 >"made/new $2"
        ln "made/new $2" made/again
        ln -s "new $2" link
        mv made/again "other $2"
    )
}

# What there is to see of a folder: names, kinds, modes, links, sizes, targets, contents or why there are none. Contents first: with headers in
# extended attributes, Linux 6.1 knows a file's size only once it has been open.
seen() { # DIR
    (
        cd "$1"
        find . -type f -exec sha256sum {} + || true
        find . -type d -exec stat -c '%n %F %a' {} +
        find . ! -type d -exec stat -c '%n %F %a %h %s' {} +
        find . -type l -exec sh -c 'for link; do echo "$link -> $(readlink "$link")"; done' - {} +
    ) 2>&1 | sort
}

# Whom the FEK of a lower file is wrapped to, in the order of its packets.
recipients() { # FILE
    claviger ecryptfs inspect "$1" | sed -n 's/.*key_sig[^0-9a-f]*\([0-9a-f]\{16\}\).*/\1/p' | tr '\n' ' '
}

# Expects two folders to look alike.
alike() { # EXPECTED FOUND
    seen "$1" >/tmp/expected
    seen "$2" >/tmp/found
    diff /tmp/expected /tmp/found || fail "$2 is not as $1"
}
