//! What a kernel may refuse: real seccomp filters, as containers and service managers install them.

use std::collections::BTreeMap;
use std::thread;

use claviger_callout::{CallError, CarrierKind, Transport};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

use crate::harness::{
    Child, News, PATIENCE, ask, registered, requester, requester_with, submit, user,
};

/// What can be refused to a thread, and to all threads and programs that it starts.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Refused {
    /// `socket(AF_NETLINK, …)`: `RestrictAddressFamilies=` of systemd.
    Netlink,
    /// `pidfd_open(2)`: Linux before 5.3, or a filter that does not know it.
    PidfdOpen,
}

/// From now on this thread is refused it, for good.
pub(crate) fn refuse(refused: Refused) {
    let (call, rules, errno) = match refused {
        Refused::Netlink => {
            let family = libc::AF_NETLINK as u64;
            let (argument, len) = (0, SeccompCmpArgLen::Dword);
            let condition = SeccompCondition::new(argument, len, SeccompCmpOp::Eq, family);
            let rule = SeccompRule::new(vec![condition.unwrap()]).unwrap();
            (libc::SYS_socket, vec![rule], libc::EAFNOSUPPORT)
        }
        Refused::PidfdOpen => (libc::SYS_pidfd_open, Vec::new(), libc::ENOSYS),
    };
    let filter = SeccompFilter::new(
        BTreeMap::from([(call, rules)]),
        SeccompAction::Allow,
        SeccompAction::Errno(errno as u32),
        std::env::consts::ARCH.try_into().unwrap(),
    );
    let program: BpfProgram = filter.unwrap().try_into().unwrap();
    seccompiler::apply_filter(&program).unwrap();
}

/// Does `work` in a thread that is refused it, as are the threads that it starts.
fn refusing<T: Send>(refused: Refused, work: impl FnOnce() -> T + Send) -> T {
    let work = || {
        refuse(refused);
        work()
    };
    thread::scope(|scope| scope.spawn(work).join().unwrap())
}

crate::once! {
    a_requester_that_is_refused_netlink_serves_at_its_socket
    a_responder_that_is_refused_netlink_takes_the_unix_socket
    without_pidfds_the_next_request_finds_out_that_a_responder_is_gone
    without_pidfds_a_restarted_requester_is_found_again
}

fn a_requester_that_is_refused_netlink_serves_at_its_socket() {
    let left_to_itself = || {
        requester_with(CarrierKind::Unix, |config| {
            config.transport = Transport::Auto
        })
    };
    let (requester, _) = refusing(Refused::Netlink, left_to_itself);
    let child = Child::play(&format!("responder {} auto", user()));
    assert_eq!(child.expect("connected"), "unix 0");
    assert!(requester.wait_registered(user(), PATIENCE));
    assert_eq!(ask(&requester, user(), "echo x"), Ok("x".to_owned()));
}

fn a_responder_that_is_refused_netlink_takes_the_unix_socket() {
    let (requester, _) = requester_with(CarrierKind::Unix, |config| {
        config.transport = Transport::Auto
    });
    let child = Child::play(&format!("responder-without-netlink {} auto", user()));
    assert_eq!(child.expect("connected"), "unix 0");
    assert!(requester.wait_registered(user(), PATIENCE));
    assert_eq!(ask(&requester, user(), "echo x"), Ok("x".to_owned()));
}

fn without_pidfds_the_next_request_finds_out_that_a_responder_is_gone() {
    let (requester, heard) = refusing(Refused::PidfdOpen, || requester(CarrierKind::Netlink));
    let mut child = registered(&requester, user(), CarrierKind::Netlink);
    let (_, held) = submit(&requester, user(), "hold", 10 * PATIENCE);
    child.expect("held");
    child.kill();
    // The kernel refuses what is sent to a port that is closed.
    assert_eq!(ask(&requester, user(), "echo x"), Err(CallError::Lost));
    heard.wait(&News::Gone(user()), 1);
    // And so what was asked before has its answer, long before its deadline.
    let held = held.recv_timeout(PATIENCE).unwrap();
    assert_eq!(held.err(), Some(CallError::Lost));
}

fn without_pidfds_a_restarted_requester_is_found_again() {
    let mut first = Child::play("requester netlink");
    first.expect("published");
    let child = Child::play(&format!("responder-without-pidfds {} netlink", user()));
    first.expect("registered");
    first.kill();
    let (requester, _) = requester(CarrierKind::Netlink);
    assert!(requester.wait_registered(user(), PATIENCE));
    assert_eq!(ask(&requester, user(), "echo x"), Ok("x".to_owned()));
    drop(child);
}
