//! What a requester can count on, whatever becomes of its responders.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use claviger_callout::frame::{FRAME_MAX, Flags, Kind};
use claviger_callout::session::Subject;
use claviger_callout::{
    BODY_MAX, CallError, CarrierKind, EventError, Instance, Limits, Pending, Requester, Transport,
};
use nix::sys::signal::Signal;
use zeroize::Zeroizing;

use crate::harness::{
    Child, News, PATIENCE, ask, ask_within, entry_text, folder, registered, requester,
    requester_with, responder, submit, user,
};
use crate::raw::{RawResponder, Socket, Target};

crate::over_both_carriers! {
    a_question_is_answered
    what_a_requester_tells_about_itself_reaches_the_responder
    ten_thousand_requests_from_64_threads_each_get_their_own_answer
    the_largest_body_passes_and_a_larger_one_is_refused_at_once
    events_and_reasons_to_wait_arrive
    an_event_reaches_all_who_are_there_however_new
    a_cancelled_request_ends_at_once_and_the_responder_is_told
    a_request_that_is_dropped_or_panics_is_answered_as_unanswered
    a_killed_responder_fails_its_requests_when_no_successor_comes
    a_request_that_kills_two_responders_kills_no_third
    a_requester_that_is_gone_leaves_no_socket_open_though_calls_are
    a_hung_responder_costs_no_more_than_the_deadline
    a_responder_restarted_under_load_loses_no_request
    a_second_responder_of_the_same_uid_takes_over
    a_responder_that_quits_is_followed_by_its_successor
    a_requester_that_stops_fails_what_is_pending_and_leaves_nothing_behind
    a_restarted_requester_is_found_again
    a_full_table_refuses_at_once_and_only_the_uid_that_filled_it
    responders_beyond_the_limit_are_sent_away
    an_ordinary_users_requester_finds_its_own_responder
    a_responder_that_does_not_read_blocks_nobody
    replies_that_do_not_match_are_dropped
    malformed_frames_are_dropped_and_the_connection_lives
    replies_out_of_order_are_taken
}

fn a_question_is_answered(kind: CarrierKind) {
    let (requester, heard) = requester(kind);
    let _child = registered(&requester, user(), kind);
    assert_eq!(
        ask(&requester, user(), "echo hello"),
        Ok("hello".to_owned())
    );
    assert_eq!(
        ask(&requester, user() + 7, "echo hello"),
        Err(CallError::NoResponder)
    );
    assert_eq!(heard.all(), [News::Registered(user(), kind)]);
}

fn what_a_requester_tells_about_itself_reaches_the_responder(kind: CarrierKind) {
    let about = BTreeMap::from([(
        "mountpoint".to_owned(),
        "/home/ann/\"private\"\n".to_owned(),
    )]);
    let (requester, _) = requester_with(kind, |config| config.about = about.clone());
    let responder = responder(kind);
    assert!(requester.wait_registered(0, PATIENCE));
    let peers = responder.peers();
    assert_eq!(peers.len(), 1);
    assert_eq!(peers[0].instance, requester.instance());
    assert_eq!(peers[0].service, "test/1");
    assert_eq!(peers[0].about, about);
    assert_eq!((peers[0].carrier, peers[0].uid), (kind, 0));
}

fn ten_thousand_requests_from_64_threads_each_get_their_own_answer(kind: CarrierKind) {
    const THREADS: usize = 64;
    const TOTAL: usize = 10_000;
    let (requester, _) = requester(kind);
    let _child = registered(&requester, user(), kind);
    let next = AtomicUsize::new(0);
    let answered = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= TOTAL {
                        return;
                    }
                    let padding = "x".repeat(number % 1500);
                    let answer = ask(&requester, user(), &format!("echo {number} {padding}"));
                    assert_eq!(answer, Ok(format!("{number} {padding}")));
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!(answered.into_inner(), TOTAL);
}

fn the_largest_body_passes_and_a_larger_one_is_refused_at_once(kind: CarrierKind) {
    let (requester, _) = requester(kind);
    let _child = registered(&requester, user(), kind);
    let largest = "y".repeat(BODY_MAX - "echo ".len());
    for _ in 0..20 {
        assert_eq!(
            ask(&requester, user(), &format!("echo {largest}")),
            Ok(largest.clone())
        );
    }
    let larger = format!("echo {largest}y");
    assert_eq!(
        ask(&requester, user(), &larger),
        Err(CallError::TooLarge(BODY_MAX + 1))
    );
}

fn an_event_reaches_all_who_are_there_however_new(kind: CarrierKind) {
    let there: Vec<_> = (0..3).map(|_| requester(kind)).collect();
    let responder = responder(kind);
    responder.wait_greeted(PATIENCE);
    responder.broadcast(b"unlocked");
    for (_, heard) in &there {
        heard.wait(&News::Event(0, b"unlocked".to_vec()), 1);
    }
    // And those that have come since.
    let (late, heard) = requester(kind);
    responder.wait_greeted(PATIENCE);
    responder.broadcast(b"locked");
    heard.wait(&News::Event(0, b"locked".to_vec()), 1);
    // With nobody there, there is nobody to wait for.
    drop(there);
    drop(late);
    drop(responder);
    let begun = Instant::now();
    self::responder(kind).wait_greeted(PATIENCE);
    assert!(begun.elapsed() < PATIENCE / 2);
}

fn events_and_reasons_to_wait_arrive(kind: CarrierKind) {
    let (requester, heard) = requester(kind);
    let responder = responder(kind);
    assert!(requester.wait_registered(0, PATIENCE));
    responder.broadcast(b"token in");
    responder
        .send_event(requester.instance(), b"token out")
        .unwrap();
    heard.wait(&News::Event(0, b"token in".to_vec()), 1);
    heard.wait(&News::Event(0, b"token out".to_vec()), 1);
    let stranger = responder.send_event(Instance::from_bytes([0; 16]), b"");
    assert_eq!(stranger, Err(EventError::NotConnected));

    let (ticket, outcome) = submit(&requester, 0, "touch", PATIENCE);
    assert_eq!(outcome.recv().unwrap().unwrap().as_slice(), b"touched");
    heard.wait(&News::Pending(ticket.unwrap(), Pending::Touch), 1);
}

fn a_cancelled_request_ends_at_once_and_the_responder_is_told(kind: CarrierKind) {
    let (requester, _) = requester(kind);
    let child = registered(&requester, user(), kind);
    let (ticket, outcome) = submit(&requester, user(), "hold", PATIENCE);
    child.expect("held");
    requester.cancel(ticket.unwrap());
    assert_eq!(outcome.recv().unwrap().err(), Some(CallError::Cancelled));
    child.expect("cancelled");
    requester.cancel(ticket.unwrap());
    assert!(outcome.recv().is_err(), "called once, then dropped");
    assert_eq!(
        ask(&requester, user(), "release"),
        Ok(String::new()),
        "no reply goes astray"
    );
}

fn a_request_that_is_dropped_or_panics_is_answered_as_unanswered(kind: CarrierKind) {
    let (requester, _) = requester(kind);
    let _child = registered(&requester, user(), kind);
    assert_eq!(ask(&requester, user(), "drop"), Err(CallError::Unanswered));
    assert_eq!(ask(&requester, user(), "panic"), Err(CallError::Unanswered));
    assert_eq!(
        ask(&requester, user(), "echo alive"),
        Ok("alive".to_owned())
    );
}

fn a_killed_responder_fails_its_requests_when_no_successor_comes(kind: CarrierKind) {
    let (requester, heard) = requester(kind);
    let mut child = registered(&requester, user(), kind);
    let (_, outcome) = submit(&requester, user(), "hold", 10 * PATIENCE);
    child.expect("held");
    child.kill();
    heard.wait(&News::Gone(user()), 1);
    let outcome = outcome
        .recv_timeout(PATIENCE)
        .expect("long before the deadline");
    assert_eq!(outcome.err(), Some(CallError::Lost));
    assert_eq!(
        ask(&requester, user(), "echo x"),
        Err(CallError::NoResponder)
    );
}

fn a_request_that_kills_two_responders_kills_no_third(kind: CarrierKind) {
    let (requester, heard) = requester_with(kind, |config| config.limits.successor_wait = PATIENCE);
    let _first = registered(&requester, user(), kind);
    let (_, outcome) = submit(&requester, user(), "die", 10 * PATIENCE);
    heard.wait(&News::Gone(user()), 1);
    let _second = Child::play(&format!("responder {} {kind}", user()));
    heard.wait(&News::Gone(user()), 2);
    assert_eq!(
        outcome.recv_timeout(PATIENCE).unwrap().err(),
        Some(CallError::Lost)
    );
    let _third = registered(&requester, user(), kind);
    assert_eq!(
        ask(&requester, user(), "echo alive"),
        Ok("alive".to_owned())
    );
}

/// An open socket whose peer is gone is always readable: the responder would spin on it.
fn a_requester_that_is_gone_leaves_no_socket_open_though_calls_are(kind: CarrierKind) {
    let child = Child::play(&format!("responder {} {kind}", user()));
    child.expect("started");
    let open = || {
        let descriptors = std::fs::read_dir(format!("/proc/{}/fd", child.pid())).unwrap();
        let links = descriptors.filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok());
        links
            .filter(|link| link.to_string_lossy().starts_with("socket:"))
            .count()
    };
    let before = open();
    let (requester, _) = requester(kind);
    child.expect("connected");
    assert!(requester.wait_registered(user(), PATIENCE));
    submit(&requester, user(), "hold", PATIENCE);
    child.expect("held");
    assert_eq!(open(), before + 1);
    drop(requester);
    child.expect("gone");
    until(|| open() == before);
}

fn a_hung_responder_costs_no_more_than_the_deadline(kind: CarrierKind) {
    let (requester, heard) = requester(kind);
    let child = registered(&requester, user(), kind);
    child.signal(Signal::SIGSTOP);
    let hung = ask_within(&requester, user(), "hold", Duration::from_millis(200));
    assert_eq!(hung, Err(CallError::Deadline));
    child.signal(Signal::SIGCONT);
    child.expect("held");
    child.expect("cancelled");
    assert_eq!(
        ask(&requester, user(), "echo awake"),
        Ok("awake".to_owned())
    );
    assert_eq!(heard.all().len(), 1, "never lost its registration");
}

fn a_responder_restarted_under_load_loses_no_request(kind: CarrierKind) {
    const RESTARTS: usize = 5;
    let (requester, heard) = requester_with(kind, |config| config.limits.successor_wait = PATIENCE);
    let mut child = registered(&requester, user(), kind);
    let stop = AtomicBool::new(false);
    let answered = AtomicUsize::new(0);
    thread::scope(|scope| {
        for thread in 0..8 {
            let (stop, answered, requester) = (&stop, &answered, &requester);
            scope.spawn(move || {
                for number in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let text = format!("{thread}/{number}");
                    assert_eq!(ask(requester, user(), &format!("echo {text}")), Ok(text));
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for restart in 1..=RESTARTS {
            let before = answered.load(Ordering::Relaxed);
            until(|| answered.load(Ordering::Relaxed) > before + 100);
            child.kill();
            heard.wait(&News::Gone(user()), restart);
            child = registered(&requester, user(), kind);
        }
        stop.store(true, Ordering::Relaxed);
    });
}

fn a_second_responder_of_the_same_uid_takes_over(kind: CarrierKind) {
    let (requester, heard) = requester(kind);
    let first = registered(&requester, user(), kind);
    let (_, held) = submit(&requester, user(), "hold", PATIENCE);
    first.expect("held");
    let second = registered(&requester, user(), kind);
    first.expect("gone");
    first.expect("cancelled");
    assert_eq!(ask(&requester, user(), "pid"), Ok(second.pid().to_string()));
    // What the first had not answered is asked of the second.
    second.expect("held");
    assert_eq!(ask(&requester, user(), "release"), Ok(String::new()));
    assert_eq!(held.recv().unwrap().unwrap().as_slice(), b"released");
    // The first would come back after 50 ms, if it did.
    let end = Instant::now() + Duration::from_millis(400);
    while Instant::now() < end {
        assert_eq!(ask(&requester, user(), "pid"), Ok(second.pid().to_string()));
    }
    let registrations = News::Registered(user(), kind);
    assert_eq!(
        heard
            .all()
            .iter()
            .filter(|news| **news == registrations)
            .count(),
        2
    );
}

fn a_responder_that_quits_is_followed_by_its_successor(kind: CarrierKind) {
    let (requester, heard) = requester_with(kind, |config| config.limits.successor_wait = PATIENCE);
    let mut first = registered(&requester, user(), kind);
    first.tell("quit");
    heard.wait(&News::Gone(user()), 1);
    let (_, outcome) = submit(&requester, user(), "pid", PATIENCE);
    let second = registered(&requester, user(), kind);
    let answer = outcome.recv().unwrap().unwrap();
    assert_eq!(answer.as_slice(), second.pid().to_string().as_bytes());
}

fn a_requester_that_stops_fails_what_is_pending_and_leaves_nothing_behind(kind: CarrierKind) {
    let (requester, _) = requester(kind);
    let child = registered(&requester, user(), kind);
    let held: Vec<_> = (0..10)
        .map(|_| submit(&requester, user(), "hold", PATIENCE).1)
        .collect();
    for _ in &held {
        child.expect("held");
    }
    drop(requester);
    for outcome in held {
        assert_eq!(outcome.recv().unwrap().err(), Some(CallError::Stopped));
        assert!(outcome.recv().is_err(), "called once, then dropped");
    }
    child.expect("gone");
    assert_eq!(std::fs::read_dir(folder()).unwrap().count(), 0);
}

fn a_restarted_requester_is_found_again(kind: CarrierKind) {
    let mut first = Child::play(&format!("requester {kind}"));
    first.expect("published");
    let _responder = Child::play(&format!("responder {} {kind}", user()));
    first.expect("registered");
    first.kill();
    assert_ne!(
        std::fs::read_dir(folder()).unwrap().count(),
        0,
        "killed, it left its entry"
    );
    let (requester, _) = requester(kind);
    assert!(requester.wait_registered(user(), PATIENCE));
    assert_eq!(
        ask(&requester, user(), "echo again"),
        Ok("again".to_owned())
    );
    let entry = entry_text(&folder());
    assert!(
        entry.contains(&requester.instance().to_string()),
        "the dead one's entry is gone"
    );
}

fn a_full_table_refuses_at_once_and_only_the_uid_that_filled_it(kind: CarrierKind) {
    let (requester, _) = requester_with(kind, |config| {
        config.limits = Limits {
            contexts_per_uid: 5,
            contexts: 8,
            ..config.limits
        };
    });
    let _child = registered(&requester, user(), kind);
    let _other = registered(&requester, user() + 1, kind);
    let held: Vec<_> = (0..5)
        .map(|_| submit(&requester, user(), "hold", PATIENCE))
        .collect();
    let (ticket, refused) = submit(&requester, user(), "echo x", PATIENCE);
    assert_eq!(ticket, None);
    assert_eq!(
        refused.try_recv().unwrap().err(),
        Some(CallError::TableFull)
    );
    assert_eq!(
        ask(&requester, user() + 1, "echo mine"),
        Ok("mine".to_owned())
    );
    requester.cancel(held[0].0.unwrap());
    assert_eq!(held[0].1.recv().unwrap().err(), Some(CallError::Cancelled));
    assert_eq!(
        ask(&requester, user(), "echo room again"),
        Ok("room again".to_owned())
    );
}

fn responders_beyond_the_limit_are_sent_away(kind: CarrierKind) {
    let (requester, _) = requester_with(kind, |config| config.limits.responders = 1);
    let _child = registered(&requester, user(), kind);
    let other = Child::play(&format!("responder {} {kind}", user() + 1));
    other.expect("connected");
    other.expect("gone");
    assert_eq!(requester.registered(user() + 1), None);
    assert_eq!(ask(&requester, user(), "echo mine"), Ok("mine".to_owned()));
}

fn an_ordinary_users_requester_finds_its_own_responder(kind: CarrierKind) {
    let owner = Some(nix::unistd::Uid::from_raw(user()));
    std::fs::create_dir(folder()).unwrap();
    nix::unistd::chown(&folder(), owner, None).unwrap();
    let requester = Child::play(&format!("own-requester {} {kind}", user()));
    requester.expect("published");
    // Root trusts its own entries only: this one is left alone, and the user's is not.
    let root = Child::play(&format!("responder 0 {kind}"));
    root.expect("started");
    let child = Child::play(&format!("responder {} {kind}", user()));
    assert_eq!(child.expect("connected"), format!("{kind} {}", user()));
    assert_eq!(requester.expect("registered"), format!("{} {kind}", user()));
    assert_eq!(root.said(), Vec::<String>::new());
}

fn a_responder_that_does_not_read_blocks_nobody(kind: CarrierKind) {
    let (requester, _) = requester_with(kind, |config| {
        config.limits.contexts_per_uid = 1000;
    });
    let child = registered(&requester, user(), kind);
    child.signal(Signal::SIGSTOP);
    // Far more than any socket takes, and then more than may wait here.
    let large = format!("echo {}", "z".repeat(BODY_MAX - 5));
    let asked: Vec<_> = (0..400)
        .map(|_| submit(&requester, user(), &large, PATIENCE))
        .collect();
    until(|| {
        let mut outcomes = asked.iter().map(|(_, outcome)| outcome.try_recv());
        outcomes.any(|outcome| matches!(outcome, Ok(Err(CallError::TableFull))))
    });
    for (ticket, _) in &asked {
        ticket.iter().for_each(|ticket| requester.cancel(*ticket));
    }
    let _other = registered(&requester, user() + 1, kind);
    assert_eq!(
        ask(&requester, user() + 1, "echo mine"),
        Ok("mine".to_owned())
    );
    child.signal(Signal::SIGCONT);
    assert_eq!(
        ask(&requester, user(), "echo awake"),
        Ok("awake".to_owned())
    );
}

fn replies_that_do_not_match_are_dropped(kind: CarrierKind) {
    let (requester, heard) = requester(kind);
    let target = Target::parse(&folder(), &entry_text(&folder()));
    let mut raw = RawResponder::greet(&target, kind, 0);
    assert!(requester.wait_registered(0, PATIENCE));
    let (_, outcome) = submit(&requester, 0, "question", PATIENCE);
    let (index, sequence) = raw.request();

    raw.send(Kind::Response, index + 1, sequence, b"wrong index");
    raw.send(Kind::Response, u32::MAX, sequence, b"wrong index");
    raw.send(Kind::Response, index, sequence + 1, b"wrong sequence");
    raw.send(Kind::Response, index, 0, b"wrong sequence");
    let subject = Subject {
        kind: Kind::Response,
        flags: Flags::NONE,
        index,
        sequence,
    };
    let elsewhere = raw.socket.port() + 1;
    let wrong_port = raw.sealer.seal(subject, elsewhere, b"wrong port").unwrap();
    raw.socket.send(&wrong_port).unwrap();
    // The right reply, from a socket that is not the one the request went to.
    let stray = raw.seal(Kind::Response, index, sequence, b"wrong socket");
    let mut stranger = Socket::to(&target, kind).unwrap();
    stranger.send(&stray).unwrap();
    if kind == CarrierKind::Netlink {
        // The open port took and dropped it; the connection's own port is closed to strangers.
        let refused = stranger.send_to(raw.peer_port(), &stray).unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    }
    let reply = raw.seal(Kind::Response, index, sequence, b"right");
    raw.socket.send(&reply).unwrap();
    assert_eq!(outcome.recv().unwrap().unwrap().as_slice(), b"right");

    // An event heard twice would be an event replayed.
    let event = raw.seal(Kind::Event, 0, 0, b"once");
    raw.socket.send(&event).unwrap();
    raw.socket.send(&event).unwrap();
    raw.send(Kind::Event, 0, 0, b"then");
    heard.wait(&News::Event(0, b"then".to_vec()), 1);
    let once = News::Event(0, b"once".to_vec());
    assert_eq!(heard.all().iter().filter(|news| **news == once).count(), 1);

    // Replayed while a request waits in the very same context, and after it.
    let (_, outcome) = submit(&requester, 0, "question", PATIENCE);
    let (index, sequence) = raw.request();
    raw.socket.send(&reply).unwrap();
    raw.send(Kind::Response, index, sequence, b"fresh");
    assert_eq!(outcome.recv().unwrap().unwrap().as_slice(), b"fresh");
    raw.socket.send(&reply).unwrap();
    raw.send(Kind::Response, index, sequence, b"twice");
    let (_, outcome) = submit(&requester, 0, "question", PATIENCE);
    let (index, sequence) = raw.request();
    raw.send(Kind::Response, index, sequence, b"last");
    assert_eq!(outcome.recv().unwrap().unwrap().as_slice(), b"last");
}

fn malformed_frames_are_dropped_and_the_connection_lives(kind: CarrierKind) {
    let (requester, _) = requester(kind);
    let target = Target::parse(&folder(), &entry_text(&folder()));
    let mut raw = RawResponder::greet(&target, kind, 0);
    assert!(requester.wait_registered(0, PATIENCE));
    let (_, outcome) = submit(&requester, 0, "question", PATIENCE);
    let (index, sequence) = raw.request();
    let reply = raw.seal(Kind::Response, index, sequence, b"answer");
    for len in 1..reply.len() {
        raw.socket
            .send(&reply[..len])
            .unwrap_or_else(|_| thread::yield_now());
        // Cut short, and saying so in the header.
        let mut honest = reply[..len].to_vec();
        if let Some(length) = honest.first_chunk_mut::<4>() {
            *length = (len as u32).to_ne_bytes();
        }
        raw.socket
            .send(&honest)
            .unwrap_or_else(|_| thread::yield_now());
    }
    let mut oversize = vec![0; FRAME_MAX + 4096];
    oversize[..reply.len()].copy_from_slice(&reply);
    let length = (oversize.len() as u32).to_ne_bytes();
    oversize[..4].copy_from_slice(&length);
    until(|| raw.socket.send(&oversize).is_ok());
    until(|| raw.socket.send(&reply).is_ok());
    assert_eq!(outcome.recv().unwrap().unwrap().as_slice(), b"answer");
}

fn replies_out_of_order_are_taken(kind: CarrierKind) {
    let (requester, _) = requester(kind);
    let target = Target::parse(&folder(), &entry_text(&folder()));
    let mut raw = RawResponder::greet(&target, kind, 0);
    assert!(requester.wait_registered(0, PATIENCE));
    let outcomes: Vec<_> = (0..20)
        .map(|_| submit(&requester, 0, "question", PATIENCE).1)
        .collect();
    let replies: Vec<_> = (0..20u8)
        .map(|number| {
            let (index, sequence) = raw.request();
            raw.seal(Kind::Response, index, sequence, &[number])
        })
        .collect();
    replies
        .iter()
        .rev()
        .for_each(|reply| raw.socket.send(reply).unwrap());
    for (number, outcome) in outcomes.iter().enumerate() {
        assert_eq!(outcome.recv().unwrap().unwrap().as_slice(), [number as u8]);
    }
}

crate::once! {
    without_a_choice_netlink_is_taken_where_both_ends_can_use_it
    across_network_namespaces_the_unix_socket_is_taken
    a_completion_may_submit_the_next_request
    a_completion_that_panics_harms_no_other
}

fn without_a_choice_netlink_is_taken_where_both_ends_can_use_it() {
    let (requester, _) = requester_with(CarrierKind::Unix, |config| {
        config.transport = Transport::Auto
    });
    let child = Child::play(&format!("responder {} auto", user()));
    assert_eq!(child.expect("connected"), "netlink 0");
    assert!(requester.wait_registered(user(), PATIENCE));
}

fn across_network_namespaces_the_unix_socket_is_taken() {
    let (requester, _) = requester_with(CarrierKind::Unix, |config| {
        config.transport = Transport::Auto
    });
    let role = format!("responder {} auto", user());
    let child = Child::play_through(&["/usr/bin/unshare", "--net"], &role);
    assert_eq!(child.expect("connected"), "unix 0");
    assert!(requester.wait_registered(user(), PATIENCE));
    assert_eq!(
        ask(&requester, user(), "echo across"),
        Ok("across".to_owned())
    );
}

fn a_completion_may_submit_the_next_request() {
    fn chain(requester: Arc<Requester>, left: u32, end: mpsc::Sender<u32>) {
        let next = Arc::clone(&requester);
        let done = Box::new(move |outcome: claviger_callout::Outcome| {
            assert_eq!(outcome.unwrap().as_slice(), b"on");
            match left {
                0 => end.send(left).unwrap(),
                _ => chain(next, left - 1, end),
            }
        });
        let body = Zeroizing::new(b"echo on".to_vec());
        requester.submit(0, body, Instant::now() + PATIENCE, done);
    }
    // One context: it must be free again by the time its completion runs.
    let (requester, _) = requester_with(CarrierKind::Unix, |config| config.limits.contexts = 1);
    let _responder = responder(CarrierKind::Unix);
    assert!(requester.wait_registered(0, PATIENCE));
    let (sender, receiver) = mpsc::channel();
    chain(Arc::new(requester), 1000, sender);
    assert_eq!(receiver.recv_timeout(PATIENCE), Ok(0));
}

fn a_completion_that_panics_harms_no_other() {
    let (requester, _) = requester(CarrierKind::Unix);
    let _responder = responder(CarrierKind::Unix);
    assert!(requester.wait_registered(0, PATIENCE));
    let body = Zeroizing::new(b"echo x".to_vec());
    let deadline = Instant::now() + PATIENCE;
    requester.submit(0, body, deadline, Box::new(|_| panic!("as asked")));
    assert_eq!(ask(&requester, 0, "echo alive"), Ok("alive".to_owned()));
}

/// Waits for what has no bell to ring.
fn until(mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain");
        thread::yield_now();
    }
}
