//! What a requester can count on: questions, answers, events, carriers.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Instant;

use claviger_callout::{
    BODY_MAX, CallError, CarrierKind, EventError, Instance, Pending, Requester, Transport,
};
use zeroize::Zeroizing;

use crate::harness::{
    Child, News, PATIENCE, ask, folder, registered, requester, requester_with, responder, submit,
    user,
};

crate::over_both_carriers! {
    a_question_is_answered
    what_a_requester_tells_about_itself_reaches_the_responder
    ten_thousand_requests_from_64_threads_each_get_their_own_answer
    the_largest_body_passes_and_a_larger_one_is_refused_at_once
    events_and_reasons_to_wait_arrive
    an_event_reaches_all_who_are_there_however_new
    a_cancelled_request_ends_at_once_and_the_responder_is_told
    a_request_that_is_dropped_or_panics_is_answered_as_unanswered
    an_ordinary_users_requester_finds_its_own_responder
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
