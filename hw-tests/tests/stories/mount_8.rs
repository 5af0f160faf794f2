//! Mounting by mount(8), from /etc/fstab, and unmounting by what people use.

use claviger_hw_tests::{story, wait_until};

use crate::scene::{finds_a_mount_of_roots, folder, says, software_key};

const LOCKED: &str = "Required key not available";

story! {
    /// "`mount -t fuse.claviger`": root mounts, its owner unlocks, `umount` ends it.
    fn mount_8_mounts_a_folder_and_its_owner_opens_it(world) {
        world.install_mount_helper();
        let alice = world.user("alice");
        let root = world.root();
        software_key(&alice, "k");
        folder(&alice, &["--recipient", "k"]);
        root.sh("mount -t fuse.claviger -o allow_other /home/alice/Private /home/alice/private").ok();
        assert!(root.sh("findmnt -n -o FSTYPE,SOURCE /home/alice/private").ok().contains("fuse.claviger /home/alice/Private"));
        says(&alice.sh("ls private").finish().stderr, &[LOCKED]);
        finds_a_mount_of_roots(&alice);
        alice.claviger(["unlock", "private"]).ok();
        alice.sh("echo text >private/letter").ok();
        assert_eq!(alice.sh("cat private/letter; stat -c %U private/letter").ok(), "text\nalice\n");
        says(&root.sh("cat /home/alice/private/letter").fails(1), &[LOCKED]);
        root.sh("umount /home/alice/private").ok();
        assert_eq!(alice.sh("ls -A private").ok(), "");
        let said = root.sh("mount -t fuse.claviger -o shiny /home/alice/Private /home/alice/private").fails(1);
        says(&said, &["shiny"]);
        root.sh("mount -t fuse.claviger /home/alice/Private /home/alice/missing").fails(32);
    }
}

story! {
    /// "Mounts from `/etc/fstab`."
    fn a_line_in_fstab_mounts_at_mount_a_and_for_its_user(world) {
        world.install_mount_helper();
        let alice = world.user("alice");
        let root = world.root();
        software_key(&alice, "k");
        folder(&alice, &["--recipient", "k"]);
        world.fstab("/home/alice/Private /home/alice/private fuse.claviger allow_other,nofail,x-systemd.automount 0 0\n");
        root.sh("mount -a -t fuse.claviger").ok();
        finds_a_mount_of_roots(&alice);
        alice.claviger(["unlock", "private"]).ok();
        alice.sh("echo text >private/letter").ok();
        root.sh("umount /home/alice/private").ok();

        world.fstab("/home/alice/Private /home/alice/private fuse.claviger user,noauto 0 0\n");
        alice.sh("mount /home/alice/private").ok();
        alice.sh("grep -q mounted .local/state/claviger/fs.log").ok();
        alice.claviger(["unlock", "private"]).ok();
        assert_eq!(alice.sh("cat private/letter").ok(), "text\n");
        says(&alice.sh("findmnt -n -o OPTIONS private").ok(), &["nosuid", "nodev"]);
        alice.sh("umount private").ok();
        assert_eq!(alice.sh("ls -A private").ok(), "");
    }
}

story! {
    /// "Unmounts by `fusermount3 -u`, `umount` and `claviger umount`": each leaves the data whole and the
    /// process ended.
    fn every_way_to_unmount_ends_the_filesystem_and_keeps_the_data(world) {
        let alice = world.user("alice");
        let root = world.root();
        software_key(&alice, "k");
        folder(&alice, &["--recipient", "k"]);
        for (number, by) in ["claviger", "fusermount3", "umount", "sigterm"].into_iter().enumerate() {
            alice.claviger(["mount", "Private", "private"]).ok();
            let filesystem = alice.filesystem();
            alice.sh(&format!("head -c 100000 /dev/urandom >noise; cp noise private/{by}; cmp noise private/{by}")).ok();
            match by {
                "claviger" => alice.claviger(["umount", "private"]).ok(),
                "fusermount3" => alice.sh("fusermount3 -u private").ok(),
                "umount" => root.sh("umount /home/alice/private").ok(),
                _ => {
                    filesystem.signal(nix::sys::signal::Signal::SIGTERM);
                    String::new()
                }
            };
            wait_until("the filesystem has ended", || filesystem.has_ended());
            assert_eq!(alice.sh("ls -A private").ok(), "");
            alice.claviger(["mount", "Private", "private"]).ok();
            alice.sh(&format!("cmp noise private/{by} && test $(ls private | wc -l) = {}", number + 1)).ok();
            alice.claviger(["umount", "private"]).ok();
        }
        alice.claviger(["verify", "Private"]).ok();
    }
}

story! {
    /// "-f: stay in the foreground."
    fn a_mount_in_the_foreground_ends_when_it_is_unmounted(world) {
        let alice = world.user("alice");
        software_key(&alice, "k");
        folder(&alice, &["--recipient", "k"]);
        let mut mount = alice.claviger(["mount", "-f", "Private", "private"]).spawn();
        wait_until("it is mounted and has its keys", || {
            alice.sh("mountpoint -q private && ls private").finish().code == 0
        });
        alice.sh("echo text >private/letter").ok();
        alice.claviger(["umount", "private"]).ok();
        assert_eq!(mount.wait().unwrap().code(), Some(0));
    }
}
