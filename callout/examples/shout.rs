//! Has nothing to do with files: one process asks, another answers in capitals.
//!
//! ```text
//! cargo run --example shout -- answer &
//! cargo run --example shout -- ask hello
//! ```
//!
//! Both meet in `$XDG_RUNTIME_DIR/callout-shout`, whichever starts first.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use claviger_callout::{
    Call, PeerInfo, Requester, RequesterConfig, Responder, ResponderConfig, Service,
};
use zeroize::Zeroizing;

struct Shout;

impl Service for Shout {
    fn call(&self, call: Call) {
        let answer = Zeroizing::new(call.body.to_ascii_uppercase());
        call.reply(answer);
    }

    fn connected(&self, peer: &PeerInfo) {
        eprintln!("{} asks over {}", peer.service, peer.carrier);
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").ok_or("XDG_RUNTIME_DIR is not set")?;
    let folder = PathBuf::from(runtime).join("callout-shout");
    let mut arguments = std::env::args().skip(1);
    match arguments.next().as_deref() {
        Some("ask") => ask(folder, &arguments.collect::<Vec<_>>().join(" ")),
        Some("answer") => {
            let _responder = Responder::start(ResponderConfig::new([folder]), Arc::new(Shout))?;
            loop {
                std::thread::park();
            }
        }
        _ => Err("usage: shout ask WORDS… | shout answer".into()),
    }
}

fn ask(folder: PathBuf, words: &str) -> Result<(), Box<dyn std::error::Error>> {
    let requester = Requester::start(RequesterConfig::new(folder, "shout/1"), Arc::new(()))?;
    let uid = nix::unistd::Uid::effective().as_raw();
    if !requester.wait_registered(uid, Duration::from_secs(5)) {
        return Err("nobody answers: start `shout answer` first".into());
    }
    let body = Zeroizing::new(words.as_bytes().to_vec());
    let answer = requester.call(uid, body, Instant::now() + Duration::from_secs(5))?;
    println!("{}", String::from_utf8_lossy(&answer));
    Ok(())
}
