//! What one user, or one responder, cannot take from the others: contexts, seats, time, memory.

use std::time::Duration;

use claviger_callout::{BODY_MAX, CallError, CarrierKind, Limits};
use claviger_hw_tests::wait_until;
use nix::sys::signal::Signal;

use crate::harness::{
    Child, PATIENCE, ask, ask_within, registered, requester, requester_with, submit, user,
};

crate::over_both_carriers! {
    a_hung_responder_costs_no_more_than_the_deadline
    a_full_table_refuses_at_once_and_only_the_uid_that_filled_it
    responders_beyond_the_limit_are_sent_away
    a_responder_that_does_not_read_blocks_nobody
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
    wait_until("one is refused", || {
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
