//! What becomes of requests when a responder or the requester goes, and who comes after it.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use claviger_callout::{CallError, CarrierKind};
use claviger_hw_tests::wait_until;

use crate::harness::{
    Child, News, PATIENCE, ask, entry_text, folder, registered, requester, requester_with, submit,
    user,
};

crate::over_both_carriers! {
    a_killed_responder_fails_its_requests_when_no_successor_comes
    a_request_that_kills_two_responders_kills_no_third
    a_requester_that_is_gone_leaves_no_socket_open_though_calls_are
    a_responder_restarted_under_load_loses_no_request
    a_second_responder_of_the_same_uid_takes_over
    a_responder_that_quits_is_followed_by_its_successor
    a_requester_that_stops_fails_what_is_pending_and_leaves_nothing_behind
    a_restarted_requester_is_found_again
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
    wait_until("its sockets are closed", || open() == before);
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
            wait_until("a hundred more are answered", || {
                answered.load(Ordering::Relaxed) > before + 100
            });
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
