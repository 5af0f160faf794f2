//! A module whose keys are settings, for tests of the host and of the contract itself.
//!
//! Settings: `key.NAME` is a private key as hexadecimal PKCS#8, `pin` a PIN that all of them want,
//! `concurrency` a number. A locator is a NAME; a selector too, or one of the misdeeds below.

#![allow(clippy::unwrap_used)] // It serves tests only.

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use aws_lc_rs::agreement::{self, ECDH_P256, ECDH_P384, PrivateKey, UnparsedPublicKey};
use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rsa::{
    OAEP_SHA1_MGF1SHA1, OAEP_SHA256_MGF1SHA256, OaepPrivateDecryptingKey, PrivateDecryptingKey,
};
use claviger_pki::key::{Kem, KeyType, PublicKey};
use claviger_pki::module::{
    Decapsulate, DecryptPkcs1V15, Generate, Key, Locator, Module, ModuleError, PinState,
    Provenance, Token,
};
use claviger_pki::serve::run;
use claviger_pki::wire::Settings;
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::socket::{MsgFlags, send};
use zeroize::Zeroizing;

fn main() -> ExitCode {
    run(Mock::open)
}

struct Mock {
    settings: Settings,
    logged_in: AtomicBool,
}

impl Mock {
    fn open(settings: &Settings) -> Result<Self, ModuleError> {
        if let Some(error) = settings.get("refuse") {
            return Err(ModuleError::BadRequest(error.clone()));
        }
        Ok(Self {
            settings: settings.clone(),
            logged_in: AtomicBool::new(false),
        })
    }

    fn private(&self, name: &str) -> Result<Private, ModuleError> {
        let key = self.settings.get(&format!("key.{name}"));
        let key = key.ok_or_else(|| ModuleError::NoSuchKey(name.into()))?;
        let der = data_encoding::HEXLOWER.decode(key.as_bytes());
        Private::parse(&der.map_err(|error| ModuleError::BadRequest(error.to_string()))?)
            .ok_or_else(|| ModuleError::BadRequest(format!("{name} is no private key")))
    }

    fn check_pin(&self) -> Result<(), ModuleError> {
        if self.settings.contains_key("pin") && !self.logged_in.load(Ordering::SeqCst) {
            return Err(ModuleError::PinNeeded {
                token: "mock".into(),
                state: PinState::Ok,
            });
        }
        Ok(())
    }
}

enum Private {
    Ec(PrivateKey),
    Rsa(Box<PrivateDecryptingKey>),
}

impl Private {
    fn parse(der: &[u8]) -> Option<Self> {
        for curve in [&ECDH_P256, &ECDH_P384] {
            if let Ok(key) = PrivateKey::from_private_key_der(curve, der) {
                return Some(Self::Ec(key));
            }
        }
        let key = PrivateDecryptingKey::from_pkcs8(der).ok()?;
        Some(Self::Rsa(Box::new(key)))
    }

    fn public(&self) -> PublicKey {
        let key = match self {
            Self::Ec(key) => {
                let point = key.compute_public_key().unwrap();
                let key_type = match point.as_ref().len() {
                    65 => KeyType::EcP256,
                    _ => KeyType::EcP384,
                };
                PublicKey::from_ec_point(key_type, point.as_ref())
            }
            Self::Rsa(key) => PublicKey::from_spki(key.public_key().as_der().unwrap().as_ref()),
        };
        key.expect("the settings hold supported keys")
    }
}

impl Module for Mock {
    fn concurrency(&self) -> usize {
        let number = self.settings.get("concurrency");
        number.map_or(1, |text| text.parse().unwrap())
    }

    fn tokens(&self) -> Result<Vec<Token>, ModuleError> {
        Ok(Vec::new())
    }

    fn keys(&self, selector: &str) -> Result<Vec<Key>, ModuleError> {
        match selector {
            "hang" => loop {
                thread::park();
            },
            "crash" => std::process::abort(),
            "panic" => panic!("as asked"),
            "exit" => std::process::exit(3),
            "garbage" => {
                let message = [3, 0, 0, 0, 0xff, 0xff, 0xff];
                send(3, &message, MsgFlags::empty()).unwrap();
                loop {
                    thread::park();
                }
            }
            "endless" => {
                send(3, &[0xff; 4], MsgFlags::empty()).unwrap();
                Ok(Vec::new())
            }
            "unasked" => {
                // An answer, Ok(Done), to call 77.
                send(3, &[4, 0, 0, 0, 1, 77, 0, 0], MsgFlags::empty()).unwrap();
                loop {
                    thread::park();
                }
            }
            "late" => {
                thread::sleep(Duration::from_millis(400));
                Ok(Vec::new())
            }
            "environment" => Err(ModuleError::BadRequest(
                std::env::vars().map(|(name, _)| name + " ").collect(),
            )),
            "confinement" => Err(ModuleError::BadRequest(format!(
                "no_new_privs {}, dumpable {}, core {:?}",
                prctl::get_no_new_privs().unwrap(),
                prctl::get_dumpable().unwrap(),
                getrlimit(Resource::RLIMIT_CORE).unwrap(),
            ))),
            name => {
                let public_key = self.private(name)?.public();
                Ok(vec![Key {
                    locator: Locator(name.into()),
                    kems: public_key.key_type().kems().to_vec(),
                    public_key,
                    label: name.into(),
                    provenance: Provenance::Software,
                }])
            }
        }
    }

    fn generate(&self, order: &Generate) -> Result<Key, ModuleError> {
        // Tells that all of the order arrived.
        let pin = order.pin.as_ref().map_or(0, |pin| pin.len());
        Err(ModuleError::Unsupported(format!("{order:?} PIN of {pin}")))
    }

    fn login(&self, _locator: &Locator, pin: &Zeroizing<Vec<u8>>) -> Result<(), ModuleError> {
        let right = self.settings.get("pin").map(String::as_bytes);
        if right != Some(pin.as_slice()) {
            return Err(ModuleError::PinWrong {
                token: "mock".into(),
                state: PinState::Ok,
            });
        }
        self.logged_in.store(true, Ordering::SeqCst);
        Ok(())
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
        let Locator(name) = &call.locator;
        if name.is_empty() {
            return Err(ModuleError::BadRequest("no name".into()));
        }
        let key = self.private(name)?;
        if key.public() != call.public_key {
            return Err(ModuleError::NoSuchKey(format!("{name} is another key")));
        }
        self.check_pin()?;
        match (key, call.kem) {
            (Private::Rsa(key), Kem::RsaOaepSha256 | Kem::RsaOaepSha1) => {
                let oaep = match call.kem {
                    Kem::RsaOaepSha1 => &OAEP_SHA1_MGF1SHA1,
                    _ => &OAEP_SHA256_MGF1SHA256,
                };
                let key = OaepPrivateDecryptingKey::new(*key).unwrap();
                let mut out = Zeroizing::new(vec![0; key.min_output_size()]);
                key.decrypt(oaep, &call.encapsulation, &mut out, None)
                    .map(|secret| Zeroizing::new(secret.to_vec()))
                    .map_err(|_| ModuleError::NotDecryptable)
            }
            (Private::Ec(key), Kem::DhkemP256 | Kem::DhkemP384) => {
                let peer = UnparsedPublicKey::new(key.algorithm(), &call.encapsulation);
                agreement::agree(&key, peer, ModuleError::NotDecryptable, |secret| {
                    Ok(Zeroizing::new(secret.to_vec()))
                })
            }
            (_, kem) => Err(ModuleError::Unsupported(kem.to_string())),
        }
    }
}
