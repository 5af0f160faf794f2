//! A PIV smartcard as people have it: the applet of a product, behind pcscd, OpenSC and ykcs11.

#![allow(clippy::unwrap_used)] // In a helper of a story, as in the story itself, it is an assertion.

mod opensc;
mod removal;
mod sharing;
mod table;
mod ykcs11;
