//! SoftHSM as a smartcard.

use std::fs;
use std::path::{Path, PathBuf};

use crate::world::program;
use crate::{User, wait_until};

/// The user PIN of a token for which no other is chosen.
pub const PIN: &str = "123456";

/// A smartcard of one user: tokens in their home, `SOFTHSM2_CONF` in their environment.
#[derive(Debug)]
pub struct SoftHsm {
    tokens: PathBuf,
}

impl SoftHsm {
    /// Gives `user` an empty reader.
    pub fn new(user: &mut User) -> Self {
        let tokens = user.home().join("softhsm/tokens");
        let text = format!(
            "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\nslots.removable = false\n",
            tokens.display()
        );
        let conf = user.write("softhsm/softhsm2.conf", text);
        user.run("mkdir", [&tokens]).ok();
        user.set("SOFTHSM2_CONF", conf.to_string_lossy());
        Self { tokens }
    }

    /// Initialises a token with the PIN [`PIN`], and returns its URI.
    pub fn token(&self, user: &User, label: &str) -> String {
        self.token_with_pin(user, label, PIN)
    }

    /// Initialises a token, and returns its URI.
    pub fn token_with_pin(&self, user: &User, label: &str, pin: &str) -> String {
        user.run(
            "softhsm2-util",
            [
                "--init-token",
                "--free",
                "--label",
                label,
                "--so-pin",
                "12345678",
                "--pin",
                pin,
            ],
        )
        .ok();
        format!("pkcs11:token={label}")
    }

    /// The PIN of [`Self::token`].
    pub fn pin(&self) -> &'static str {
        PIN
    }

    /// Names this library in `user`'s configuration: no other is loaded, whatever is installed.
    pub fn alone(&self, user: &User) {
        let library = [
            "/usr/lib/softhsm/libsofthsm2.so",
            "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
            "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
        ]
        .into_iter()
        .find(|path| Path::new(path).is_file())
        .expect("SoftHSM is installed");
        configure_library(user, library);
    }

    /// The same, for a token that waits for [`Self::touch`] before each use of a private key.
    pub fn alone_and_wants_touches(&self, user: &User) {
        let library = program("examples/libtouch_token.so");
        configure_library(user, &library.to_string_lossy());
    }

    /// Waits until its light blinks, and touches it.
    pub fn touch(&self) {
        self.wait_until_it_blinks();
        let finger = self.tokens.with_file_name("touch");
        fs::write(&finger, "").expect("a home is writable");
        wait_until("the token has felt the touch", || !finger.exists());
    }

    /// Waits until its light blinks.
    pub fn wait_until_it_blinks(&self) {
        let light = self.tokens.with_file_name("blinks");
        wait_until("the token wants a touch", || light.exists());
    }

    /// Takes the card out: its folder is moved away, while daemon and module run.
    pub fn take_out(&self) {
        fs::rename(&self.tokens, self.away()).expect("the card is in");
    }

    /// Puts the card back.
    pub fn put_back(&self) {
        fs::rename(self.away(), &self.tokens).expect("the card is out");
    }

    fn away(&self) -> PathBuf {
        self.tokens.parent().unwrap_or(Path::new("/")).join("away")
    }
}

fn configure_library(user: &User, library: &str) {
    user.configure(&format!("[pkcs11]\nlibraries = [\"{library}\"]\n"));
}
