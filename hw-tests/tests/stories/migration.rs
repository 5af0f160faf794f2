//! From an old folder into a volume, with kills on the way.

use std::fs;
use std::os::unix::fs::chown;
use std::process::Child;

use claviger_hw_tests::{Process, User, World, story, wait_until};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::ecryptfs::{data, unpack};
use crate::scene::says;

/// Of the volume.
const PASSPHRASE: &str = "correct horse battery staple";

/// All of a tree that a migration keeps, a line an object; of folders neither size nor links, which are
/// their filesystem's.
const LISTING: &str = "find . -mindepth 1 \\( -type d -printf '%P %y %m %U:%G %T@\\n' -o -printf '%P %y %m %U:%G %T@ %s %n %l\\n' \\) | LC_ALL=C sort";

/// The attributes and ACLs of a tree.
const ATTRIBUTES: &str = "find . ! -type l -print0 | LC_ALL=C sort -z | xargs -0 sh -c 'getfacl -pn \"$@\" && getfattr -d \"$@\"' -";

/// Alice or root with the volume `Private` at `private`, which a passphrase opens.
fn with_a_volume(user: User) -> User {
    user.write("pass", format!("{PASSPHRASE}\n"));
    let init = [
        "init",
        "--no-recovery",
        "--passphrase-file",
        "pass",
        "Private",
    ];
    user.claviger(init).ok();
    user.sh("mkdir private").ok();
    user.claviger(["mount", "Private", "private"])
        .answers(&[PASSPHRASE])
        .ok();
    user
}

/// The folder `old`, with something of everything that an ordinary user can make.
fn with_an_old_folder(user: &User) {
    user.sh(
        "mkdir old && cd old && mkdir -p deep/er/and/deeper many empty \
         && for n in $(seq 140); do echo content $n >many/$n; done \
         && seq 300000 >deep/er/numbers && truncate -s 20M sparse && echo end >>sparse \
         && ln many/7 deep/linked && ln many/7 z-linked && ln -s ../many/1 deep/link && ln -s gone dangling \
         && mkfifo pipe && echo x >\"$(printf 'n%.0s' $(seq 255))\" && printf x >\"$(printf 'odd\\n\\377')\" \
         && setfattr -n user.mood -v good many/8 && setfattr -n user.of -v folder deep/er \
         && setfacl -m u:4242:r many/9 && setfacl -d -m u:4242:rx deep \
         && chmod 4750 many/10 && chmod 3711 many && chmod 500 deep/er/and && chmod 444 many/11 \
         && touch -d '2001-02-03 04:05:06.789012345' many/12 deep/er/numbers && touch -hd '1999-01-01 01:02:03.4' dangling \
         && touch -d '2010-10-10 10:10:10.101010101' deep/er empty . deep",
    )
    .ok();
}

/// `claviger ecryptfs migrate old NEW`.
fn begin(user: &User, new: &str) -> Migration {
    let child = user.claviger(["ecryptfs", "migrate", "old", new]).spawn();
    Migration { child }
}

/// One that runs.
struct Migration {
    child: Child,
}

impl Migration {
    fn process(&self) -> Process {
        Process {
            pid: self.child.id(),
        }
    }

    /// How many times it has read or written; `None` once it has ended.
    fn steps(&self) -> Option<u64> {
        let io = fs::read_to_string(format!("/proc/{}/io", self.child.id())).ok()?;
        let count = |name: &str| {
            io.lines()
                .find_map(|line| line.strip_prefix(name)?.parse::<u64>().ok())
        };
        Some(count("syscr: ")? + count("syscw: ")?).filter(|_| !self.process().has_ended())
    }

    /// Waits until it has read and written so often, and kills it; how far it came.
    fn kill_after(mut self, steps: u64) -> Option<u64> {
        while let Some(now) = self.steps() {
            if now >= steps {
                self.child.kill().unwrap();
                self.child.wait().unwrap();
                return Some(now);
            }
        }
        assert!(self.child.wait().unwrap().success());
        None
    }

    /// Waits for its end; how often it has read and written.
    fn count_steps(mut self) -> u64 {
        let mut last = 0;
        while let Some(now) = self.steps() {
            last = now;
        }
        assert!(self.child.wait().unwrap().success());
        last
    }
}

/// Expects that `new` has all of `old`, by the looks of other programs.
#[track_caller]
fn is_the_same(user: &User, new: &str) {
    // diff(1) tells of a fifo or device on either side only that it is one.
    user.sh(&format!(
        "diff -r --no-dereference old {new} 2>&1 | grep -Ev ' is a (fifo|.* special file) while '"
    ))
    .fails(1);
    for look in [LISTING, ATTRIBUTES] {
        let [was, is] = ["old", new].map(|tree| user.sh(&format!("cd {tree} && {look}")).ok());
        assert_eq!(was, is, "{new}: {look}");
    }
}

/// Into how many moments a migration is divided.
const MOMENTS: u64 = 26;

/// Kills a migration at each of `moments`, and completes it.
fn kill_and_complete(world: &mut World, moments: std::ops::Range<u64>) {
    let alice = with_a_volume(world.user("alice"));
    with_an_old_folder(&alice);
    let old = alice.sh(&format!("cd old && {LISTING}")).ok();
    alice.sh("mkdir private/whole").ok();
    let whole = begin(&alice, "private/whole").count_steps();
    is_the_same(&alice, "private/whole");
    let mut killed_at = Vec::new();
    let wanted = moments.end - moments.start;
    for moment in moments {
        let new = format!("private/{moment}");
        alice.sh(&format!("mkdir {new}")).ok();
        killed_at.extend(begin(&alice, &new).kill_after(whole * moment / MOMENTS));
        if moment % 3 == 0 {
            // And once more in the run that should have completed it.
            killed_at.extend(begin(&alice, &new).kill_after(whole * moment / MOMENTS / 2));
        }
        let said = alice.claviger(["ecryptfs", "migrate", "old", &new]).ok();
        says(
            &said,
            &["old is complete in", "146 files", "verified", "rm -rf"],
        );
        is_the_same(&alice, &new);
        alice
            .sh(&format!("test ! -e {new}/.claviger-migration"))
            .ok();
    }
    assert!(
        killed_at.len() as u64 >= wanted - 2,
        "killed at {killed_at:?} of {whole} only"
    );
    assert_eq!(old, alice.sh(&format!("cd old && {LISTING}")).ok());
    // And it is all there below.
    alice.claviger(["umount", "private"]).ok();
    alice.claviger(["verify", "Private"]).ok();
}

story! {
    /// "Resumable after a kill": `kill -9` at any moment loses nothing, and the next run goes on.
    fn a_migration_killed_in_its_first_half_is_completed_by_the_next(world) {
        kill_and_complete(world, 1..MOMENTS / 2);
    }
}

story! {
    /// The same, while it is reading back and comparing, or about to end.
    fn a_migration_killed_in_its_second_half_is_completed_by_the_next(world) {
        kill_and_complete(world, MOMENTS / 2..MOMENTS);
    }
}

/// The mounts of Claviger that there are.
fn mounts() -> usize {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    mounts
        .lines()
        .filter(|line| line.contains("fuse.claviger"))
        .count()
}

/// What is left in the runtime folder of mounts that a migration makes for itself.
fn mountpoints(user: &User) -> String {
    user.sh("ls -d $XDG_RUNTIME_DIR/claviger/migrate-* 2>/dev/null; true")
        .ok()
}

story! {
    /// "NEW may be a lower folder: it is mounted where nobody else looks, and unmounted at the end, also
    /// on failure and on a signal"; what `kill -9` leaves mounted, the next run takes over.
    fn what_a_migration_mounts_itself_it_unmounts(world) {
        let alice = with_a_volume(world.user("alice"));
        with_an_old_folder(&alice);
        alice.claviger(["umount", "private"]).ok();
        for signal in [Signal::SIGINT, Signal::SIGTERM] {
            let mut migration = begin(&alice, "Private");
            wait_until("it has mounted the volume", || mounts() == 1);
            migration.process().signal(signal);
            assert_eq!(migration.child.wait().unwrap().code(), Some(8));
            assert_eq!((mounts(), mountpoints(&alice).as_str()), (0, ""));
        }
        let mut migration = begin(&alice, "Private");
        wait_until("it has mounted the volume", || mounts() == 1);
        migration.child.kill().unwrap();
        migration.child.wait().unwrap();
        assert_eq!(mounts(), 1);
        let mode = alice.sh("stat -c %a $XDG_RUNTIME_DIR/claviger/migrate-*").ok();
        assert_eq!(mode, "700\n");
        alice.claviger(["ecryptfs", "migrate", "old", "Private"]).ok();
        assert_eq!((mounts(), mountpoints(&alice).as_str()), (0, ""));
        alice.claviger(["mount", "Private", "private"]).ok();
        is_the_same(&alice, "private");
        // A failure leaves nothing mounted either.
        alice.claviger(["umount", "private"]).ok();
        alice.sh("echo changed >old/many/6").ok();
        says(&alice.claviger(["ecryptfs", "migrate", "old", "Private"]).fails(2), &["not empty", "many/6"]);
        assert_eq!((mounts(), mountpoints(&alice).as_str()), (0, ""));
    }
}

story! {
    /// "What could not be kept or read is listed with the reason, never silently."
    fn what_a_user_cannot_keep_or_read_is_told(world) {
        let alice = with_a_volume(world.user("alice"));
        alice.sh("mkdir old && echo mine >old/mine && echo theirs >old/theirs && echo closed >old/closed && chmod 0 old/closed").ok();
        let theirs = alice.home().join("old/theirs");
        chown(&theirs, Some(0), Some(0)).unwrap();
        fs::set_permissions(&theirs, std::os::unix::fs::PermissionsExt::from_mode(0o4755)).unwrap();
        let said = alice.claviger(["ecryptfs", "migrate", "--json", "old", "private"]).finish();
        assert_eq!(said.code, 27, "{said}");
        let told: Value = serde_json::from_str(&said.stdout).unwrap();
        assert_eq!(told["verdict"], "incomplete");
        assert_eq!((&told["files"], &told["bytes"]), (&2.into(), &12.into()));
        assert_eq!(told["not_copied"][0]["path"], "closed");
        assert_eq!(told["not_copied"][0]["why"], "Permission denied");
        assert_eq!(told["not_kept"][0]["path"], "theirs");
        assert_eq!(told["not_kept"][0]["of"], "owner");
        assert_eq!(told["not_kept"][1]["of"], "mode");
        let said = alice.claviger(["ecryptfs", "migrate", "old", "private"]).finish();
        assert_eq!(said.code, 27, "{said}");
        says(&said.stdout, &["closed: Permission denied", "theirs: owner: only root", "NOT complete", "Keep"]);
        assert!(!said.stdout.contains("rm -rf"), "{said}");
        alice.sh("chmod 600 old/closed").ok();
        says(&alice.claviger(["ecryptfs", "migrate", "old", "private"]).ok(), &["3 files, 19 bytes, verified"]);
        assert_eq!(alice.sh("cat private/*").ok(), "closed\nmine\ntheirs\n");
        assert_eq!(alice.sh("stat -c %U:%a private/theirs").ok(), "alice:755\n");
    }
}

story! {
    /// "Owners kept": those of others, devices and their like, by root.
    fn root_keeps_what_is_other_peoples(world) {
        let root = with_a_volume(world.root());
        with_an_old_folder(&root);
        root.sh("cd old && chown 1234:4321 many/10 deep/er empty && chmod 6755 many/10 && chown -h 12:34 dangling && chown 5:6 pipe \
                 && mknod null c 1 3 && chmod 666 null && mknod disk b 7 0").ok();
        root.claviger(["ecryptfs", "migrate", "old", "private"]).ok();
        is_the_same(&root, "private");
        assert_eq!(root.sh("stat -c '%t,%T %a' private/null private/disk | head -n 1").ok(), "1,3 666\n");
        root.claviger(["umount", "private"]).ok();
    }
}

/// All of a lower folder, its times too.
const LOWER: &str = "find lower -printf '%p %y %m %s %T@ %C@ %n %l\\n' | LC_ALL=C sort; find lower -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum";

story! {
    /// "OLD may be the lower folder itself": it is mounted read-only by the same options as `mount`'s, and
    /// all that the kernel showed of it is in NEW.
    fn a_lower_folder_of_ecryptfs_is_migrated_without_mounting_it_first(world) {
        let alice = with_a_volume(world.user("alice"));
        alice.write("keys", "golden passphrase one\n");
        alice.write("wrong", "not it\n");
        for folder in ["aes24-fnek", "aes16"] {
            alice.sh("rm -rf lower").ok();
            unpack(&alice, folder, "lower");
            let new = format!("private/{folder}");
            alice.sh(&format!("mkdir {new}")).ok();
            let before = alice.sh(LOWER).ok();
            let migrate = |keys: &str| alice.claviger(["ecryptfs", "migrate", "--passphrase-file", keys, "lower", &new]);
            migrate("wrong").fails(4);
            assert_eq!(alice.sh(&format!("ls -A {new}")).ok(), "");
            let said = migrate("keys").finish();
            assert_eq!(said.code, 0, "{said}");
            says(&said.stdout, &["is complete in", "rm -rf"]);
            says(&said.stderr, &["forged"]);
            assert_eq!((mounts(), mountpoints(&alice).as_str()), (1, ""));
            has_all_files(&alice, folder, &new);
            assert_eq!(before, alice.sh(LOWER).ok());
        }
    }
}

/// Expects in `new` every file that the kernel showed of the folder `name`, and no other.
#[track_caller]
fn has_all_files(user: &User, name: &str, new: &str) {
    let plain = String::from_utf8(data(&format!("{name}/plain.txt"))).unwrap();
    let mut files = 0;
    for line in plain.lines().filter_map(|line| line.strip_prefix("file\t")) {
        let fields: Vec<&str> = line.split('\t').collect();
        let [_, _, sha256, path] = fields[..] else {
            panic!("{line}")
        };
        let sum = user.sh(&format!("sha256sum <{new}/'{path}'")).ok();
        assert_eq!(sum, format!("{sha256}  -\n"), "{path}");
        files += 1;
    }
    assert!(files > 2, "hardly a file in {name}");
    let found = user.sh(&format!("find {new} -type f | wc -l")).ok();
    assert_eq!(found, format!("{files}\n"));
}

story! {
    /// "By the mount options that the kernel had", as /proc/mounts shows them: the keys they name are found in the keyring.
    fn a_lower_folder_is_migrated_by_the_kernels_mount_options(world) {
        let disk = world.ext4("32M");
        let alice = with_a_volume(world.user("alice"));
        let lower = disk.join("lower");
        fs::create_dir(&lower).unwrap();
        alice.own(&lower);
        let lower = lower.to_str().unwrap();
        unpack(&alice, "aes16-xattr-fnek", lower);
        alice.sh("mkdir private/all").ok();
        let migrate = |options: &str, lower: &str, new: &str| {
            alice.claviger(["ecryptfs", "migrate", "-o", options, lower, new])
        };
        let options = "rw,relatime,ecryptfs_fnek_sig=9e677d297b65a19b,ecryptfs_sig=f2291ce4c3069633,\
            ecryptfs_cipher=aes,ecryptfs_key_bytes=16,ecryptfs_xattr_metadata,ecryptfs_unlink_sigs";
        says(&migrate(options, lower, "private/all").fails(4), &["f2291ce4c3069633"]);
        for sig in ["f2291ce4c3069633", "9e677d297b65a19b"] {
            alice.write("tok", data(&format!("authtok.{sig}.bin")));
            alice.sh(&format!("keyctl padd user {sig} @u <tok")).ok();
        }
        says(&migrate(options, lower, "private/all").ok(), &["is complete in"]);
        has_all_files(&alice, "aes16-xattr-fnek", "private/all");
        assert_eq!((mounts(), mountpoints(&alice).as_str()), (1, ""));

        // Files in clear are passed through only if they are to be.
        unpack(&alice, "aes16", "mixed");
        alice.sh("echo in clear >mixed/clear && mkdir private/refused private/passed").ok();
        migrate("ecryptfs_sig=f2291ce4c3069633", "mixed", "private/refused").fails(27);
        migrate("ecryptfs_passthrough", "mixed", "private/passed").ok();
        assert_eq!(alice.sh("cat private/passed/clear").ok(), "in clear\n");

        for (options, part) in [
            ("ecryptfs_hmac", "unknown mount option 'ecryptfs_hmac'"),
            ("ecryptfs_encrypted_view", "nothing would be decrypted"),
        ] {
            says(&migrate(options, "mixed", "private/all").fails(2), &[part]);
        }
    }
}

story! {
    /// "Files that cannot be read are listed, and the migration goes on with the others."
    fn a_damaged_file_of_ecryptfs_keeps_no_other_from_being_migrated(world) {
        let alice = with_a_volume(world.user("alice"));
        alice.write("keys", "golden passphrase one\n");
        unpack(&alice, "aes16", "lower");
        alice.sh("truncate -s 12288 lower/size8192").ok();
        let migrate = ["ecryptfs", "migrate", "--json", "--passphrase-file", "keys", "lower", "private"];
        let said = alice.claviger(migrate).finish();
        assert_eq!(said.code, 27, "{said}");
        let told: Value = serde_json::from_str(&said.stdout).unwrap();
        assert_eq!(told["not_copied"].as_array().unwrap().len(), 1, "{told}");
        assert_eq!(told["not_copied"][0]["path"], "size8192");
        assert_eq!(told["not_copied"][0]["why"], "I/O error");
        alice.sh("test -e private/size4097 && test ! -e private/size8192").ok();
        // Put back, it is all that the next run copies.
        unpack(&alice, "aes16", "again");
        alice.sh("cat again/size8192 >lower/size8192").ok();
        says(&alice.claviger(migrate).ok(), &["complete"]);
    }
}

story! {
    /// Nothing is put where it would be in clear, within what is copied, or over what is there.
    fn places_that_are_no_good_are_refused_and_nothing_is_written(world) {
        let alice = with_a_volume(world.user("alice"));
        with_an_old_folder(&alice);
        let refused = |old: &str, new: &str, code: i32, parts: &[&str]| {
            says(&alice.claviger(["ecryptfs", "migrate", old, new]).fails(code), parts);
        };
        alice.sh("mkdir clear").ok();
        refused("old", "clear", 2, &["in no volume", "not be encrypted"]);
        refused("old", "missing", 3, &["missing"]);
        refused("missing", "private", 3, &["missing"]);
        refused("private", "private", 2, &["not apart"]);
        refused(".", "private", 2, &["not apart"]);
        refused("old", "old/many", 2, &["in no volume"]);
        refused("clear", "private", 2, &["OLD is empty"]);
        alice.sh("echo hint >clear/README.txt").ok();
        refused("clear", "private", 2, &["nothing is mounted"]);
        assert_eq!(alice.sh("ls -A clear private; rm clear/README.txt").ok(), "clear:\nREADME.txt\n\nprivate:\n");
        alice.sh("echo mine >private/z-linked").ok();
        refused("old", "private", 2, &["not empty"]);
        assert_eq!(alice.sh("cat private/z-linked; ls -A private").ok(), "mine\nz-linked\n");
        // A locked volume is opened first.
        alice.sh("mkdir private/new").ok();
        alice.claviger(["lock", "private"]).ok();
        alice.claviger(["ecryptfs", "migrate", "old", "private/new"]).answers(&[PASSPHRASE]).ok();
        is_the_same(&alice, "private/new");
    }
}
