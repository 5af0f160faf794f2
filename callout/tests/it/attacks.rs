//! What another user of the machine can do: nothing. The enemy is a process with a uid of its own.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use claviger_callout::frame::{Flags, Frame, Kind};
use claviger_callout::session::{Ends, Greeting, SessionError};
use claviger_callout::{CarrierKind, Serves, StartError};
use nix::unistd::{Gid, Uid, setegid, seteuid, setresuid};

use crate::harness::{
    Child, News, PATIENCE, ask, enemy, entry_text, folder, registered, requester, requester_with,
    submit, user,
};
use crate::raw::{
    RawRequester, RawResponder, Socket, Target, clear, listen, ports_in_use, publish,
};
use crate::roles::{become_uid, next_order, say, until_told};

mod ports;

use ports::{
    another_uid_on_a_dead_requesters_port_is_not_taken_for_it,
    another_uid_that_floods_the_netlink_port_drives_nobody_further_than_the_unix_socket,
    another_uid_that_takes_over_a_responders_port_reads_ciphertext_and_answers_nothing,
    impersonate_requester, leave_a_port, take_over,
};

/// How long the enemy waits for an answer that must not come.
const IN_VAIN: Duration = Duration::from_millis(400);

/// As `over_both_carriers`, and counts.
macro_rules! as_another_uid {
    (both: $($name:ident)* ; once: $($single:ident)*) => {
        crate::over_both_carriers! { $($name)* }
        crate::once! { $($single)* the_number_of_tests_run_as_another_uid_is_told }
        const RUN: &[&str] = &[$(stringify!($name), stringify!($name),)* $(stringify!($single),)*];
    };
}

as_another_uid! {
    both:
    another_uid_does_not_register_where_only_the_owner_is_served
    another_uid_cannot_pass_for_the_user
    another_uid_reads_nothing_that_is_asked_of_the_user
    another_uid_cannot_answer_for_the_user
    another_uid_that_holds_the_users_very_socket_cannot_answer
    another_uid_that_holds_a_requesters_very_socket_cannot_ask
    another_uid_cannot_inject_into_a_connection
    another_uid_that_floods_the_requester_keeps_nobody_out
    another_uid_that_squats_where_the_requester_would_be_keeps_nobody_out
    another_uids_entry_is_not_believed_even_in_a_folder_it_may_write
    ;
    once:
    another_uid_that_floods_the_netlink_port_drives_nobody_further_than_the_unix_socket
    another_uid_on_a_dead_requesters_port_is_not_taken_for_it
    another_uid_that_takes_over_a_responders_port_reads_ciphertext_and_answers_nothing
    a_uid_without_a_name_here_does_not_register
    a_folder_others_may_write_is_refused
}

fn the_number_of_tests_run_as_another_uid_is_told() {
    println!("{} tests run as another uid: {RUN:#?}", RUN.len());
    assert_eq!(RUN.len(), 10 * 2 + 5);
}

/// What the enemy's process does. It becomes the enemy first.
pub(crate) fn play(name: &str, words: &[&str]) {
    let kind = match words.first() {
        Some(&"netlink") => CarrierKind::Netlink,
        _ => CarrierKind::Unix,
    };
    if name == "stolen" {
        return answer_on_stolen_socket(kind);
    }
    if name == "stolen-requester" {
        return ask_on_stolen_socket(kind);
    }
    if name == "victim" {
        become_uid(user());
        return leave_a_port();
    }
    become_uid(enemy());
    say!("uid {}", Uid::current());
    match name {
        "greet" => greet_in_vain(kind),
        "pose" => pose_as_user(kind),
        "nameless" => greet_without_a_name(),
        "listen" => listen_on_own_seat(kind),
        "answer" => answer_for_user(kind),
        "inject" => inject(kind),
        "flood" => flood(kind),
        "squat" => squat(kind, words[1].parse().unwrap()),
        "publish" => publish_false_entry(kind),
        "impersonate" => impersonate_requester(words[1]),
        "take-over" => take_over(words[1].parse().unwrap()),
        _ => panic!("no attack {name:?}"),
    }
}

/// Starts an attack, and makes sure that it is another uid's.
fn attack(name: &str, words: &str) -> Child {
    let child = Child::play(format!("attack {name} {words}").trim());
    assert_eq!(child.expect("uid"), enemy().to_string());
    assert_ne!(enemy(), Uid::current().as_raw());
    child
}

fn target() -> Target {
    Target::parse(&folder(), &entry_text(&folder()))
}

fn another_uid_does_not_register_where_only_the_owner_is_served(kind: CarrierKind) {
    let (requester, heard) = requester_with(kind, |config| config.serves = Serves::Owner);
    // Closed by their modes already; opened, so that only the uid stands in the way.
    for file in fs::read_dir(folder()).unwrap() {
        fs::set_permissions(file.unwrap().path(), Permissions::from_mode(0o666)).unwrap();
    }
    fs::set_permissions(folder(), Permissions::from_mode(0o755)).unwrap();
    attack("greet", &kind.to_string()).expect("unanswered");
    assert_eq!(requester.registered(enemy()), None);
    assert_eq!(heard.all(), []);
}

fn greet_in_vain(kind: CarrierKind) {
    let target = target();
    let socket = Socket::to(&target, kind).unwrap();
    let ends = Ends {
        responder: enemy(),
        requester: 0,
        instance: target.instance,
    };
    let (_, helo) = Greeting::start(&ends).unwrap();
    // A unix connection may be closed already: all the better.
    let _ = socket.send(&clear(Kind::Helo, Flags::NONE, 0, socket.port(), &helo));
    assert!(
        socket.receive_within(IN_VAIN).is_none(),
        "HELO of another uid was answered"
    );
    say!("unanswered");
}

fn another_uid_cannot_pass_for_the_user(kind: CarrierKind) {
    let (requester, heard) = requester(kind);
    attack("pose", &kind.to_string()).expect("refused");
    assert_eq!(requester.registered(user()), None);
    assert_eq!(heard.all(), []);
}

fn pose_as_user(kind: CarrierKind) {
    let target = target();
    let socket = Socket::to(&target, kind).unwrap();
    let ends = Ends {
        responder: user(),
        requester: 0,
        instance: target.instance,
    };
    let (mut greeting, helo) = Greeting::start(&ends).unwrap();
    socket
        .send(&clear(Kind::Helo, Flags::NONE, 0, socket.port(), &helo))
        .unwrap();
    let answer = socket.receive();
    let answer = Frame::parse(&answer.bytes).unwrap();
    // The requester bound the uid the kernel told it, not the one this end claims.
    assert_eq!(greeting.hear(answer.body), Err(SessionError::Handshake));
    say!("refused");
}

fn another_uid_reads_nothing_that_is_asked_of_the_user(kind: CarrierKind) {
    let (requester, heard) = requester(kind);
    let _child = registered(&requester, user(), kind);
    let mut spy = attack("listen", &kind.to_string());
    heard.wait(&News::Registered(enemy(), kind), 1);
    assert_eq!(
        ask(&requester, user(), "echo for the user"),
        Ok("for the user".to_owned())
    );
    spy.tell("report");
    spy.expect("nothing");
}

fn listen_on_own_seat(kind: CarrierKind) {
    let raw = RawResponder::greet(&target(), kind, enemy());
    assert_eq!(next_order(), "report");
    assert!(raw.socket.receive_within(IN_VAIN).is_none());
    say!("nothing");
}

fn another_uid_cannot_answer_for_the_user(kind: CarrierKind) {
    let (requester, heard) = requester(kind);
    let child = registered(&requester, user(), kind);
    let (_, outcome) = submit(&requester, user(), "hold", PATIENCE);
    child.expect("held");
    let forger = attack("answer", &kind.to_string());
    forger.expect("answered");
    heard.wait(&News::Event(enemy(), b"all sent".to_vec()), 1);
    assert!(
        outcome.try_recv().is_err(),
        "still waiting for the user's own responder"
    );
    assert_eq!(ask(&requester, user(), "release"), Ok(String::new()));
    assert_eq!(outcome.recv().unwrap().unwrap().as_slice(), b"released");
}

/// The enemy's own seat is real; the requests answered on it are not its own.
fn answer_for_user(kind: CarrierKind) {
    let mut raw = RawResponder::greet(&target(), kind, enemy());
    let mut send = |kind, index, sequence, body: &[u8]| {
        let frame = raw.seal(kind, index, sequence, body);
        while raw
            .socket
            .send(&frame)
            .is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
        {
            std::thread::yield_now();
        }
    };
    for index in 0..32 {
        for sequence in 0..32 {
            send(Kind::Response, index, sequence, b"forged");
        }
    }
    send(Kind::Event, 0, 0, b"all sent");
    say!("answered");
    until_told();
}

fn another_uid_that_holds_the_users_very_socket_cannot_answer(kind: CarrierKind) {
    let (requester, heard) = requester_with(kind, |config| config.limits.successor_wait = PATIENCE);
    let mut thief = Child::play(&format!("attack stolen {kind}"));
    heard.wait(&News::Registered(user(), kind), 1);
    let (_, outcome) = submit(&requester, user(), "echo honest", PATIENCE);
    assert_eq!(thief.expect("sent-as"), enemy().to_string());
    // The thief is still registered as the user; the user's own responder takes its place.
    let _child = registered(&requester, user(), kind);
    assert_eq!(outcome.recv().unwrap().unwrap().as_slice(), b"honest");
    assert!(
        !heard
            .all()
            .contains(&News::Event(user(), b"forged".to_vec()))
    );
    thief.kill();
}

/// Registers as the user, then goes on with the same socket and the same keys as the enemy.
fn answer_on_stolen_socket(kind: CarrierKind) {
    let (user, enemy) = (Uid::from_raw(user()), Uid::from_raw(enemy()));
    setegid(Gid::from_raw(user.as_raw())).unwrap();
    setresuid(user, user, Uid::from_raw(0)).unwrap();
    let mut raw = RawResponder::greet(&target(), kind, user.as_raw());
    let (index, sequence) = raw.request();
    seteuid(Uid::from_raw(0)).unwrap();
    setresuid(enemy, enemy, enemy).unwrap();
    raw.send(Kind::Event, 0, 0, b"forged");
    raw.send(Kind::Response, index, sequence, b"forged");
    say!("sent-as {}", Uid::current());
    until_told();
}

fn another_uid_cannot_inject_into_a_connection(kind: CarrierKind) {
    let (requester, heard) = requester(kind);
    let _child = registered(&requester, user(), kind);
    let injector = attack("inject", &kind.to_string());
    injector.expect("refused");
    assert_eq!(
        ask(&requester, user(), "echo untouched"),
        Ok("untouched".to_owned())
    );
    assert_eq!(heard.all(), [News::Registered(user(), kind)]);
}

/// Frames that would mean something, to wherever a socket is.
fn inject(kind: CarrierKind) {
    let target = target();
    let mut socket = Socket::to(&target, kind).unwrap();
    let frames = |port| {
        Kind::ALL
            .map(|kind| clear(kind, Flags::SEALED, 1, port, &[0; 64]))
            .into_iter()
            .chain(Kind::ALL.map(|kind| clear(kind, Flags::NONE, 1, port, &[0; 64])))
    };
    match kind {
        CarrierKind::Unix => {
            // There is no other way in than a connection of one's own.
            frames(0).for_each(|frame| drop(socket.send(&frame)));
        }
        CarrierKind::Netlink => {
            let own = socket.port();
            let open = target.netlink.unwrap();
            let others = ports_in_use()
                .into_iter()
                .filter(|port| ![own, open].contains(port));
            let others: Vec<_> = others.collect();
            assert_eq!(others.len(), 2, "both ends of the user's connection");
            for port in others {
                for frame in frames(own) {
                    let refused = socket.send_to(port, &frame).unwrap_err();
                    assert_eq!(
                        refused.kind(),
                        io::ErrorKind::ConnectionRefused,
                        "by the kernel"
                    );
                }
            }
            frames(own).for_each(|frame| drop(socket.send_to(open, &frame)));
        }
    }
    say!("refused");
    until_told();
}

fn another_uid_that_floods_the_requester_keeps_nobody_out(kind: CarrierKind) {
    let (requester, _) = requester(kind);
    let flooder = attack("flood", &kind.to_string());
    flooder.expect("flooding");
    let _child = registered(&requester, user(), kind);
    for number in 0..100 {
        let answer = ask(&requester, user(), &format!("echo {number}"));
        assert_eq!(answer, Ok(number.to_string()));
    }
}

/// Fills what there is to fill, for ever.
fn flood(kind: CarrierKind) {
    let target = target();
    let mut sockets = Vec::new();
    for round in 0u64.. {
        match kind {
            CarrierKind::Netlink => {
                let socket = Socket::to(&target, kind).unwrap();
                let frame = clear(Kind::Event, Flags::SEALED, 1, socket.port(), &[0; 4096]);
                while socket.send(&frame).is_ok() {}
            }
            CarrierKind::Unix => {
                // Connections that say nothing, kept open as long as descriptors last.
                sockets.extend(Socket::to(&target, kind));
                if sockets.len() > 500 {
                    sockets.clear();
                }
            }
        }
        if round == 100 {
            say!("flooding");
        }
    }
}

fn another_uid_that_squats_where_the_requester_would_be_keeps_nobody_out(kind: CarrierKind) {
    fs::create_dir(folder()).unwrap();
    // The kernel's first choice of a port id is the process id.
    let own = std::process::id();
    let squatter = attack("squat", &format!("{kind} {own}"));
    squatter.expect("squatting");
    let (requester, _) = requester(kind);
    assert_ne!(target().netlink, Some(own));
    let _child = registered(&requester, user(), kind);
    assert_eq!(ask(&requester, user(), "echo here"), Ok("here".to_owned()));
}

fn squat(kind: CarrierKind, port: u32) {
    let _socket = match kind {
        CarrierKind::Netlink => Some(Socket::netlink(port, 0).unwrap()),
        CarrierKind::Unix => {
            let denied = fs::write(folder().join("x.sock"), "").unwrap_err();
            assert_eq!(denied.kind(), io::ErrorKind::PermissionDenied);
            None
        }
    };
    say!("squatting");
    until_told();
}

fn another_uids_entry_is_not_believed_even_in_a_folder_it_may_write(kind: CarrierKind) {
    fs::create_dir(folder()).unwrap();
    let (first, _) = requester(kind);
    fs::set_permissions(folder(), Permissions::from_mode(0o777)).unwrap();
    let mut liar = attack("publish", &kind.to_string());
    liar.expect("published");
    // Connected to the one, it has seen the other: both are in the folder before it looks.
    let mut child = registered(&first, user(), kind);
    liar.tell("report");
    liar.expect("nothing");
    child.tell("peers");
    assert_eq!(child.expect("peers"), "1");
}

fn publish_false_entry(kind: CarrierKind) {
    let instance = "ab".repeat(16);
    let port = Socket::netlink(0, 0).unwrap();
    let listener = listen(&folder().join(format!("{instance}.sock")));
    let way = match kind {
        CarrierKind::Netlink => format!("netlink = {}", port.port()),
        CarrierKind::Unix => format!("socket = \"{instance}.sock\""),
    };
    publish(&folder(), &instance, &way);
    say!("published");
    assert_eq!(next_order(), "report");
    assert!(port.receive_within(IN_VAIN).is_none());
    let nobody = listener.accept().unwrap_err();
    assert_eq!(nobody.kind(), io::ErrorKind::WouldBlock);
    say!("nothing");
}

fn another_uid_that_holds_a_requesters_very_socket_cannot_ask(kind: CarrierKind) {
    fs::create_dir(folder()).unwrap();
    let thief = Child::play(&format!("attack stolen-requester {kind}"));
    let child = Child::play(&format!("responder {} {kind}", user()));
    child.expect("connected");
    assert_eq!(thief.expect("unanswered-as"), enemy().to_string());
    assert!(!child.said().contains(&"held".to_owned()));
}

/// Is the requester, of root's, then goes on with the same socket and the same keys as the enemy.
fn ask_on_stolen_socket(kind: CarrierKind) {
    let mut raw = RawRequester::meet(&folder(), kind, user());
    raw.ask(1, "echo as root");
    assert_eq!(
        raw.reply_within(PATIENCE),
        Some((Kind::Response, b"as root".to_vec()))
    );
    become_uid(enemy());
    raw.ask(2, "echo as the enemy");
    raw.ask(3, "hold");
    assert_eq!(raw.reply_within(IN_VAIN), None);
    say!("unanswered-as {}", Uid::current());
    until_told();
}

fn a_uid_without_a_name_here_does_not_register() {
    // Inside, only root has a name: everyone else is shown as the overflow uid.
    let wrapper = ["/usr/bin/unshare", "--user", "--map-root-user"];
    let inside = Child::play_through(&wrapper, "requester unix");
    inside.expect("published");
    attack("nameless", "unix").expect("unanswered");
    let _named = Child::play("responder 0 unix");
    assert_eq!(inside.expect("registered"), "0 unix");
    assert_eq!(
        inside.said(),
        Vec::<String>::new(),
        "nobody else registered"
    );
}

/// Says to be who the requester sees: nobody in particular.
fn greet_without_a_name() {
    let target = target();
    let socket = Socket::to(&target, CarrierKind::Unix).unwrap();
    let ends = Ends {
        responder: 65534,
        requester: 0,
        instance: target.instance,
    };
    let (_, helo) = Greeting::start(&ends).unwrap();
    let _ = socket.send(&clear(Kind::Helo, Flags::NONE, 0, 0, &helo));
    assert!(
        socket.receive_within(IN_VAIN).is_none(),
        "HELO of the overflow uid was answered"
    );
    say!("unanswered");
}

fn a_folder_others_may_write_is_refused() {
    fs::create_dir(folder()).unwrap();
    fs::set_permissions(folder(), Permissions::from_mode(0o1777)).unwrap();
    let config = claviger_callout::RequesterConfig::new(folder(), "test/1");
    let refused = claviger_callout::Requester::start(config, std::sync::Arc::new(()));
    assert!(matches!(refused.err(), Some(StartError::Folder { .. })));
}
