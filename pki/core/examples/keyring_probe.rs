//! Does with auth toks what the lines of its input say, one answer a line; for tests of the keyring,
//! which run it as users of their own.

#![allow(unsafe_code)] // One prctl(2), below.
#![allow(clippy::unwrap_used)] // It serves tests only.

use std::io::{BufRead, Write};
use std::io::{stdin, stdout};

use claviger_pki::auth_tok::{AuthTok, AuthToks, Place, description};
use claviger_pki::key::KeyId;
use claviger_pki::module::Locator;
use linux_keyutils::{KeyRing, KeyRingIdentifier};
use nix::sys::prctl;

fn main() {
    let mut toks = None;
    for line in stdin().lock().lines() {
        let line = line.unwrap();
        let words: Vec<&str> = line.split(' ').collect();
        let answer = match words[..] {
            ["join"] => {
                let joined = toks.insert(AuthToks::join());
                match joined.place() {
                    Place::Keyring => "keyring".into(),
                    Place::Memory { reason } => format!("memory: {reason}"),
                }
            }
            ["put", key, module, locator] => {
                let tok = AuthTok {
                    key_id: id(key),
                    module: module.into(),
                    locator: Locator(locator.into()),
                };
                said(toks.as_ref().unwrap().put(&tok))
            }
            ["find", key] => match toks.as_ref().unwrap().find(id(key)) {
                Ok(Some(tok)) => format!("{} {}", tok.module, tok.locator.0),
                Ok(None) => "none".into(),
                Err(error) => error.to_string(),
            },
            // From a thread, as the daemon's workers do.
            ["find-in-thread", key] => {
                let toks = toks.as_ref().unwrap();
                std::thread::scope(|scope| {
                    let found = scope.spawn(|| toks.find(id(key)).unwrap());
                    found
                        .join()
                        .unwrap()
                        .map_or("none".into(), |tok| tok.module)
                })
            }
            ["remove", key] => said(toks.as_ref().unwrap().remove(id(key))),
            // What `keyctl unlink`, `keyctl revoke` and `keyctl padd` do.
            ["unlink", key] => said(
                user()
                    .search(&description(id(key)))
                    .and_then(|key| user().unlink_key(key)),
            ),
            ["revoke", key] => said(
                user()
                    .search(&description(id(key)))
                    .and_then(|key| key.revoke()),
            ),
            ["nonsense", key] => said(user().add_key(&description(id(key)), b"nonsense").map(drop)),
            ["clear"] => said(user().clear()),
            ["refuse-keyctl"] => {
                refuse_keyctl();
                "ok".into()
            }
            _ => panic!("{line}"),
        };
        let mut out = stdout().lock();
        writeln!(out, "{answer}").unwrap();
        out.flush().unwrap();
    }
}

fn id(number: &str) -> KeyId {
    KeyId([number.parse().unwrap(); 32])
}

fn user() -> KeyRing {
    KeyRing::from_special_id(KeyRingIdentifier::User, true).unwrap()
}

fn said<E: std::fmt::Display>(result: Result<(), E>) -> String {
    result.map_or_else(|error| error.to_string(), |()| "ok".into())
}

/// As the default seccomp profile of Docker does: EPERM for keyctl(2) and its like.
fn refuse_keyctl() {
    let load = |k| filter(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, k);
    let skip_unless =
        |nr: libc::c_long| filter(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 1, nr as u32);
    let give = |k| filter(libc::BPF_RET | libc::BPF_K, 0, k);
    let refuse = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
    let mut program = vec![load(0)];
    for nr in [libc::SYS_keyctl, libc::SYS_add_key, libc::SYS_request_key] {
        program.extend([skip_unless(nr), give(refuse)]);
    }
    program.push(give(libc::SECCOMP_RET_ALLOW));
    prctl::set_no_new_privs().unwrap();
    let program = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: `program` points to its instructions, which the kernel copies before it returns.
    let set = unsafe {
        libc::prctl(
            libc::PR_SET_SECCOMP,
            libc::SECCOMP_MODE_FILTER,
            &raw const program,
        )
    };
    assert_eq!(set, 0);
}

fn filter(code: u32, jump_if_not: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter {
        code: code as u16,
        jt: 0,
        jf: jump_if_not,
        k,
    }
}
