//! Does with auth toks what the lines of its input say, one answer a line; for tests of the keyring,
//! which run it as users of their own.

#![allow(clippy::unwrap_used)] // It serves tests only.

use std::io::{BufRead, Write};
use std::io::{stdin, stdout};

use claviger_pki::auth_tok::{AuthTok, AuthToks, Place, description};
use claviger_pki::key::KeyId;
use claviger_pki::module::Locator;
use linux_keyutils::{KeyRing, KeyRingIdentifier};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

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
    let calls = [libc::SYS_keyctl, libc::SYS_add_key, libc::SYS_request_key];
    let filter = SeccompFilter::new(
        calls.map(|call| (call, Vec::new())).into(),
        SeccompAction::Allow,
        SeccompAction::Errno(libc::EPERM.unsigned_abs()),
        std::env::consts::ARCH.try_into().unwrap(),
    );
    let program: BpfProgram = filter.unwrap().try_into().unwrap();
    seccompiler::apply_filter(&program).unwrap();
}
