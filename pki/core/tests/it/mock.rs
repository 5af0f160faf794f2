//! The mock module program and keys for it.

use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use aws_lc_rs::agreement::{ECDH_P256, ECDH_P384, PrivateKey};
use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rsa::{KeySize, PrivateDecryptingKey};
use claviger_pki::host::HostConfig;
use claviger_pki::wire::Settings;

/// Private keys as the mock module's settings.
pub(crate) static KEYS: LazyLock<Settings> = LazyLock::new(|| {
    let hex = |der: Pkcs8V1Der<'_>| data_encoding::HEXLOWER.encode(der.as_ref());
    let ec = |curve| hex(PrivateKey::generate(curve).unwrap().as_der().unwrap());
    let rsa = PrivateDecryptingKey::generate(KeySize::Rsa2048).unwrap();
    Settings::from([
        ("key.p256".into(), ec(&ECDH_P256)),
        ("key.p384".into(), ec(&ECDH_P384)),
        ("key.rsa".into(), hex(rsa.as_der().unwrap())),
    ])
});

/// A host's configuration with the mock module, these settings added to the keys.
pub(crate) fn config(settings: &[(&str, &str)]) -> HostConfig {
    let mut all = KEYS.clone();
    for (name, value) in settings {
        all.insert((*name).into(), (*value).into());
    }
    HostConfig {
        name: "mock".into(),
        program: example("mock_module"),
        settings: all,
        grace: Duration::from_secs(2),
    }
}

/// A program of `examples`: cargo builds them with tests, beside the tests' own `deps`.
pub(crate) fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let target = test.parent().and_then(|deps| deps.parent()).unwrap();
    target.join("examples").join(name)
}

pub(crate) fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}
