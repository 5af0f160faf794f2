//! The tokens of the library: which are where, their sessions, their logins.
//!
//! Recovery has one recipe, for removal, re-insertion, suspend and a driver's reset alike: close the
//! token's sessions, list the slots, match the token by what it is (never by its slot), open, and
//! find the objects anew. No PIN is kept, so a token that wants one wants it again.

mod lease;
mod login;
mod shelf;

use std::sync::{Mutex, MutexGuard, PoisonError};

use claviger_pki::module::{ModuleError, PinState};
use claviger_pki::p11_uri::{TokenFacts, Uri};
use cryptoki::error::{Error, RvError};
use cryptoki::slot::{Slot, TokenInfo};

pub(crate) use self::lease::Lease;
pub(crate) use self::shelf::name;

use self::shelf::{Place, Shelf};
use crate::library::{Library, backend, describe};
use crate::pin;

/// All tokens ever seen, and the library that reaches them.
pub(crate) struct Tokens {
    /// Held for changes of state, C_Login among them; never during an operation with a key.
    shelf: Mutex<Shelf>,
    /// After the shelf, whose sessions are to be closed before C_Finalize.
    pub(crate) library: Library,
    /// Sessions kept open a token, at most.
    idle_max: usize,
}

/// A token that was seen just now.
pub(crate) struct Seen {
    pub(crate) facts: TokenFacts,
    pub(crate) info: TokenInfo,
    index: usize,
}

/// Whether a lease is of use without a login.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    Anything,
    Login,
}

/// More recoveries than this without anything working in between: the library itself is stuck.
const RECOVERIES_MAX: u32 = 3;

impl Tokens {
    pub(crate) fn new(library: Library, idle_max: usize) -> Self {
        Self {
            library,
            shelf: Mutex::default(),
            idle_max,
        }
    }

    /// Tokens that `uri` can mean, looked up just now.
    pub(crate) fn present(&self, uri: &Uri) -> Result<Vec<Seen>, ModuleError> {
        let mut shelf = self.lock();
        self.refresh(&mut shelf)?;
        let mut seen = self.scan(&mut shelf)?;
        seen.retain(|token| uri.names_token(&token.facts));
        Ok(seen)
    }

    /// A session with the one token that `uri` means.
    ///
    /// # Errors
    /// `Absent`; `BadRequest` if it means several; with [`Need::Login`], `PinNeeded` or `PinBlocked`.
    pub(crate) fn lease(&self, uri: &Uri, need: Need) -> Result<Lease<'_>, ModuleError> {
        let mut shelf = self.lock();
        // The way of every operation but the first: nothing is looked up.
        if let Some(index) = shelf.known(uri)
            && (need == Need::Anything || shelf.place(index).is_usable())
        {
            match self.lend(&mut shelf, index) {
                Ok(lease) => return Ok(lease),
                Err(error) => self.recover(&mut shelf, index, &error),
            }
        }
        let token = self.seek(&mut shelf, uri)?;
        let place = shelf.place(token.index);
        if need == Need::Login && !place.is_usable() {
            let state = pin::state(&token.info);
            let token = place.name();
            return Err(match state {
                PinState::Blocked => ModuleError::PinBlocked { token },
                _ => ModuleError::PinNeeded { token, state },
            });
        }
        self.lend(&mut shelf, token.index).map_err(|error| {
            self.recover(&mut shelf, token.index, &error);
            backend(&error)
        })
    }

    /// Where the token of a lease is, unless it has gone.
    pub(crate) fn slot(&self, index: usize) -> Option<Slot> {
        self.lock().place(index).slot()
    }

    fn lock(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The one token that `uri` means, looked up just now.
    fn seek(&self, shelf: &mut Shelf, uri: &Uri) -> Result<Seen, ModuleError> {
        let mut seen = self.scan(shelf)?;
        seen.retain(|token| uri.names_token(&token.facts));
        if seen.is_empty() && self.refresh(shelf)? == Refreshed::Yes {
            seen = self.scan(shelf)?;
            seen.retain(|token| uri.names_token(&token.facts));
        }
        match seen.len() {
            0 => Err(absent(uri)),
            1 => Ok(seen.remove(0)),
            _ => {
                let names: Vec<_> = seen.iter().map(|token| name(&token.facts)).collect();
                let names = names.join(", ");
                Err(ModuleError::BadRequest(format!(
                    "{uri} means several tokens: {names}"
                )))
            }
        }
    }

    /// C_GetSlotList and what follows from it for every token.
    fn scan(&self, shelf: &mut Shelf) -> Result<Vec<Seen>, ModuleError> {
        let context = &self.library.context;
        let slots = match context.get_slots_with_token() {
            Ok(slots) => slots,
            Err(error) if !shelf.is_idle() => return Err(backend(&error)),
            // The last start failed.
            Err(Error::Pkcs11(RvError::CryptokiNotInitialized, _)) => {
                self.library.start_anew()?;
                let listed = context.get_slots_with_token();
                listed.map_err(|error| backend(&error))?
            }
            // It worked, and now it does not: nothing short of a new process is known to help.
            Err(error) if shelf.has_seen_tokens() => self.library.give_up(&describe(&error)),
            // It never has: a service may be missing (ykcs11 says so without pcscd).
            Err(_) => {
                self.library.start_anew()?;
                let listed = context.get_slots_with_token();
                listed.map_err(|error| backend(&error))?
            }
        };
        let mut seen = Vec::new();
        for slot in slots {
            match self.look(slot) {
                Ok(Some((facts, info))) => {
                    let index = shelf.found(facts.clone(), &info, slot);
                    seen.push(Seen { facts, info, index });
                }
                Ok(None) => {}
                // One that was pulled just now, or that is broken: not here. Other tokens still are.
                Err(error) => {
                    tracing::debug!(%slot, error = describe(&error), "slot passed over");
                }
            }
        }
        for (index, place) in shelf.places.iter_mut().enumerate() {
            if place.seat.is_present() && !seen.iter().any(|token| token.index == index) {
                tracing::info!(token = place.name(), "token gone");
                place.gone();
            }
        }
        Ok(seen)
    }

    fn look(&self, slot: Slot) -> Result<Option<(TokenFacts, TokenInfo)>, Error> {
        let info = self.library.context.get_token_info(slot)?;
        // SoftHSM counts the empty slot for the next new token as one with a token.
        if !info.token_initialized() {
            return Ok(None);
        }
        let slot_info = self.library.context.get_slot_info(slot)?;
        let facts = TokenFacts {
            label: info.label().to_owned(),
            manufacturer: info.manufacturer_id().to_owned(),
            serial: info.serial_number().to_owned(),
            model: info.model().to_owned(),
            slot_manufacturer: slot_info.manufacturer_id().to_owned(),
            slot_description: slot_info.slot_description().to_owned(),
            slot_id: slot.id(),
            library_manufacturer: self.library.manufacturer.clone(),
            library_description: self.library.description.clone(),
            library_version: self.library.version,
        };
        Ok(Some((facts, info)))
    }

    /// Starts a library anew that would not see an insertion otherwise, if nobody would lose by it.
    ///
    /// A library with removable slots tells of insertions in C_GetSlotList. One without (SoftHSM, TPM)
    /// looks for its tokens in C_Initialize only; worse, a SoftHSM token whose folder was moved away
    /// and back answers OBJECT_HANDLE_INVALID until then. As long as some token is logged in it stays as
    /// it is: a token that is absent must not cost another one its login.
    fn refresh(&self, shelf: &mut Shelf) -> Result<Refreshed, ModuleError> {
        if !shelf.is_idle() || self.sees_insertions() {
            return Ok(Refreshed::No);
        }
        shelf.places.iter_mut().for_each(Place::gone);
        self.library.start_anew()?;
        Ok(Refreshed::Yes)
    }

    fn sees_insertions(&self) -> bool {
        let context = &self.library.context;
        let slots = context.get_all_slots().unwrap_or_default();
        slots.into_iter().any(|slot| {
            context
                .get_slot_info(slot)
                .is_ok_and(|s| s.removable_device())
        })
    }

    /// First step of the recipe. The others come with the next lease.
    fn recover(&self, shelf: &mut Shelf, index: usize, error: &Error) {
        shelf.recoveries += 1;
        let place = shelf.place(index);
        tracing::warn!(
            token = place.name(),
            error = describe(error),
            "closing its sessions"
        );
        place.gone();
        if shelf.recoveries > RECOVERIES_MAX && shelf.is_idle() {
            self.library
                .give_up("nothing works after it was opened anew");
        }
    }
}

#[derive(PartialEq, Eq)]
enum Refreshed {
    Yes,
    No,
}

fn absent(uri: &Uri) -> ModuleError {
    ModuleError::Absent(uri.to_string())
}
