//! The promises of the crate, kept over both carriers, by real processes and real second users.
//!
//! Every test runs itself again inside mount, network and pid namespaces of its own: nothing it
//! starts or leaves behind outlives it.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod attacks;
mod bounds;
mod calls;
mod frames;
mod harness;
mod raw;
mod refused;
mod roles;
mod stories;
mod successors;

/// Makes two tests of each function: over netlink, and over unix.
macro_rules! over_both_carriers {
    ($($name:ident)*) => {
        mod netlink {
            $(#[test]
            fn $name() {
                $crate::harness::enter(module_path!(), stringify!($name), || {
                    super::$name(claviger_callout::CarrierKind::Netlink)
                });
            })*
        }
        mod unix {
            $(#[test]
            fn $name() {
                $crate::harness::enter(module_path!(), stringify!($name), || {
                    super::$name(claviger_callout::CarrierKind::Unix)
                });
            })*
        }
    };
}

/// Makes one test of each function.
macro_rules! once {
    ($($name:ident)*) => {
        mod once {
            $(#[test]
            fn $name() {
                $crate::harness::enter(module_path!(), stringify!($name), super::$name);
            })*
        }
    };
}

pub(crate) use {once, over_both_carriers};
