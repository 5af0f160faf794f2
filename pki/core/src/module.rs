//! What a PKI module does, seen from inside it.
//!
//! A module is a program that reaches one kind of key store: a PKCS#11 library, a TPM, key files. It
//! does the KEM step only: what wraps volumes and files is opened by `clavigerd`, with the shared
//! secret that the module returns.

use core::fmt;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::key::{Kem, KeyType, PublicKey};
use crate::text::named;
use crate::wire::secret;

/// Where a module finds one private key: opaque outside the module, no secret, at most 512 bytes.
///
/// A PKCS#11 URI, the path of a PEM file, a TPM key file.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Locator(pub String);

/// A key store that can be used now.
///
/// Implementations are driven by [`serve`](crate::serve::serve) from as many threads as
/// [`Module::concurrency`] says, and answer each call before its deadline where the hardware allows.
pub trait Module: Send + Sync {
    /// How many calls may be in progress at once: 1 unless the store is known to stand more.
    fn concurrency(&self) -> usize;

    /// Tokens that are present now.
    ///
    /// # Errors
    /// [`ModuleError`].
    fn tokens(&self) -> Result<Vec<Token>, ModuleError>;

    /// Keys that `selector` matches: all of a token's usable key pairs, or one.
    ///
    /// # Errors
    /// [`ModuleError`].
    fn keys(&self, selector: &str) -> Result<Vec<Key>, ModuleError>;

    /// Makes a key pair that cannot leave the store.
    ///
    /// # Errors
    /// [`ModuleError`].
    fn generate(&self, order: &Generate) -> Result<Key, ModuleError>;

    /// Logs in to what `locator` names; the PIN is kept by the module's session only.
    ///
    /// # Errors
    /// [`ModuleError::PinWrong`] once a refused PIN; the module never sends it again.
    fn login(&self, locator: &Locator, pin: &Zeroizing<Vec<u8>>) -> Result<(), ModuleError>;

    /// Forgets logins and secrets: sessions closed, PINs wiped.
    fn logout(&self);

    /// Opens `encapsulation` with the private key at `locator`.
    ///
    /// RSA: the decrypted secret. ECDH: the raw shared x-coordinate (32 or 48 bytes).
    ///
    /// # Errors
    /// [`ModuleError::PinNeeded`] if the store wants a login first; [`ModuleError::NotDecryptable`] for
    /// every failure that depends on the ciphertext.
    fn decapsulate(
        &self,
        call: &Decapsulate,
        deadline: Instant,
    ) -> Result<Zeroizing<Vec<u8>>, ModuleError>;

    /// Decrypts a FEK that eCryptfs' `pkcs11-helper` key module wrapped, by RSA with PKCS#1 v1.5 padding.
    ///
    /// It is no KEM and has no number, so that nothing of ours can be wrapped or opened by it. Whoever
    /// asks must not let anybody tell one failure from another, by its kind or by its time.
    ///
    /// # Errors
    /// [`ModuleError::Unsupported`] if the store is not made to; [`ModuleError::NotDecryptable`] for
    /// every failure that depends on the ciphertext.
    fn decrypt_pkcs1_v15(
        &self,
        call: &DecryptPkcs1V15,
        deadline: Instant,
    ) -> Result<Zeroizing<Vec<u8>>, ModuleError>;
}

/// One KEM step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decapsulate {
    /// Where the private key is.
    pub locator: Locator,
    /// Its public half: the key used must match it.
    pub public_key: PublicKey,
    /// Which KEM.
    pub kem: Kem,
    /// RSA ciphertext, or the uncompressed ephemeral point. Already checked to be on the curve.
    #[serde(with = "serde_bytes")]
    pub encapsulation: Vec<u8>,
}

/// A FEK to decrypt for compatibility's sake.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DecryptPkcs1V15 {
    /// Where the private key is.
    pub locator: Locator,
    /// Its public half: the key used must match it. Already checked to be RSA.
    pub public_key: PublicKey,
    /// Already checked to be as long as the modulus. It decrypts to 19, 27 or 35 bytes.
    pub ciphertext: Vec<u8>,
}

/// A key pair to make.
#[derive(Serialize, Deserialize)]
pub struct Generate {
    /// A selector of the token, as the module's tokens are named; empty where there is only one.
    pub token: String,
    /// What kind; the module's own first choice if absent.
    pub key_type: Option<KeyType>,
    /// For people.
    pub label: String,
    /// Where a key file goes, for modules that keep keys in files.
    pub out: Option<String>,
    /// Auth value or passphrase for the new key, for modules that have one a key.
    #[serde(with = "secret::optional")]
    pub pin: Option<Zeroizing<Vec<u8>>>,
}

impl fmt::Debug for Generate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the PIN.
        f.debug_struct("Generate")
            .field("token", &self.token)
            .field("key_type", &self.key_type)
            .field("label", &self.label)
            .field("out", &self.out)
            .finish_non_exhaustive()
    }
}

/// A token that is present.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// Its label.
    pub label: String,
    /// How to select it: a PKCS#11 URI, a TCTI.
    pub uri: String,
    /// Manufacturer and model.
    pub model: String,
    /// Serial number.
    pub serial: String,
    /// What is known of its PIN.
    pub pin_state: PinState,
}

/// What a token says of its PIN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PinState {
    /// None is needed.
    NotNeeded,
    /// Nothing to worry about, as far as it tells.
    Ok,
    /// So many tries left.
    TriesLeft(u32),
    /// The next wrong one blocks it.
    FinalTry,
    /// Blocked (or a TPM in lockout).
    Blocked,
}

/// A key pair in a store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    /// Where to find it again.
    pub locator: Locator,
    /// Its public half.
    pub public_key: PublicKey,
    /// For people.
    pub label: String,
    /// KEMs that the store can do with it, best first.
    pub kems: Vec<Kem>,
    /// Whether it can leave the store.
    pub provenance: Provenance,
}

/// What a store says about where a key came from and whether it can leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Provenance {
    /// Made in the token, which lets it go to nobody: as the token says. Whether that is hardware, nobody
    /// can know from here.
    InToken,
    /// Cannot leave now, but came from outside.
    Imported,
    /// Can be read out: refused by enrolment unless asked for.
    Extractable,
    /// A key in a file.
    Software,
}

impl Provenance {
    /// All of them, with the names that key files and the module protocol use.
    pub const NAMES: &'static [(Self, &'static str)] = &[
        (Self::InToken, "in-token"),
        (Self::Imported, "imported"),
        (Self::Extractable, "extractable"),
        (Self::Software, "software"),
    ];
}

named!(Provenance);

/// Why a module could not do it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum ModuleError {
    /// No token or file where the locator points.
    #[error("token absent: {0}")]
    Absent(String),
    /// The token is there and the key is not.
    #[error("no such key: {0}")]
    NoSuchKey(String),
    /// A login is needed first.
    #[error("{token} wants its PIN")]
    PinNeeded {
        /// How the token is named to people.
        token: String,
        /// What is known of its PIN.
        state: PinState,
    },
    /// The PIN was refused.
    #[error("{token} refused the PIN")]
    PinWrong {
        /// How the token is named to people.
        token: String,
        /// What is known of its PIN now.
        state: PinState,
    },
    /// The PIN is blocked.
    #[error("the PIN of {token} is blocked")]
    PinBlocked {
        /// How the token is named to people.
        token: String,
    },
    /// The TPM is in dictionary-attack lockout.
    #[error("TPM lockout: {0}")]
    Lockout(String),
    /// The encapsulation does not open with this key. One variant for every such failure: a caller must
    /// not become a padding oracle.
    #[error("does not decrypt")]
    NotDecryptable,
    /// The store cannot do this algorithm.
    #[error("unsupported: {0}")]
    Unsupported(String),
    /// The request is wrong: a bad URI, a bad file.
    #[error("{0}")]
    BadRequest(String),
    /// The deadline passed.
    #[error("timed out")]
    TimedOut,
    /// The requester called it back.
    #[error("cancelled")]
    Cancelled,
    /// The store failed in another way.
    #[error("{call} failed: {detail}")]
    Backend {
        /// Function of the library: `C_Decrypt`, `Esys_ECDH_ZGen`.
        call: String,
        /// Its error, as the library names it.
        detail: String,
    },
    /// The module process crashed or could not be started. Made by the host, never by a module.
    #[error("module process: {0}")]
    Process(String),
}
