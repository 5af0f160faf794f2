//! A PKCS#11 library for the tests: SoftHSM with the habits of cards that it does not have.
//!
//! Every call goes to the real library that `CARD_HABITS_LIBRARY` names; keys, PINs and cryptography
//! are its own. Files in the folder `CARD_HABITS` switch habits on, looked up at each call:
//!
//! ```text
//! tries    how many wrong PINs are left, counted down here; flags say so as cards do
//! pad      the PIN that "is typed" on the reader, for a login without one; `cancel` is pressed
//! removed  no token; operations fail as OpenSC 0.23 fails them, logins are lost
//! stuck    a failed C_Decrypt leaves its operation active for ever, as with OpenSC
//! deaf     no session can be opened any more
//! wedged   C_GetSlotList fails, and goes on failing in this process when the file is gone
//! logins   written: a line for each C_Login that reached the real library
//! ```
//!
//! All slots are removable, so that insertions are seen without starting the library anew.

#![allow(unsafe_code)] // A library with a C interface.
#![allow(clippy::unwrap_used)] // Test code: a poisoned lock is a failed test.
#![allow(non_snake_case)] // Named as the standard names them.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{LazyLock, Mutex};

use cryptoki_sys::*;

struct Real {
    list: CK_FUNCTION_LIST,
    _library: Pkcs11,
}

static REAL: LazyLock<Real> = LazyLock::new(|| {
    let path = std::env::var_os("CARD_HABITS_LIBRARY").expect("CARD_HABITS_LIBRARY is set");
    // SAFETY: the library that the test names, SoftHSM.
    let library = unsafe { Pkcs11::new(&path) }.expect("the real library loads");
    let mut list = ptr::null_mut();
    // SAFETY: called as the standard says; the list lives as long as the library.
    let list = unsafe {
        let code = (library.C_GetFunctionList.as_ref().expect("exported"))(&mut list);
        assert_eq!(code, CKR_OK);
        *list
    };
    Real {
        list,
        _library: library,
    }
});

/// Sessions that a failed operation has made useless.
static STUCK: Mutex<BTreeSet<CK_SESSION_HANDLE>> = Mutex::new(BTreeSet::new());

static WEDGED: AtomicBool = AtomicBool::new(false);

static LIST: LazyLock<List> = LazyLock::new(|| {
    List(CK_FUNCTION_LIST {
        C_CloseSession: Some(C_CloseSession),
        C_Decrypt: Some(C_Decrypt),
        C_DecryptInit: Some(C_DecryptInit),
        C_GetFunctionList: Some(C_GetFunctionList),
        C_GetSlotInfo: Some(C_GetSlotInfo),
        C_GetSlotList: Some(C_GetSlotList),
        C_GetTokenInfo: Some(C_GetTokenInfo),
        C_Login: Some(C_Login),
        C_OpenSession: Some(C_OpenSession),
        ..REAL.list
    })
});

#[repr(transparent)]
struct List(CK_FUNCTION_LIST);

/// # Safety
/// As the standard says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GetFunctionList(list: *mut *mut CK_FUNCTION_LIST) -> CK_RV {
    // SAFETY: `list` is a place for a pointer; nobody writes to what it points to.
    unsafe { *list = (&raw const LIST.0).cast_mut() };
    CKR_OK
}

fn habit(name: &str) -> Option<String> {
    fs::read_to_string(folder().join(name)).ok()
}

fn folder() -> PathBuf {
    std::env::var_os("CARD_HABITS")
        .expect("CARD_HABITS is set")
        .into()
}

fn removed() -> bool {
    habit("removed").is_some()
}

fn tries() -> Option<u32> {
    habit("tries").map(|text| text.trim().parse().expect("a number"))
}

fn write_tries(left: u32) {
    fs::write(folder().join("tries"), left.to_string()).expect("written");
}

/// Calls a function of the real library.
macro_rules! real {
    ($function:ident($($argument:expr),*)) => {
        // SAFETY: the caller's arguments, passed on as they are, or places of the right type.
        unsafe { (REAL.list.$function.expect("SoftHSM has it"))($($argument),*) }
    };
}

unsafe extern "C" fn C_GetSlotList(
    with_token: CK_BBOOL,
    slots: *mut CK_SLOT_ID,
    count: *mut CK_ULONG,
) -> CK_RV {
    if habit("wedged").is_some() {
        WEDGED.store(true, Ordering::Relaxed);
    }
    if WEDGED.load(Ordering::Relaxed) {
        return CKR_GENERAL_ERROR;
    }
    if removed() && with_token == CK_TRUE {
        // SAFETY: the caller's count.
        unsafe { *count = 0 };
        return CKR_OK;
    }
    real!(C_GetSlotList(with_token, slots, count))
}

unsafe extern "C" fn C_GetSlotInfo(slot: CK_SLOT_ID, info: *mut CK_SLOT_INFO) -> CK_RV {
    let code = real!(C_GetSlotInfo(slot, info));
    if code == CKR_OK {
        // SAFETY: written just now.
        unsafe { (*info).flags |= CKF_REMOVABLE_DEVICE };
    }
    code
}

unsafe extern "C" fn C_GetTokenInfo(slot: CK_SLOT_ID, info: *mut CK_TOKEN_INFO) -> CK_RV {
    if removed() {
        return CKR_TOKEN_NOT_PRESENT;
    }
    let code = real!(C_GetTokenInfo(slot, info));
    if code == CKR_OK {
        // SAFETY: written just now.
        let flags = unsafe { &mut (*info).flags };
        if habit("pad").is_some() {
            *flags |= CKF_PROTECTED_AUTHENTICATION_PATH;
        }
        *flags |= match tries() {
            Some(0) => CKF_USER_PIN_LOCKED,
            Some(1) => CKF_USER_PIN_FINAL_TRY | CKF_USER_PIN_COUNT_LOW,
            Some(2) => CKF_USER_PIN_COUNT_LOW,
            _ => 0,
        };
    }
    code
}

unsafe extern "C" fn C_OpenSession(
    slot: CK_SLOT_ID,
    flags: CK_FLAGS,
    application: *mut std::ffi::c_void,
    notify: CK_NOTIFY,
    session: *mut CK_SESSION_HANDLE,
) -> CK_RV {
    if removed() {
        return CKR_TOKEN_NOT_PRESENT;
    }
    if habit("deaf").is_some() {
        return CKR_DEVICE_ERROR;
    }
    real!(C_OpenSession(slot, flags, application, notify, session))
}

unsafe extern "C" fn C_CloseSession(session: CK_SESSION_HANDLE) -> CK_RV {
    STUCK.lock().unwrap().remove(&session);
    real!(C_CloseSession(session))
}

unsafe extern "C" fn C_Login(
    session: CK_SESSION_HANDLE,
    user: CK_USER_TYPE,
    mut pin: *mut CK_UTF8CHAR,
    mut length: CK_ULONG,
) -> CK_RV {
    if tries() == Some(0) {
        return CKR_PIN_LOCKED;
    }
    let pad = habit("pad");
    if pin.is_null() {
        if pad.as_deref() == Some("cancel") {
            return CKR_FUNCTION_CANCELED;
        }
        let Some(typed) = &pad else {
            return CKR_ARGUMENTS_BAD;
        };
        pin = typed.as_ptr().cast_mut();
        length = typed.len() as CK_ULONG;
    }
    let mut logins = habit("logins").unwrap_or_default();
    logins += if user == CKU_CONTEXT_SPECIFIC {
        "context\n"
    } else {
        "user\n"
    };
    fs::write(folder().join("logins"), logins).expect("written");

    let code = real!(C_Login(session, user, pin, length));
    match (code, tries()) {
        (CKR_PIN_INCORRECT, Some(left)) => write_tries(left - 1),
        (CKR_OK, Some(_)) => write_tries(3),
        _ => {}
    }
    code
}

unsafe extern "C" fn C_DecryptInit(
    session: CK_SESSION_HANDLE,
    mechanism: *mut CK_MECHANISM,
    key: CK_OBJECT_HANDLE,
) -> CK_RV {
    if removed() {
        return lose(session);
    }
    if STUCK.lock().unwrap().contains(&session) {
        return CKR_OPERATION_ACTIVE;
    }
    real!(C_DecryptInit(session, mechanism, key))
}

unsafe extern "C" fn C_Decrypt(
    session: CK_SESSION_HANDLE,
    input: *mut CK_BYTE,
    input_length: CK_ULONG,
    output: *mut CK_BYTE,
    output_length: *mut CK_ULONG,
) -> CK_RV {
    if removed() {
        return lose(session);
    }
    let code = real!(C_Decrypt(
        session,
        input,
        input_length,
        output,
        output_length
    ));
    if code != CKR_OK && habit("stuck").is_some() {
        STUCK.lock().unwrap().insert(session);
    }
    code
}

/// DEVICE_REMOVED to the one that notices, and SESSION_HANDLE_INVALID for ever to all others.
fn lose(session: CK_SESSION_HANDLE) -> CK_RV {
    let mut info = CK_SESSION_INFO::default();
    let code = real!(C_GetSessionInfo(session, &mut info));
    if code != CKR_OK {
        return code;
    }
    real!(C_CloseAllSessions(info.slotID));
    CKR_DEVICE_REMOVED
}
