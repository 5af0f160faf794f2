//! What a caller that waits can count on: it takes its answer off the connection itself.

use std::fs;
use std::thread;

use claviger_callout::{CallError, CarrierKind, Requester};

use crate::harness::{Child, News, ask, registered, requester, user};

crate::over_both_carriers! {
    a_lone_caller_wakes_no_other_thread_of_its_process
    an_event_that_comes_while_a_caller_waits_is_heard_at_once
    no_answer_overtakes_an_event
    a_caller_whose_responder_is_replaced_hears_from_its_successor
    a_caller_whose_responder_is_killed_is_told_long_before_the_deadline
    a_responders_last_words_reach_the_caller
}

/// How often the requester's thread went to sleep.
fn sleeps_of_its_thread() -> u64 {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    let statuses = tasks.map(|task| task.unwrap().path().join("status"));
    let callout = statuses
        .filter_map(|status| fs::read_to_string(status).ok())
        .find(|status| status.starts_with("Name:\tcallout\n"))
        .expect("a requester has a thread");
    let count = callout
        .lines()
        .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    count.unwrap().trim().parse().unwrap()
}

fn a_lone_caller_wakes_no_other_thread_of_its_process(kind: CarrierKind) {
    const CALLS: u64 = 500;
    let (requester, _) = requester(kind);
    let _child = registered(&requester, user(), kind);
    assert!(ask(&requester, user(), "echo warm").is_ok());
    let before = sleeps_of_its_thread();
    for number in 0..CALLS {
        let answer = ask(&requester, user(), &format!("echo {number}"));
        assert_eq!(answer, Ok(number.to_string()));
    }
    let woken = sleeps_of_its_thread() - before;
    // Its own clocks may wake it now and then.
    assert!(woken < CALLS / 10, "woken {woken} times in {CALLS} calls");
}

/// Asks the user's responder to hold a call, and runs `meanwhile` once it does.
fn while_held(
    requester: &Requester,
    child: &mut Child,
    meanwhile: impl FnOnce(&mut Child),
) -> Result<String, CallError> {
    thread::scope(|scope| {
        let held = scope.spawn(|| ask(requester, user(), "hold"));
        child.expect("held");
        meanwhile(child);
        held.join().unwrap()
    })
}

fn an_event_that_comes_while_a_caller_waits_is_heard_at_once(kind: CarrierKind) {
    let (requester, heard) = requester(kind);
    let mut child = registered(&requester, user(), kind);
    let answer = while_held(&requester, &mut child, |child| {
        child.tell("token in");
        heard.wait(&News::Event(user(), b"token in".to_vec()), 1);
        assert_eq!(ask(&requester, user(), "release"), Ok(String::new()));
    });
    assert_eq!(answer, Ok("released".to_owned()));
}

fn no_answer_overtakes_an_event(kind: CarrierKind) {
    let (requester, heard) = requester(kind);
    let mut child = registered(&requester, user(), kind);
    for times in 1..=100 {
        child.tell("locked");
        child.tell("peers");
        child.expect("peers");
        assert!(ask(&requester, user(), "echo x").is_ok());
        let event = News::Event(user(), b"locked".to_vec());
        let events = heard.all().into_iter().filter(|news| *news == event);
        assert_eq!(events.count(), times);
    }
}

fn a_caller_whose_responder_is_replaced_hears_from_its_successor(kind: CarrierKind) {
    let (requester, _) = requester(kind);
    let mut first = registered(&requester, user(), kind);
    let answer = while_held(&requester, &mut first, |_| {
        let second = registered(&requester, user(), kind);
        second.expect("held");
        assert_eq!(ask(&requester, user(), "release"), Ok(String::new()));
    });
    assert_eq!(answer, Ok("released".to_owned()));
}

fn a_caller_whose_responder_is_killed_is_told_long_before_the_deadline(kind: CarrierKind) {
    let (requester, _) = requester(kind);
    let mut child = registered(&requester, user(), kind);
    assert_eq!(
        while_held(&requester, &mut child, Child::kill),
        Err(CallError::Lost)
    );
    assert_eq!(
        ask(&requester, user(), "echo x"),
        Err(CallError::NoResponder)
    );
}

fn a_responders_last_words_reach_the_caller(kind: CarrierKind) {
    let (requester, heard) = requester(kind);
    for times in 1..=10 {
        let _child = registered(&requester, user(), kind);
        assert_eq!(
            ask(&requester, user(), "last-words adieu"),
            Ok("adieu".to_owned())
        );
        heard.wait(&News::Gone(user()), times);
    }
}
