//! A socketpair that keeps messages plays the device; the real one is in `hw-tests`' kernel tests.

use std::sync::Mutex;
use std::sync::mpsc::{self, Receiver, Sender};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

use super::*;

/// Hands calls to the test.
struct Collect(Mutex<Sender<KernelCall>>);

impl KernelService for Collect {
    fn call(&self, call: KernelCall) {
        self.0.lock().unwrap().send(call).unwrap();
    }
}

struct Panics;

impl KernelService for Panics {
    fn call(&self, _call: KernelCall) {
        panic!("planted");
    }
}

fn start(service: impl KernelService + 'static) -> (KernelResponder, File) {
    let (kernel, device) = socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    )
    .unwrap();
    let responder = KernelResponder::start(device, Arc::new(service)).unwrap();
    (responder, File::from(kernel))
}

fn collecting() -> (KernelResponder, File, Receiver<KernelCall>) {
    let (sender, calls) = mpsc::channel();
    let (responder, kernel) = start(Collect(Mutex::new(sender)));
    (responder, kernel, calls)
}

fn request(place: Place, body: &[u8]) -> Vec<u8> {
    let mut packet = packet::response(place, body).unwrap();
    packet[0] = 102;
    packet
}

fn read(mut kernel: &File) -> Vec<u8> {
    let mut packet = vec![0; 1024];
    let len = kernel.read(&mut packet).unwrap();
    packet.truncate(len);
    packet
}

const FIRST: Place = Place {
    counter: 1,
    index: 0,
};
const SECOND: Place = Place {
    counter: 2,
    index: 1,
};

#[test]
fn requests_may_be_answered_in_any_order() {
    let (_responder, mut kernel, calls) = collecting();
    kernel.write_all(&request(FIRST, b"one")).unwrap();
    kernel.write_all(&request(SECOND, b"two")).unwrap();
    let (first, second) = (calls.recv().unwrap(), calls.recv().unwrap());
    assert_eq!(first.body.as_slice(), b"one");
    second.reply(Zeroizing::new(b"2".to_vec())).unwrap();
    first.reply(Zeroizing::new(b"1".to_vec())).unwrap();
    assert_eq!(read(&kernel), packet::response(SECOND, b"2").unwrap());
    assert_eq!(read(&kernel), packet::response(FIRST, b"1").unwrap());
}

#[test]
fn a_request_that_is_dropped_is_refused_at_once() {
    let (_responder, mut kernel, calls) = collecting();
    kernel.write_all(&request(FIRST, b"one")).unwrap();
    drop(calls.recv().unwrap());
    assert_eq!(read(&kernel), packet::response(FIRST, b"").unwrap());
}

#[test]
fn an_answer_that_is_too_large_becomes_a_refusal() {
    let (_responder, mut kernel, calls) = collecting();
    kernel.write_all(&request(FIRST, b"one")).unwrap();
    let replied = calls.recv().unwrap().reply(Zeroizing::new(vec![0; 517]));
    assert!(matches!(replied, Err(ReplyError::TooLarge(517))));
    assert_eq!(read(&kernel), packet::response(FIRST, b"").unwrap());
}

#[test]
fn what_is_no_request_is_passed_over() {
    let (_responder, mut kernel, calls) = collecting();
    kernel.write_all(b"nonsense").unwrap();
    kernel.write_all(&[101, 0, 0, 0, 0]).unwrap();
    kernel.write_all(&request(SECOND, b"two")).unwrap();
    assert_eq!(calls.recv().unwrap().body.as_slice(), b"two");
}

#[test]
fn a_service_that_panics_refuses_and_lives_on() {
    let (responder, mut kernel) = start(Panics);
    for place in [FIRST, SECOND] {
        kernel.write_all(&request(place, b"body")).unwrap();
        assert_eq!(read(&kernel), packet::response(place, b"").unwrap());
    }
    assert!(responder.serves());
}

#[test]
fn a_responder_that_is_dropped_closes_the_device() {
    let (responder, mut kernel, _calls) = collecting();
    drop(responder);
    assert_eq!(kernel.read(&mut [0; 8]).unwrap(), 0);
}

#[test]
fn a_device_that_fails_is_found_out() {
    let (responder, kernel, _calls) = collecting();
    drop(kernel);
    let deadline = Instant::now() + Duration::from_secs(20);
    while responder.serves() {
        assert!(
            Instant::now() < deadline,
            "it still serves a device that was closed"
        );
        thread::yield_now();
    }
}

#[test]
fn a_device_that_is_not_there_is_told_from_one_that_is_denied() {
    let absent = open(Path::new("/nowhere/ecryptfs")).unwrap_err();
    assert!(matches!(absent, DeviceError::Absent), "{absent:?}");
}
