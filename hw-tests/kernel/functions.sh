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

# Runs a program as that user, from their home, in a session keyring that has their user keyring in it: what
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
        exec env -i HOME="$home" USER="$name" PATH="$PATH" XDG_RUNTIME_DIR="$runtime" CLAVIGER_LOG=debug \
            SOFTHSM2_CONF="$home/softhsm2.conf" \
            keyctl session - sh -c "$link && exec /usr/bin/setpriv $identity \"\$@\"" in-session "$@"
    )
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
