//! A PKCS#11 library whose token wants a touch for each use of a private key, as YubiKeys do: SoftHSM,
//! with a person's finger before C_Decrypt and C_DeriveKey.
//!
//! The finger is a file `touch` beside `softhsm2.conf`, which one use takes away. While it waits there
//! is a file `blinks`. After 15 seconds, as long as a YubiKey waits, it gives up.

#![allow(unsafe_code)] // PKCS#11 is an interface in C.
#![allow(clippy::unwrap_used)] // It serves tests only.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use cryptoki_sys::{
    CK_ATTRIBUTE, CK_BYTE, CK_FUNCTION_LIST, CK_MECHANISM, CK_OBJECT_HANDLE, CK_RV,
    CK_SESSION_HANDLE, CK_ULONG, CKR_FUNCTION_REJECTED, CKR_OK, Pkcs11,
};

/// How long the light blinks.
const PATIENCE: Duration = Duration::from_secs(15);

/// SoftHSM's functions, and ours instead of two of them.
struct Lists {
    softhsm: CK_FUNCTION_LIST,
    ours: CK_FUNCTION_LIST,
}

/// The one function that a PKCS#11 library has to export.
///
/// # Safety
/// `list` can be written, as PKCS #11 v2.40 wants it for this call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GetFunctionList(list: *mut *mut CK_FUNCTION_LIST) -> CK_RV {
    let ours = &raw const lists().ours;
    // SAFETY: as the caller promises. Who gets the list only reads it, as the standard says.
    unsafe { list.write(ours.cast_mut()) };
    CKR_OK
}

fn lists() -> &'static Lists {
    static LISTS: OnceLock<Lists> = OnceLock::new();
    LISTS.get_or_init(|| {
        // SAFETY: SoftHSM is a PKCS#11 library, and what its initialisers do every module of ours bears.
        let softhsm = unsafe { Pkcs11::new(softhsm_library()) }.unwrap();
        let mut list = std::ptr::null_mut();
        // SAFETY: `list` can be written.
        assert_eq!(unsafe { softhsm.C_GetFunctionList(&raw mut list) }, CKR_OK);
        // SAFETY: it answered CKR_OK, so this is its list.
        let softhsm_list = unsafe { *list };
        // Its functions are used as long as the process lives.
        std::mem::forget(softhsm);
        Lists {
            softhsm: softhsm_list,
            ours: CK_FUNCTION_LIST {
                C_GetFunctionList: Some(C_GetFunctionList),
                C_Decrypt: Some(decrypt),
                C_DeriveKey: Some(derive_key),
                ..softhsm_list
            },
        }
    })
}

unsafe extern "C" fn decrypt(
    session: CK_SESSION_HANDLE,
    encrypted: *mut CK_BYTE,
    encrypted_len: CK_ULONG,
    data: *mut CK_BYTE,
    data_len: *mut CK_ULONG,
) -> CK_RV {
    if !is_touched() {
        return CKR_FUNCTION_REJECTED;
    }
    let softhsm = lists().softhsm.C_Decrypt.unwrap();
    // SAFETY: the caller's arguments, to the function that he takes this one for.
    unsafe { softhsm(session, encrypted, encrypted_len, data, data_len) }
}

unsafe extern "C" fn derive_key(
    session: CK_SESSION_HANDLE,
    mechanism: *mut CK_MECHANISM,
    base: CK_OBJECT_HANDLE,
    template: *mut CK_ATTRIBUTE,
    template_len: CK_ULONG,
    key: *mut CK_OBJECT_HANDLE,
) -> CK_RV {
    if !is_touched() {
        return CKR_FUNCTION_REJECTED;
    }
    let softhsm = lists().softhsm.C_DeriveKey.unwrap();
    // SAFETY: the caller's arguments, to the function that he takes this one for.
    unsafe { softhsm(session, mechanism, base, template, template_len, key) }
}

/// Waits for the finger. A token does one thing at a time.
fn is_touched() -> bool {
    static TOKEN: Mutex<()> = Mutex::new(());
    let _busy = TOKEN.lock().unwrap_or_else(PoisonError::into_inner);
    let conf = PathBuf::from(env::var_os("SOFTHSM2_CONF").unwrap());
    let (finger, light) = (conf.with_file_name("touch"), conf.with_file_name("blinks"));
    fs::write(&light, "").unwrap();
    let begun = Instant::now();
    while !finger.exists() && begun.elapsed() < PATIENCE {
        thread::sleep(Duration::from_millis(5));
    }
    // In this order: once the finger is gone, a light is that of the next use.
    fs::remove_file(light).unwrap();
    fs::remove_file(&finger).is_ok()
}

fn softhsm_library() -> &'static Path {
    let places = [
        "/usr/lib/softhsm/libsofthsm2.so",
        "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
        "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
    ];
    let mut places = places.into_iter().map(Path::new);
    places.find(|path| path.is_file()).unwrap()
}
