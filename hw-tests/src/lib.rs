//! Stand-ins for hardware and people, for stories told end to end.
//!
//! A story runs as root in mount, network and pid namespaces of its own ([`story!`]), so that nothing
//! is left behind even if it is killed. In them [`World`] makes users with homes and runtime folders;
//! [`SoftHsm`] is a smartcard and [`Swtpm`] a TPM; [`PivCard`] is a smartcard in a reader. The programs are
//! those that cargo built beside the test. [`Guest`] is a machine with a kernel of its own, for what needs
//! one.

mod display;
mod guest;
mod isolation;
mod observed;
mod piv;
mod process;
mod run;
mod service_manager;
mod shell;
mod softhsm;
mod swtpm;
mod terminal;
mod user;
mod wait;
mod world;

pub use display::{Display, Window};
pub use guest::{Guest, Ran};
pub use isolation::{Entered, enter, rerun, tell};
pub use piv::{PIV_PIN, PivCard, PivKey};
pub use process::{Process, Searched};
pub use run::{Finished, Run};
pub use service_manager::ServiceManager;
pub use shell::{Said, Shell};
pub use softhsm::{PIN, SoftHsm};
pub use swtpm::Swtpm;
pub use terminal::Terminal;
pub use user::User;
pub use wait::wait_until;
pub use world::{PROGRAMS, World, keep_changes_of_etc, show_programs};

/// Declares a test that runs in namespaces of its own.
///
/// ```text
/// story! {
///     /// The promise, as the documentation words it.
///     fn a_card_opens_the_folder(world) { … }
/// }
/// ```
#[macro_export]
macro_rules! story {
    ($(#[$meta:meta])* fn $name:ident($world:ident) $body:block) => {
        $(#[$meta])*
        #[test]
        fn $name() {
            fn body($world: &mut $crate::World) $body
            let path = concat!(module_path!(), "::", stringify!($name));
            $crate::tell(path, body);
        }
    };
}
