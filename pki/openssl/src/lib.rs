//! claviger-pki-openssl
