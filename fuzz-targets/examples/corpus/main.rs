//! Writes the seeds of `fuzz/corpus/`: real files and messages, small, made by the crates themselves.
//!
//! ```text
//! cargo run -p claviger-fuzz-targets --example corpus fuzz/corpus
//! ```
//!
//! Not made here: `pki_pem_key_file` (openssl), `pki_tpm_key_file` (a software TPM) and `ecryptfs_journal` (a
//! migration).

#![allow(clippy::unwrap_used, reason = "a seed that cannot be made says where")]

use std::fs;
use std::path::PathBuf;

mod callout;
mod ecryptfs;
mod pki;
mod programs;
mod protocol;
mod vault;

fn main() {
    let corpus = Corpus(
        std::env::args_os()
            .nth(1)
            .expect("the folder to write to")
            .into(),
    );
    vault::native_files(&corpus);
    vault::volume(&corpus);
    vault::names_of(&corpus);
    callout::seeds(&corpus);
    protocol::seeds(&corpus);
    pki::seeds(&corpus);
    programs::seeds(&corpus);
    ecryptfs::seeds(&corpus);
}

/// The folder that seeds go to, one folder in it a target.
pub(crate) struct Corpus(PathBuf);

impl Corpus {
    fn seed(&self, target: &str, name: &str, bytes: impl AsRef<[u8]>) {
        let folder = self.0.join(target);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(name), bytes).unwrap();
    }
}
