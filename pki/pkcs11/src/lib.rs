//! claviger-pki-pkcs11
