//! What is fuzzed: one function a parser, which takes any bytes.
//!
//! `cargo fuzz` runs them from `fuzz/` for as long as one likes; the tests here run them over the same
//! corpus, and over thousands of mutations of it, with no tool but cargo. Keys and ids are constants
//! ([`fixed`]), so that seeds stay good.

pub mod callout;
pub mod ecryptfs;
pub mod fixed;
pub mod pki;
pub mod programs;
pub mod protocol;
pub mod vault;

/// How far a parser got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reached {
    /// The input is what the parser is for.
    Success,
    /// It is not.
    Refused,
}

impl From<bool> for Reached {
    fn from(parsed: bool) -> Self {
        match parsed {
            true => Self::Success,
            false => Self::Refused,
        }
    }
}

/// A function that is fuzzed.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, which is that of its folder in `fuzz/corpus/` and of its program for `cargo fuzz`.
    pub name: &'static str,
    /// The function.
    pub run: fn(&[u8]) -> Reached,
}

/// Declares [`TARGETS`]: a name, and the function behind it.
macro_rules! targets {
    ($($module:ident::{$($function:ident),+ $(,)?}),+ $(,)?) => {
        /// All of them.
        pub const TARGETS: &[Target] = &[
            $($(Target {
                name: concat!(stringify!($module), "_", stringify!($function)),
                run: $module::$function,
            }),+),+
        ];
    };
}

targets! {
    vault::{
        head, file, fixed_part, key_record, packet, sealed_packets, shapes, slot, place,
        directory_record, manifest, known_volumes, name, long_name, symlink, attribute, stream,
    },
    ecryptfs::{
        file, header, xattr_header, packets, name, target, wrapped_passphrase, auth_tok, session_key, device,
        journal,
    },
    callout::{frame, greeting, answer, session, rendezvous},
    protocol::{key_request, key_reply, key_event, to_daemon, from_daemon},
    pki::{
        spki, pem, wrapped, recovery_key, passphrase, auth_tok, key_file, to_module, from_module,
        uri, module_file, certificate, tpm_key_file, tpm_locator, pem_key_file,
    },
    programs::{mount_options, mountinfo, own_mounts, directory_entries, proc_status, report, daemon_config,
        pin_source, pinentry_answer},
}
