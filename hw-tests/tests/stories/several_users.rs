//! A folder of several users, mounted by root, opened by each with a key and a daemon of their own.

use std::fs;
use std::path::{Path, PathBuf};

use claviger_hw_tests::{User, World, story, wait_until};

use crate::scene::{finds_a_mount_of_roots, says, software_key};

const LOCKED: &str = "Required key not available";

/// Alice and Bob, with a key each, and the volume that both open, mounted by root.
struct Team {
    alice: User,
    bob: User,
    root: User,
    mountpoint: PathBuf,
}

fn team(world: &mut World) -> Team {
    let (alice, bob, root) = (world.user("alice"), world.user("bob"), world.root());
    let place = Path::new("/run/team");
    let (lower, mountpoint) = (place.join("Lower"), place.join("files"));
    for folder in [place, &mountpoint] {
        fs::create_dir(folder).unwrap();
    }
    alice.own(place);
    software_key(&alice, "alice's");
    let bobs = software_key(&bob, "bob's");
    let public = bob.run("openssl", ["pkey", "-in", &bobs, "-pubout"]).ok();
    alice.write("bob.pem", public);
    let init = [
        "init",
        "--no-recovery",
        "--recipient",
        "alice's",
        "--recipient",
        "bob.pem",
    ];
    alice
        .claviger(init.iter().map(AsRef::as_ref).chain([lower.as_os_str()]))
        .ok();
    // Everybody may make files, and read who opens it: a manifest is made for its owner only.
    alice.sh("cd /run/team/Lower && chmod 1777 . && chmod 755 .claviger && chmod 644 .claviger/volume.toml*").ok();
    root.claviger([
        "mount".as_ref(),
        "-o".as_ref(),
        "allow_other".as_ref(),
        lower.as_os_str(),
        mountpoint.as_os_str(),
    ])
    .ok();
    for user in [&alice, &bob] {
        finds_a_mount_of_roots(user);
    }
    Team {
        alice,
        bob,
        root,
        mountpoint,
    }
}

impl Team {
    #[track_caller]
    fn unlock(&self, user: &User) {
        user.claviger(["unlock".as_ref(), self.mountpoint.as_os_str()])
            .ok();
    }

    /// Waits until a file can be read by someone, which says that his grant has come.
    fn wait_readable(&self, user: &User, file: &str) {
        wait_until("the keys have come", || {
            user.sh(&format!("cat /run/team/files/{file}"))
                .finish()
                .code
                == 0
        });
    }
}

story! {
    /// "Names are visible to all once one has unlocked, contents only to openers granted; uid 0 has no
    /// daemon (ENOKEY for `sudo cat`)."
    fn each_user_reads_by_a_key_of_their_own(world) {
        let team = team(world);
        let carol = world.user("carol");
        let cat = "cat /run/team/files/plan";
        says(&team.alice.sh("ls /run/team/files").finish().stderr, &[LOCKED]);

        team.unlock(&team.alice);
        team.alice.sh("echo attack at dawn >/run/team/files/plan && chmod 644 /run/team/files/plan").ok();
        assert_eq!(team.alice.sh(cat).ok(), "attack at dawn\n");
        assert_eq!(team.bob.sh("ls /run/team/files").ok(), "plan\n");
        for other in [&team.bob, &carol, &team.root] {
            says(&other.sh(cat).fails(1), &[LOCKED]);
        }
        team.unlock(&team.bob);
        assert_eq!(team.bob.sh(cat).ok(), "attack at dawn\n");
        for other in [&carol, &team.root] {
            says(&other.sh(cat).fails(1), &[LOCKED]);
        }
        // Carol has a daemon, and no key of the folder.
        carol.claviger(["unlock".as_ref(), team.mountpoint.as_os_str()]).fails(4);
        says(&carol.sh(cat).fails(1), &[LOCKED]);

        // Files belong to whoever makes them, and modes hold as anywhere.
        team.bob.sh("umask 077; echo mine >/run/team/files/bobs").ok();
        assert_eq!(team.alice.sh("stat -c '%U %a' /run/team/files/bobs /run/team/files/plan").ok(), "bob 600\nalice 644\n");
        says(&team.alice.sh("cat /run/team/files/bobs").fails(1), &["Permission denied"]);
        says(&team.bob.sh("rm -f /run/team/files/plan").fails(1), &["not permitted"]);
    }
}

story! {
    /// "`lock` drops the caller's grants, the last lock drops the names."
    fn one_users_lock_does_not_lock_the_other(world) {
        let team = team(world);
        let cat = "cat /run/team/files/plan";
        team.unlock(&team.alice);
        team.alice.sh("echo text >/run/team/files/plan; chmod 644 /run/team/files/plan").ok();
        team.unlock(&team.bob);
        team.wait_readable(&team.bob, "plan");
        let mut bobs = team.bob.shell();
        bobs.ok("exec 3</run/team/files/plan");
        // The kernel has its page.
        let mut alices = team.alice.shell();
        alices.ok("exec 3</run/team/files/plan; head -c1 <&3");

        team.alice.claviger(["lock".as_ref(), team.mountpoint.as_os_str()]).ok();
        says(&team.alice.sh(cat).fails(1), &[LOCKED]);
        says(&alices.ok("cat <&3 2>&1 || true"), &[LOCKED]);
        assert_eq!(bobs.ok("cat <&3"), "text\n");
        assert_eq!(team.bob.sh(cat).ok(), "text\n");

        team.bob.claviger(["lock", "--all"]).ok();
        says(&team.bob.sh(cat).fails(1), &[LOCKED]);
        wait_until("the names are gone", || team.alice.sh("ls /run/team/files").finish().stderr.contains(LOCKED));
        team.unlock(&team.alice);
        assert_eq!(team.alice.sh(cat).ok(), "text\n");
        says(&team.bob.sh(cat).fails(1), &[LOCKED]);
    }
}

story! {
    /// "A non-root `allow_other` mount serves its owner only."
    fn a_users_mount_for_others_serves_its_owner_only(world) {
        let alice = world.user("alice");
        let bob = world.user("bob");
        software_key(&alice, "k");
        crate::scene::folder(&alice, &["--recipient", "k"]);
        fs::create_dir("/run/shown").unwrap();
        alice.own(Path::new("/run/shown"));
        says(&alice.claviger(["mount", "-o", "allow_other", "Private", "/run/shown"]).fails(11), &["user_allow_other", "/etc/fuse.conf"]);
        world.permit_allow_other();
        alice.claviger(["mount", "-o", "allow_other", "Private", "/run/shown"]).ok();
        alice.sh("echo text >/run/shown/letter; chmod 755 /run/shown; chmod 644 /run/shown/letter").ok();
        bob.claviger(["status"]).ok();
        says(&bob.sh("cat /run/shown/letter").fails(1), &[LOCKED]);
        assert_eq!(alice.sh("cat /run/shown/letter").ok(), "text\n");
    }
}

story! {
    /// "Other users of the machine: nothing": not the daemon's socket, not its files, not the mount.
    fn another_user_gets_nowhere_near(world) {
        let alice = crate::scene::alice_with_an_open_folder(world);
        alice.sh("echo text >private/letter").ok();
        let bob = world.user("bob");
        let runtime = alice.runtime();
        fs::set_permissions(&runtime, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        fs::set_permissions(alice.home(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        for line in [
            "cat /home/alice/private/letter".to_owned(),
            "ls /home/alice/private".to_owned(),
            format!("ls {}/claviger", runtime.display()),
            format!("XDG_RUNTIME_DIR={} /run/programs/claviger status", runtime.display()),
            "cat /home/alice/.local/state/claviger/audit.log".to_owned(),
            "cat /home/alice/keys/k.pem".to_owned(),
        ] {
            says(&bob.sh(&line).finish().stderr, &["ermission denied"]);
        }
        bob.sh("fusermount3 -u /home/alice/private").fails(1);
        assert_eq!(alice.sh("cat private/letter").ok(), "text\n");
    }
}

story! {
    /// Root's mounts tell of themselves in one folder. The first of them, for root alone, does not close it to the
    /// daemons of those whom a later one is for.
    fn a_mount_for_all_is_found_after_one_for_root_alone(world) {
        let (alice, root) = (world.user("alice"), world.root());
        software_key(&alice, "k");
        alice.claviger(["init", "--no-recovery", "--recipient", "k", "Private"]).ok();
        alice.sh("mkdir private && chmod 711 .").ok();
        let places = ["/home/alice/Private", "/home/alice/private"];
        root.claviger(["mount", "--locked", places[0], places[1]]).ok();
        root.claviger(["umount", places[1]]).ok();
        root.claviger(["mount", "-o", "allow_other", places[0], places[1]]).ok();
        finds_a_mount_of_roots(&alice);
        alice.claviger(["unlock", "private"]).ok();
        alice.sh("echo text >private/letter && cat private/letter").ok();
    }
}
