//! The calls that cryptoki 0.12 has no fitting form of, made on its sessions.
//!
//! C_Decrypt in two halves, so that a context-specific login can stand between them; in one call
//! with a buffer of ours, where cryptoki asks for the length first (OpenSC has deciphered on the card
//! to answer that, in `pkcs15_prkey_decrypt`) and returns memory that is not wiped; and reading a
//! derived secret into memory of ours.

#![allow(unsafe_code)] // Foreign functions; each call is argued.

use std::ffi::c_void;
use std::path::Path;
use std::ptr;

use cryptoki::context::Function;
use cryptoki::error::{Error, Result, Rv};
use cryptoki::object::ObjectHandle;
use cryptoki::session::Session;
use cryptoki_sys::{
    CK_ATTRIBUTE, CK_FUNCTION_LIST, CK_MECHANISM, CK_MECHANISM_TYPE, CK_RSA_PKCS_MGF_TYPE,
    CK_RSA_PKCS_OAEP_PARAMS, CK_ULONG, CKA_VALUE, CKG_MGF1_SHA1, CKG_MGF1_SHA256, CKM_RSA_PKCS,
    CKM_RSA_PKCS_OAEP, CKM_SHA_1, CKM_SHA256, CKU_CONTEXT_SPECIFIC, CKZ_DATA_SPECIFIED,
};
use zeroize::Zeroizing;

/// Longest RSA modulus that Claviger uses, bytes.
const MODULUS_MAX: usize = 512;

/// Functions of the library that [`cryptoki`] has loaded too.
pub(crate) struct Functions {
    list: CK_FUNCTION_LIST,
    /// Keeps the library mapped: the list points into it.
    _library: cryptoki_sys::Pkcs11,
}

/// What the token takes off after RSA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Padding {
    /// OAEP with SHA-1 for label and MGF1; the label is empty.
    OaepSha1,
    /// OAEP with SHA-256.
    OaepSha256,
    /// PKCS#1 v1.5: for FEKs of eCryptfs only.
    Pkcs1V15,
}

/// What a CKA_ALWAYS_AUTHENTICATE key wants between C_DecryptInit and C_Decrypt.
#[derive(Clone, Copy)]
pub(crate) enum ContextLogin<'a> {
    /// Nothing: an ordinary key.
    NotNeeded,
    /// This PIN, once more.
    Pin(&'a [u8]),
    /// The PIN, entered on the reader.
    PinPad,
}

impl Functions {
    /// Maps the library at `path` once more, which only counts it, and takes its function list.
    pub(crate) fn load(path: &Path) -> Result<Self> {
        // SAFETY: loading runs the library's initialisers. It is the file that cryptoki has just
        // loaded, which the configuration names as the one to trust; they have run already.
        let library = unsafe { cryptoki_sys::Pkcs11::new(path) }.map_err(Error::LibraryLoading)?;
        let Ok(function_list) = &library.C_GetFunctionList else {
            return Err(Error::MissingSymbol("C_GetFunctionList"));
        };
        let mut list: *mut CK_FUNCTION_LIST = ptr::null_mut();
        // SAFETY: `list` is a place for a pointer, which is all the function writes (PKCS #11 v2.40
        // section 5.4); it may be called before C_Initialize.
        check(
            unsafe { function_list(&mut list) },
            Function::GetFunctionList,
        )?;
        if list.is_null() {
            return Err(Error::NullFunctionPointer);
        }
        // SAFETY: not null, and the library keeps its list as long as it is mapped. A 3.x library
        // returns its 2.40 list here, which this type lays out.
        let list = unsafe { *list };
        Ok(Self {
            list,
            _library: library,
        })
    }

    /// C_DecryptInit, the login if one is needed, C_Decrypt.
    ///
    /// # Errors
    /// Those of the library. The operation may still be active then (cryptoki cannot cancel it): the
    /// session is not to be used again.
    pub(crate) fn decrypt(
        &self,
        session: &Session,
        key: ObjectHandle,
        padding: Padding,
        ciphertext: &[u8],
        login: ContextLogin<'_>,
    ) -> Result<Zeroizing<Vec<u8>>> {
        // Both live to the end of this function: some libraries keep the pointers, not what they point to.
        let mut parameters = padding.parameters();
        let mut mechanism = mechanism(parameters.as_mut())?;
        self.init(session, key, &mut mechanism)?;
        self.context_login(session, login)?;
        let decrypt = self.list.C_Decrypt.ok_or(Error::NullFunctionPointer)?;
        let mut plaintext = Zeroizing::new(vec![0; MODULUS_MAX]);
        let mut length = count(plaintext.len())?;
        // SAFETY: the session is open and used by this thread alone (`Session` is not Sync). Both
        // buffers are of the lengths given; the library reads the first (the pointer is mutable only
        // by C's habit) and writes at most `length` bytes of the second.
        let code = unsafe {
            decrypt(
                session.handle(),
                ciphertext.as_ptr().cast_mut(),
                count(ciphertext.len())?,
                plaintext.as_mut_ptr(),
                &mut length,
            )
        };
        check(code, Function::Decrypt)?;
        plaintext.truncate(usize::try_from(length)?);
        Ok(plaintext)
    }

    /// C_DecryptInit alone: whether the token takes the mechanism with that key. The session is not
    /// to be used again, since the operation stays active.
    pub(crate) fn decrypt_init(
        &self,
        session: &Session,
        key: ObjectHandle,
        padding: Padding,
    ) -> Result<()> {
        let mut parameters = padding.parameters();
        self.init(session, key, &mut mechanism(parameters.as_mut())?)
    }

    fn init(
        &self,
        session: &Session,
        key: ObjectHandle,
        mechanism: &mut CK_MECHANISM,
    ) -> Result<()> {
        let init = self.list.C_DecryptInit.ok_or(Error::NullFunctionPointer)?;
        // SAFETY: the session is open and used by this thread alone; the mechanism points to parameters
        // of the length it states, which outlive this call and the operation, or else nothing but
        // closing the session follows.
        let code = unsafe { init(session.handle(), mechanism, key.handle()) };
        check(code, Function::DecryptInit)
    }

    fn context_login(&self, session: &Session, login: ContextLogin<'_>) -> Result<()> {
        let (pin, length) = match login {
            ContextLogin::NotNeeded => return Ok(()),
            ContextLogin::Pin(pin) => (pin.as_ptr().cast_mut(), count(pin.len())?),
            ContextLogin::PinPad => (ptr::null_mut(), 0),
        };
        let login = self.list.C_Login.ok_or(Error::NullFunctionPointer)?;
        // SAFETY: the session is open and used by this thread alone; the PIN is `length` bytes that
        // the library only reads, or null, which means the reader's pad.
        let code = unsafe { login(session.handle(), CKU_CONTEXT_SPECIFIC, pin, length) };
        check(code, Function::Login)
    }

    /// Reads CKA_VALUE of `object` into the beginning of `out`; how many bytes it has.
    pub(crate) fn read_value(
        &self,
        session: &Session,
        object: ObjectHandle,
        out: &mut [u8],
    ) -> Result<usize> {
        let read = self
            .list
            .C_GetAttributeValue
            .ok_or(Error::NullFunctionPointer)?;
        let mut attribute = CK_ATTRIBUTE {
            type_: CKA_VALUE,
            pValue: out.as_mut_ptr().cast::<c_void>(),
            ulValueLen: count(out.len())?,
        };
        // SAFETY: one attribute, whose value has room for the length it states; the session is open
        // and used by this thread alone.
        let code = unsafe { read(session.handle(), object.handle(), &mut attribute, 1) };
        check(code, Function::GetAttributeValue)?;
        Ok(usize::try_from(attribute.ulValueLen)?)
    }
}

impl Padding {
    /// Those of OAEP; PKCS#1 v1.5 has none.
    fn parameters(self) -> Option<CK_RSA_PKCS_OAEP_PARAMS> {
        let (hash, mgf): (CK_MECHANISM_TYPE, CK_RSA_PKCS_MGF_TYPE) = match self {
            Self::OaepSha1 => (CKM_SHA_1, CKG_MGF1_SHA1),
            Self::OaepSha256 => (CKM_SHA256, CKG_MGF1_SHA256),
            Self::Pkcs1V15 => return None,
        };
        Some(CK_RSA_PKCS_OAEP_PARAMS {
            hashAlg: hash,
            mgf,
            source: CKZ_DATA_SPECIFIED,
            pSourceData: ptr::null_mut(),
            ulSourceDataLen: 0,
        })
    }
}

/// OAEP with `parameters`, to which it points; PKCS#1 v1.5 without.
fn mechanism(parameters: Option<&mut CK_RSA_PKCS_OAEP_PARAMS>) -> Result<CK_MECHANISM> {
    Ok(match parameters {
        Some(parameters) => CK_MECHANISM {
            mechanism: CKM_RSA_PKCS_OAEP,
            pParameter: ptr::from_mut(parameters).cast::<c_void>(),
            ulParameterLen: count(size_of::<CK_RSA_PKCS_OAEP_PARAMS>())?,
        },
        None => CK_MECHANISM {
            mechanism: CKM_RSA_PKCS,
            pParameter: ptr::null_mut(),
            ulParameterLen: 0,
        },
    })
}

fn check(code: cryptoki_sys::CK_RV, function: Function) -> Result<()> {
    Rv::from(code).into_result(function)
}

fn count(length: usize) -> Result<CK_ULONG> {
    Ok(CK_ULONG::try_from(length)?)
}
