//! The host, with a module that misbehaves in every way it can.

use std::thread;
use std::time::{Duration, Instant};

use claviger_pki::cancel::{self, Cancel};
use claviger_pki::host::{HostConfig, ModuleHost};
use claviger_pki::key::{Kem, KeyType};
use claviger_pki::module::{Decapsulate, Generate, ModuleError};
use crossbeam_channel::bounded;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use zeroize::Zeroizing;

use crate::mock::{config, soon};

fn host(settings: &[(&str, &str)]) -> ModuleHost {
    ModuleHost::new(config(settings))
}

/// Makes the module do what `selector` says, and gives what comes of it.
fn misdeed(host: &ModuleHost, selector: &str) -> ModuleError {
    host.keys(selector, soon(), &Cancel::never()).unwrap_err()
}

fn works(host: &ModuleHost) {
    let keys = host.keys("p256", soon(), &Cancel::never()).unwrap();
    assert_eq!(keys[0].public_key.key_type(), KeyType::EcP256);
}

#[test]
fn a_module_is_started_by_the_first_call_and_kept() {
    let host = host(&[]);
    assert_eq!(host.status().pid, None);
    works(&host);
    let pid = host.status().pid;
    works(&host);
    assert!(pid.is_some());
    assert_eq!(host.status().pid, pid);
    assert_eq!(host.status().restarts, 0);
}

#[test]
fn a_crash_names_its_signal_and_an_exit_its_status() {
    let host = host(&[]);
    let crash = ModuleError::Process("ended: signal: 6 (SIGABRT)".into());
    assert_eq!(misdeed(&host, "crash"), crash);
    assert_eq!(misdeed(&host, "panic"), crash);
    let exit = ModuleError::Process("ended: exit status: 3".into());
    assert_eq!(misdeed(&host, "exit"), exit);
    works(&host);
    assert_eq!(host.status().restarts, 3);
}

#[test]
fn a_crash_fails_the_other_calls_in_flight_too() {
    let host = &host(&[("concurrency", "2")]);
    works(host);
    thread::scope(|scope| {
        let other = scope.spawn(|| misdeed(host, "hang"));
        while host.status().in_flight == 0 {
            thread::yield_now();
        }
        let crash = ModuleError::Process("ended: signal: 6 (SIGABRT)".into());
        assert_eq!(misdeed(host, "crash"), crash);
        assert_eq!(other.join().unwrap(), crash);
    });
}

#[test]
fn every_call_ends_while_the_module_is_killed_again_and_again() {
    let host = &host(&[("concurrency", "4")]);
    let killed = ModuleError::Process("ended: signal: 9 (SIGKILL)".into());
    let killed = &killed;
    thread::scope(|scope| {
        let callers: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(move || {
                    let results = (0..50).map(|_| host.keys("p256", soon(), &Cancel::never()));
                    let (worked, failed): (Vec<_>, Vec<_>) = results.partition(Result::is_ok);
                    assert!(failed.iter().all(|result| result.as_ref() == Err(killed)));
                    worked.len()
                })
            })
            .collect();
        let mut restarts = 0;
        while restarts < 5 && !callers.iter().all(|caller| caller.is_finished()) {
            if let Some(pid) = host.status().pid {
                let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
            }
            restarts = host.status().restarts;
        }
        for caller in callers {
            assert!(caller.join().unwrap() > 0);
        }
    });
    works(host);
    assert!(host.status().restarts > 0);
    assert_eq!(host.status().in_flight, 0);
}

#[test]
fn a_module_that_breaks_the_protocol_is_killed_for_it() {
    let host = host(&[]);
    for (selector, said) in [
        ("garbage", "a message does not decode"),
        ("endless", "a message of 4294967295 bytes is too large"),
        ("unasked", "answered call 77, never made"),
    ] {
        assert_eq!(misdeed(&host, selector), ModuleError::Process(said.into()));
        works(&host);
    }
    assert_eq!(host.status().restarts, 3);
}

#[test]
fn a_late_answer_is_dropped_and_the_module_lives_on() {
    let host = host(&[]);
    works(&host);
    let pid = host.status().pid;
    let deadline = Instant::now() + Duration::from_millis(50);
    let late = host.keys("late", deadline, &Cancel::never());
    assert_eq!(late, Err(ModuleError::TimedOut));
    works(&host);
    assert_eq!(host.status().pid, pid);
}

#[test]
fn a_call_whose_time_is_up_before_it_starts_starts_nothing() {
    let host = host(&[]);
    let refused = host.keys("p256", Instant::now(), &Cancel::never());
    assert_eq!(refused, Err(ModuleError::TimedOut));
    let (canceller, cancel) = cancel::pair();
    canceller.cancel();
    let refused = host.keys("p256", soon(), &cancel);
    assert_eq!(refused, Err(ModuleError::Cancelled));
    assert_eq!(host.status().pid, None);
}

#[test]
fn a_call_that_waits_in_the_modules_queue_is_called_back_there() {
    let host = &host(&[("concurrency", "1")]);
    works(host);
    let pid = host.status().pid;
    thread::scope(|scope| {
        // Keeps the one worker busy for 0.4 s.
        let busy = scope.spawn(|| host.keys("late", soon(), &Cancel::never()));
        while host.status().in_flight < 1 {
            thread::yield_now();
        }
        let (canceller, cancel) = cancel::pair();
        let queued = scope.spawn(move || host.keys("crash", soon(), &cancel));
        while host.status().in_flight < 2 {
            thread::yield_now();
        }
        canceller.cancel();
        assert_eq!(queued.join().unwrap(), Err(ModuleError::Cancelled));
        assert_eq!(busy.join().unwrap(), Ok(Vec::new()));
    });
    // It was never begun, or the module would have crashed.
    works(host);
    assert_eq!(host.status().pid, pid);
}

#[test]
fn slow_calls_do_not_hold_up_others_where_the_module_stands_several() {
    let host = &host(&[("concurrency", "2")]);
    works(host);
    let (canceller, cancel) = cancel::pair();
    thread::scope(|scope| {
        let hanging = scope.spawn(move || host.keys("hang", soon(), &cancel));
        while host.status().in_flight == 0 {
            thread::yield_now();
        }
        works(host);
        canceller.cancel();
        assert_eq!(hanging.join().unwrap(), Err(ModuleError::Cancelled));
    });
    // The call that hangs is still the module's; ending the host kills it after the grace.
    assert_eq!(host.status().in_flight, 1);
}

/// A step that the module's P-256 key can do.
fn step(host: &ModuleHost) -> Decapsulate {
    let mut keys = host.keys("p256", soon(), &Cancel::never()).unwrap();
    let key = keys.remove(0);
    Decapsulate {
        locator: key.locator,
        kem: Kem::DhkemP256,
        encapsulation: key.public_key.ec_point().unwrap().to_vec(),
        public_key: key.public_key,
    }
}

#[test]
fn a_step_is_begun_in_a_program_that_runs_and_answered_once() {
    let host = host(&[]);
    assert!(host.running().is_none());
    let step = step(&host);
    let (sender, outcome) = bounded(2);
    let done = move |result| sender.send(result).unwrap();
    let calling = host.running().unwrap().decapsulate(step, soon(), done);
    assert_eq!(outcome.recv().unwrap().unwrap().len(), 32);
    // Too late: it has been answered.
    calling.unwrap().cancel();
    assert!(outcome.recv().is_err());
    host.stop();
    assert!(host.running().is_none());
}

#[test]
fn a_begun_step_is_called_back_or_times_out_as_if_somebody_waited_for_it() {
    let host = &host(&[("concurrency", "1")]);
    let step = step(host);
    thread::scope(|scope| {
        // Keeps the one worker busy for 0.4 s.
        let busy = scope.spawn(|| host.keys("late", soon(), &Cancel::never()));
        while host.status().in_flight == 0 {
            thread::yield_now();
        }
        let running = host.running().unwrap();
        let (sender, outcome) = bounded(2);
        let done = move |name: &'static str| {
            let sender = sender.clone();
            move |result| sender.send((name, result)).unwrap()
        };
        let called_back = running.decapsulate(step.clone(), soon(), done("called back"));
        let deadline = Instant::now() + Duration::from_millis(50);
        running.decapsulate(step, deadline, done("late"));
        called_back.unwrap().cancel();
        let (name, result) = outcome.recv().unwrap();
        assert_eq!((name, result), ("called back", Err(ModuleError::Cancelled)));
        let (name, result) = outcome.recv().unwrap();
        assert_eq!((name, result), ("late", Err(ModuleError::TimedOut)));
        assert_eq!(busy.join().unwrap(), Ok(Vec::new()));
    });
    works(host);
    assert_eq!(host.status().restarts, 0);
}

#[test]
fn a_completion_that_panics_takes_no_other_call_with_it() {
    let host = host(&[]);
    let step = step(&host);
    let running = host.running().unwrap();
    running.decapsulate(step, soon(), |_| panic!("planted"));
    works(&host);
    assert_eq!(host.status().restarts, 0);
}

#[test]
fn a_module_that_cannot_work_says_why_to_every_call() {
    let host = host(&[("refuse", "no such library: /usr/lib/x.so")]);
    let why = ModuleError::BadRequest("no such library: /usr/lib/x.so".into());
    for _ in 0..3 {
        assert_eq!(misdeed(&host, "p256"), why);
    }
    assert_eq!(host.status().restarts, 0);
}

#[test]
fn a_program_that_is_not_there_is_named() {
    let missing = HostConfig {
        program: "/nonexistent/claviger-pki-x".into(),
        ..config(&[])
    };
    let error = misdeed(&ModuleHost::new(missing), "p256").to_string();
    let start = "module process: cannot start /nonexistent/claviger-pki-x: ";
    assert!(error.starts_with(start), "{error}");
}

#[test]
fn a_program_that_is_no_module_is_told_by_its_end() {
    let other = HostConfig {
        program: "/bin/true".into(),
        ..config(&[])
    };
    let host = ModuleHost::new(other);
    let ended = ModuleError::Process("ended: exit status: 0".into());
    assert_eq!(misdeed(&host, "p256"), ended);
}

#[test]
fn a_stopped_module_is_started_again_and_that_is_no_restart() {
    let host = host(&[]);
    works(&host);
    let pid = host.status().pid;
    host.stop();
    assert_eq!(host.status().pid, None);
    works(&host);
    assert_ne!(host.status().pid, pid);
    assert_eq!(host.status().restarts, 0);
}

#[test]
fn the_whole_order_for_a_key_arrives() {
    let order = Generate {
        token: "pkcs11:token=T".into(),
        key_type: Some(KeyType::Rsa3072),
        label: "L".into(),
        out: Some("/tmp/x".into()),
        pin: Some(Zeroizing::new(b"123456".to_vec())),
    };
    let arrived = host(&[]).generate(order, soon(), &Cancel::never());
    let expected = "Generate { token: \"pkcs11:token=T\", key_type: Some(Rsa3072), label: \"L\", \
                    out: Some(\"/tmp/x\"), .. } PIN of 6";
    assert_eq!(arrived, Err(ModuleError::Unsupported(expected.into())));
}

#[test]
fn a_module_gets_only_the_variables_of_the_allow_list() {
    let ModuleError::BadRequest(names) = misdeed(&host(&[]), "environment") else {
        panic!("not a list of names");
    };
    assert!(
        std::env::var_os("CARGO_PKG_NAME").is_some(),
        "this test has more"
    );
    for name in names.split_whitespace() {
        assert!(claviger_pki::host::ENVIRONMENT.contains(&name), "{name}");
    }
}

#[test]
fn a_module_gains_no_privileges_and_cannot_be_looked_into() {
    let confined = "no_new_privs true, dumpable false, core (0, 0)";
    let told = misdeed(&host(&[]), "confinement");
    assert_eq!(told, ModuleError::BadRequest(confined.into()));
}
