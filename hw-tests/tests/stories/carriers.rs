//! Both carriers, asserted from outside.

use std::fs;

use claviger_hw_tests::{Process, User, World, story};

use crate::scene::{folder, software_key};

/// `NETLINK_USERSOCK` in the column `Eth` of /proc/net/netlink.
const USERSOCK: &str = "2";

/// Port ids of a process's netlink sockets: those whose inode is among its descriptors.
fn netlink_ports(process: Process) -> Vec<String> {
    let links: Vec<String> = fs::read_dir(format!("/proc/{}/fd", process.pid))
        .expect("it runs")
        .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
        .map(|target| target.to_string_lossy().into_owned())
        .collect();
    let table = fs::read_to_string("/proc/net/netlink").expect("netlink is there");
    let mut ports = Vec::new();
    for line in table.lines().skip(1) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let inode = fields.last().expect("a line has fields");
        if fields[1] == USERSOCK && links.contains(&format!("socket:[{inode}]")) {
            ports.push(fields[2].to_owned());
        }
    }
    ports
}

fn open_over(world: &mut World, transport: &str) -> User {
    let alice = world.user("alice");
    software_key(&alice, "k");
    folder(&alice, &["--recipient", "k"]);
    alice
        .claviger([
            "mount",
            "-o",
            &format!("transport={transport}"),
            "Private",
            "private",
        ])
        .ok();
    alice
        .sh("echo over the wire >private/note && cat private/note")
        .ok();
    alice
}

/// What holds of either: a cold open, a lock and an unlock go through it.
fn works(alice: &User) {
    alice.claviger(["lock", "private"]).ok();
    alice.sh("cat private/note").fails(1);
    alice.claviger(["unlock", "private"]).ok();
    assert_eq!(alice.sh("cat private/note").ok(), "over the wire\n");
    assert!(alice.audited("unwrap") > 0);
}

story! {
    /// "`NETLINK_USERSOCK` unicast."
    fn over_netlink_both_ends_have_ports_of_their_own(world) {
        let alice = open_over(world, "netlink");
        works(&alice);
        assert_eq!(alice.mounts()[0]["carrier"], "netlink");
        let ports = [netlink_ports(alice.filesystem()), netlink_ports(alice.daemon())];
        assert!(ports.iter().all(|ports| !ports.is_empty()), "{ports:?}");
        assert!(ports[0].iter().all(|port| !ports[1].contains(port)), "{ports:?}");
    }
}

story! {
    /// "`AF_UNIX SEQPACKET` in the runtime directory."
    fn over_the_unix_socket_the_filesystem_has_no_netlink_port(world) {
        let alice = open_over(world, "unix");
        works(&alice);
        assert_eq!(alice.mounts()[0]["carrier"], "unix");
        assert_eq!(netlink_ports(alice.filesystem()), Vec::<String>::new());
    }
}

story! {
    /// "`auto` takes netlink where both ends share network and pid namespaces."
    fn left_to_itself_it_takes_netlink_on_one_machine(world) {
        let alice = open_over(world, "auto");
        assert_eq!(alice.mounts()[0]["carrier"], "netlink");
        assert!(alice.claviger(["status"]).ok().contains("over netlink"));
    }
}

story! {
    /// An option that is not understood is refused before anything is mounted.
    fn a_carrier_that_does_not_exist_is_refused_by_name(world) {
        let alice = world.user("alice");
        software_key(&alice, "k");
        folder(&alice, &["--recipient", "k"]);
        let said = alice.claviger(["mount", "-o", "transport=pigeon", "Private", "private"]).fails(2);
        assert!(said.contains("transport=pigeon") && said.contains("netlink"), "{said}");
        alice.claviger(["umount", "private"]).fails(10);
    }
}
