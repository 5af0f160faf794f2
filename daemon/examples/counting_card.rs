//! A module whose one card counts wrong PINs and blocks, for tests: SoftHSM does neither.
//!
//! Settings: `dir`, the card; `pin`, its PIN. The card is a folder: `key` its private key, `tries` how
//! many are left, `logins` one line for each PIN that was sent to it. A file `slow`, `hang` or `crash`
//! in it makes the next key operation so.

#![allow(clippy::unwrap_used)] // It serves tests only.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use aws_lc_rs::agreement::{self, ECDH_P256, PrivateKey, UnparsedPublicKey};
use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use claviger_pki::key::{Kem, KeyType, PublicKey};
use claviger_pki::module::{
    Decapsulate, DecryptPkcs1V15, Generate, Key, Locator, Module, ModuleError, PinState,
    Provenance, Token,
};
use claviger_pki::serve::run;
use zeroize::Zeroizing;

fn main() -> ExitCode {
    run(|settings| {
        let setting = |name: &str| {
            let missing = || ModuleError::BadRequest(format!("setting {name} is missing"));
            settings.get(name).cloned().ok_or_else(missing)
        };
        Ok(Card {
            dir: setting("dir")?.into(),
            pin: setting("pin")?,
            logged_in: AtomicBool::new(false),
        })
    })
}

struct Card {
    dir: PathBuf,
    pin: String,
    logged_in: AtomicBool,
}

impl Card {
    fn tries(&self) -> u32 {
        fs::read_to_string(self.dir.join("tries")).map_or(3, |text| text.parse().unwrap())
    }

    fn state(&self) -> PinState {
        match self.tries() {
            0 => PinState::Blocked,
            1 => PinState::FinalTry,
            tries => PinState::TriesLeft(tries),
        }
    }

    fn private(&self) -> Result<PrivateKey, ModuleError> {
        let der = fs::read(self.dir.join("key"));
        let der = der.map_err(|_| ModuleError::Absent("counting card".into()))?;
        Ok(PrivateKey::from_private_key_der(&ECDH_P256, &der).unwrap())
    }

    fn key(&self) -> Result<Key, ModuleError> {
        let point = self.private()?.compute_public_key().unwrap();
        Ok(Key {
            locator: Locator("the key".into()),
            public_key: PublicKey::from_ec_point(KeyType::EcP256, point.as_ref()).unwrap(),
            label: "counted".into(),
            kems: vec![Kem::DhkemP256],
            provenance: Provenance::InToken,
        })
    }
}

impl Module for Card {
    fn concurrency(&self) -> usize {
        1
    }

    fn tokens(&self) -> Result<Vec<Token>, ModuleError> {
        Ok(vec![Token {
            label: "counting card".into(),
            uri: "counting".into(),
            model: "folder".into(),
            serial: "1".into(),
            pin_state: self.state(),
        }])
    }

    fn keys(&self, _selector: &str) -> Result<Vec<Key>, ModuleError> {
        Ok(vec![self.key()?])
    }

    fn generate(&self, _order: &Generate) -> Result<Key, ModuleError> {
        let key = PrivateKey::generate(&ECDH_P256).unwrap();
        let der: Pkcs8V1Der<'_> = key.as_der().unwrap();
        fs::write(self.dir.join("key"), der.as_ref()).unwrap();
        self.key()
    }

    fn login(&self, _locator: &Locator, pin: &Zeroizing<Vec<u8>>) -> Result<(), ModuleError> {
        let mut log = OpenOptions::new();
        let mut log = log
            .append(true)
            .create(true)
            .open(self.dir.join("logins"))
            .unwrap();
        writeln!(log, "login").unwrap();
        let token = "counting card".to_owned();
        if self.tries() == 0 {
            return Err(ModuleError::PinBlocked { token });
        }
        if pin.as_slice() == self.pin.as_bytes() {
            fs::write(self.dir.join("tries"), "3").unwrap();
            self.logged_in.store(true, Ordering::SeqCst);
            return Ok(());
        }
        fs::write(self.dir.join("tries"), (self.tries() - 1).to_string()).unwrap();
        let state = self.state();
        Err(ModuleError::PinWrong { token, state })
    }

    fn logout(&self) {
        self.logged_in.store(false, Ordering::SeqCst);
    }

    fn decrypt_pkcs1_v15(
        &self,
        _call: &DecryptPkcs1V15,
        _deadline: Instant,
    ) -> Result<Zeroizing<Vec<u8>>, ModuleError> {
        Err(ModuleError::Unsupported("PKCS#1 v1.5".into()))
    }

    fn decapsulate(
        &self,
        call: &Decapsulate,
        _deadline: Instant,
    ) -> Result<Zeroizing<Vec<u8>>, ModuleError> {
        if !self.logged_in.load(Ordering::SeqCst) {
            return Err(ModuleError::PinNeeded {
                token: "counting card".into(),
                state: self.state(),
            });
        }
        let told = |what: &str| fs::remove_file(self.dir.join(what)).is_ok();
        if told("crash") {
            std::process::abort();
        }
        if told("hang") {
            thread::sleep(Duration::from_secs(600));
        }
        if told("slow") {
            thread::sleep(Duration::from_millis(900));
        }
        let peer = UnparsedPublicKey::new(&ECDH_P256, &call.encapsulation);
        agreement::agree(
            &self.private()?,
            peer,
            ModuleError::NotDecryptable,
            |secret| Ok(Zeroizing::new(secret.to_vec())),
        )
    }
}
