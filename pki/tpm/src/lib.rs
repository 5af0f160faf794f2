//! claviger-pki-tpm
