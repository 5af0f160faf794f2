//! Logging in and out, and the PINs that keys want each time.

use claviger_pki::module::{ModuleError, PinState};
use claviger_pki::p11_uri::Uri;
use cryptoki::error::Error;
use cryptoki::session::{Session, UserType};
use cryptoki::slot::Slot;
use cryptoki::types::RawAuthPin;

use super::lease::{Lease, OpenSession};
use super::shelf::Place;
use super::{Tokens, absent};
use crate::fault::Refusal;
use crate::library::{backend, describe};
use crate::pin::{self, FinalTry, HeldPin};
use crate::seat::{Event, Seat};

impl Tokens {
    /// Logs in. With a token that is logged in or wants no login, nothing happens: no try is spent.
    ///
    /// # Errors
    /// `PinWrong` once the token refuses the PIN, and at once, without asking it, for one that it has
    /// refused before; `PinNeeded` if the flags forbid to try; `PinBlocked`.
    pub(crate) fn login(&self, uri: &Uri, pin: &[u8]) -> Result<(), ModuleError> {
        let mut shelf = self.lock();
        let token = self.seek(&mut shelf, uri)?;
        let place = shelf.place(token.index);
        if place.is_usable() {
            return Ok(());
        }
        place.check(pin, pin::state(&token.info), FinalTry::asked_for(uri))?;
        let Some(slot) = place.slot() else {
            return Err(absent(uri));
        };
        match self.open_logged_in(slot, pin) {
            Ok(session) => {
                place.refused.clear();
                place.happens(Event::LoggedIn(OpenSession::new(session)));
                tracing::info!(token = place.name(), "logged in");
                Ok(())
            }
            Err(error) => match self.refused(place, slot, pin, &error) {
                Some(refusal) => Err(refusal),
                None => {
                    self.recover(&mut shelf, token.index, &error);
                    Err(backend(&error))
                }
            },
        }
    }

    fn open_logged_in(&self, slot: Slot, pin: &[u8]) -> Result<Session, Error> {
        let session = self.library.context.open_ro_session(slot)?;
        let login = || {
            if pin.is_empty() {
                session.login(UserType::User, None)
            } else {
                session.login_with_raw(UserType::User, &RawAuthPin::new(Box::new(pin.to_vec())))
            }
        };
        let mut result = login();
        if let Err(error) = &result
            && Refusal::of(error) == Refusal::AlreadyLoggedIn
        {
            // After an unseen quick swap of the card. Nobody has looked at the PIN yet, and it must
            // be looked at: so out and in again. This is not sending a refused PIN twice.
            session.logout()?;
            result = login();
        }
        result.map(|()| session)
    }

    /// What the error of a login means, if the token is well; a refused PIN is remembered.
    fn refused(
        &self,
        place: &mut Place,
        slot: Slot,
        pin: &[u8],
        error: &Error,
    ) -> Option<ModuleError> {
        let token = place.name();
        match Refusal::of(error) {
            Refusal::Pin => {
                place.refused.add(pin);
                // If even that fails, the next call will find out why.
                let info = self.library.context.get_token_info(slot);
                let state = info.map_or(PinState::Ok, |info| pin::state(&info));
                tracing::info!(token, ?state, "PIN refused");
                Some(ModuleError::PinWrong { token, state })
            }
            Refusal::Locked => Some(ModuleError::PinBlocked { token }),
            Refusal::Declined => Some(backend(error)),
            Refusal::AlreadyLoggedIn | Refusal::Other => None,
        }
    }

    /// Keeps a PIN for the next operation of a key that wants it each time.
    pub(crate) fn hold_pin(&self, lease: &Lease<'_>, pin: HeldPin) {
        self.lock().place(lease.index).held = Some(pin);
    }

    /// Takes the PIN that was kept for key `id`; `None` if it is to be entered on the reader.
    pub(crate) fn take_pin(
        &self,
        lease: &Lease<'_>,
        id: Option<&[u8]>,
    ) -> Result<Option<HeldPin>, ModuleError> {
        let mut shelf = self.lock();
        let place = shelf.place(lease.index);
        let info = place
            .slot()
            .map(|slot| self.library.context.get_token_info(slot));
        let state = match info {
            Some(Ok(info)) => pin::state(&info),
            Some(Err(error)) => return Err(backend(&error)),
            None => return Err(ModuleError::Absent(place.name())),
        };
        match place.held.take_if(|held| held.key_id.as_deref() == id) {
            Some(held) => {
                place.check(&held.pin, state, held.final_try)?;
                Ok(Some(held))
            }
            None => {
                place.check(&[], state, FinalTry::Spare)?;
                Ok(None)
            }
        }
    }

    /// What a refused context-specific login means.
    pub(crate) fn context_login_refused(
        &self,
        lease: &Lease<'_>,
        pin: &[u8],
        error: &Error,
    ) -> ModuleError {
        let mut shelf = self.lock();
        let place = shelf.place(lease.index);
        let refusal = place
            .slot()
            .and_then(|slot| self.refused(place, slot, pin, error));
        refusal.unwrap_or_else(|| backend(error))
    }

    /// Ends all logins, closes all sessions, forgets all PINs.
    pub(crate) fn logout(&self) {
        let mut shelf = self.lock();
        for index in 0..shelf.places.len() {
            let era = shelf.new_era();
            let place = shelf.place(index);
            if let Seat::LoggedIn { anchor, .. } = &place.seat {
                // All sessions of this process on the token are ours, and those in use are to lose
                // their login too: that is what C_Logout does and closing the anchor does not.
                if let Err(error) = anchor.session.logout() {
                    tracing::warn!(token = place.name(), error = describe(&error), "C_Logout");
                }
            }
            place.happens(Event::LoggedOut(era));
            place.refused.clear();
            place.held = None;
        }
    }
}
