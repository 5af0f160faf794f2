//! The PKI module for smartcards, YubiKeys and HSMs: whatever has a PKCS#11 library.
//!
//! One process serves one library. [`Store`] is the module; what it needs to know comes in as
//! settings (`library`, and `concurrency` for libraries known to stand more than one call at once).
//! It does the KEM step only, so the vendor's code never sees an epoch key or a FEK.
//!
//! ```text
//! store     the Module trait: decapsulate, with recovery
//! tokens    which tokens are where, their sessions and logins    seat  login state of one token
//! pin       what may be sent as a PIN, and what never again
//! key       finding and describing keys                          certificate  key of a certificate
//! kem       the private-key operations and their self-test       generate     new keys
//! library   loading; error names     fault  what an error means  sys          the unsafe calls
//! ```

mod certificate;
mod fault;
mod generate;
mod kem;
mod key;
mod library;
mod pin;
mod seat;
mod settings;
mod store;
mod sys;
mod tokens;

pub use certificate::subject_public_key_info;
pub use store::Store;
