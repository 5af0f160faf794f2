//! What an error of a private-key operation says of the ciphertext and of the token.

use cryptoki::context::Function;
use cryptoki::error::{Error, RvError};

/// What to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The input does not decrypt.
    Ciphertext,
    /// The token cannot do that operation with that key.
    Mechanism,
    /// The session, an object handle or the device is gone: everything is to be opened anew.
    Gone,
    /// Codes that libraries give for a bad ciphertext and for a broken device alike (SoftHSM answers
    /// garbage with GENERAL_ERROR): the token has to prove that it still works.
    Unclear,
}

impl Fault {
    pub(crate) fn of(error: &Error) -> Self {
        use RvError as R;
        let Error::Pkcs11(code, function) = error else {
            return Self::Unclear;
        };
        match code {
            // No ciphertext has been shown to it yet (SoftHSM 2.6 refuses OAEP with SHA-256 so).
            R::ArgumentsBad | R::MechanismParamInvalid
                if matches!(function, Function::DecryptInit) =>
            {
                Self::Mechanism
            }
            R::EncryptedDataInvalid
            | R::EncryptedDataLenRange
            | R::DataInvalid
            | R::DataLenRange => Self::Ciphertext,
            R::MechanismInvalid
            | R::KeyTypeInconsistent
            | R::KeySizeRange
            | R::KeyFunctionNotPermitted
            | R::CurveNotSupported
            | R::FunctionNotSupported => Self::Mechanism,
            R::CryptokiNotInitialized
            | R::DeviceError
            | R::DeviceMemory
            | R::DeviceRemoved
            | R::KeyHandleInvalid
            | R::ObjectHandleInvalid
            | R::OperationActive
            | R::OperationNotInitialized
            | R::SessionClosed
            | R::SessionCount
            | R::SessionHandleInvalid
            | R::SlotIdInvalid
            | R::TokenNotPresent
            | R::TokenNotRecognized
            | R::UserNotLoggedIn => Self::Gone,
            _ => Self::Unclear,
        }
    }
}

/// What a refused login says of the PIN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Not this PIN.
    Pin,
    /// No PIN any more.
    Locked,
    /// The library holds that somebody is logged in.
    AlreadyLoggedIn,
    /// There is no login for now, whatever the PIN: it has expired, none was ever set, or the person at
    /// the pad pressed cancel. The token is well.
    Declined,
    /// Nothing about the PIN.
    Other,
}

impl Refusal {
    pub(crate) fn of(error: &Error) -> Self {
        use RvError as R;
        let Error::Pkcs11(code, _) = error else {
            return Self::Other;
        };
        match code {
            R::PinIncorrect | R::PinInvalid | R::PinLenRange => Self::Pin,
            R::PinLocked => Self::Locked,
            R::UserAlreadyLoggedIn => Self::AlreadyLoggedIn,
            R::Cancel
            | R::FunctionCanceled
            | R::FunctionRejected
            | R::PinExpired
            | R::UserPinNotInitialized => Self::Declined,
            _ => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_softhsm_says_of_garbage_is_held_against_neither_side_at_once() {
        let fault = |code| Fault::of(&Error::Pkcs11(code, Function::Decrypt));
        assert_eq!(fault(RvError::GeneralError), Fault::Unclear);
        assert_eq!(fault(RvError::EncryptedDataInvalid), Fault::Ciphertext);
        assert_eq!(fault(RvError::DeviceRemoved), Fault::Gone);
        assert_eq!(fault(RvError::VendorDefined(0x8000_0001)), Fault::Unclear);
        assert_eq!(fault(RvError::ArgumentsBad), Fault::Unclear);
        let refused = Error::Pkcs11(RvError::ArgumentsBad, Function::DecryptInit);
        assert_eq!(Fault::of(&refused), Fault::Mechanism);
    }
}
