//! The tokens of the library: which are where, their sessions, their logins.
//!
//! Recovery has one recipe, for removal, re-insertion, suspend and a driver's reset alike: close the
//! token's sessions, list the slots, match the token by what it is (never by its slot), open, and
//! find the objects anew. No PIN is kept, so a token that wants one wants it again.

use std::sync::{Mutex, MutexGuard, PoisonError};

use claviger_pki::key::PublicKey;
use claviger_pki::module::{ModuleError, PinState};
use claviger_pki::p11_uri::{TokenFacts, Uri};
use cryptoki::error::{Error, RvError};
use cryptoki::session::{Session, UserType};
use cryptoki::slot::{Slot, TokenInfo};
use cryptoki::types::RawAuthPin;

use crate::fault::Refusal;
use crate::key::HeldKey;
use crate::library::{Library, backend, describe};
use crate::pin::{self, FinalTry, HeldPin, RefusedPins};
use crate::seat::{Era, Event, Seat};

/// All tokens ever seen, and the library that reaches them.
pub(crate) struct Tokens {
    pub(crate) library: Library,
    /// Held for changes of state, C_Login among them; never during an operation with a key.
    shelf: Mutex<Shelf>,
    /// Sessions kept open a token, at most.
    idle_max: usize,
}

struct Shelf {
    /// Only ever grows, so that an index stays good.
    places: Vec<Place>,
    /// Sessions in use, of all tokens.
    lent: usize,
    /// How many eras there have been.
    eras: u64,
    /// Recoveries since something last worked.
    recoveries: u32,
}

struct Place {
    facts: TokenFacts,
    login: LoginNeed,
    seat: Seat<OpenSession>,
    refused: RefusedPins,
    held: Option<HeldPin>,
}

/// What a token wants before its private keys can be used.
#[derive(Clone, Copy, PartialEq, Eq)]
enum LoginNeed {
    Nothing,
    Pin,
    /// The PIN may be entered on the reader: an empty one means that.
    PinOrPad,
}

/// A session and what has been found over it.
pub(crate) struct OpenSession {
    session: Session,
    /// Few: a linear search beats hashing a public key.
    keys: Vec<(KeyName, HeldKey)>,
}

/// What a held key was found by.
#[derive(PartialEq, Eq)]
struct KeyName {
    id: Option<Vec<u8>>,
    object: Option<String>,
    public_key: PublicKey,
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
        let shelf = Shelf {
            places: Vec::new(),
            lent: 0,
            eras: 0,
            recoveries: 0,
        };
        Self {
            library,
            shelf: Mutex::new(shelf),
            idle_max,
        }
    }

    /// Tokens that `uri` can mean, looked up just now.
    pub(crate) fn present(&self, uri: &Uri) -> Result<Vec<Seen>, ModuleError> {
        let mut shelf = self.lock();
        self.refresh(&mut shelf);
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

    /// A session that may write, with a token that is logged in. It is closed afterwards.
    pub(crate) fn lease_to_write(&self, uri: &Uri) -> Result<Lease<'_>, ModuleError> {
        let mut lease = self.lease(uri, Need::Login)?;
        let slot = self.slot(lease.index).ok_or_else(|| absent(uri))?;
        let session = self
            .library
            .context
            .open_rw_session(slot)
            .map_err(|e| backend(&e))?;
        let old = lease.open.replace(OpenSession::new(session));
        lease.fate = Fate::Close;
        drop(old);
        Ok(lease)
    }

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

    /// What the error of a login says of the PIN, if anything; the PIN is remembered as refused.
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

    /// Where the token of a lease is, unless it has gone.
    pub(crate) fn slot(&self, index: usize) -> Option<Slot> {
        self.lock().place(index).slot()
    }

    fn lock(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lend(&self, shelf: &mut Shelf, index: usize) -> Result<Lease<'_>, Error> {
        let place = shelf.place(index);
        let name_gone = || {
            Error::Pkcs11(
                RvError::TokenNotPresent,
                cryptoki::context::Function::OpenSession,
            )
        };
        let sessions = place.seat.sessions().ok_or_else(name_gone)?;
        let open = match sessions.idle.pop() {
            Some(open) => open,
            None => OpenSession::new(self.library.context.open_ro_session(sessions.slot)?),
        };
        let era = sessions.era;
        shelf.lent += 1;
        Ok(Lease {
            tokens: self,
            index,
            era,
            open: Some(open),
            fate: Fate::Keep,
        })
    }

    /// The one token that `uri` means, looked up just now.
    fn seek(&self, shelf: &mut Shelf, uri: &Uri) -> Result<Seen, ModuleError> {
        let mut seen = self.scan(shelf)?;
        seen.retain(|token| uri.names_token(&token.facts));
        if seen.is_empty() && self.refresh(shelf) == Refreshed::Yes {
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
            Err(error) if shelf.is_idle() => self.library.give_up(&describe(&error)),
            Err(error) => return Err(backend(&error)),
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
    fn refresh(&self, shelf: &mut Shelf) -> Refreshed {
        if !shelf.is_idle() || self.sees_insertions() {
            return Refreshed::No;
        }
        shelf.places.iter_mut().for_each(Place::gone);
        self.library.start_anew();
        Refreshed::Yes
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

impl Shelf {
    fn place(&mut self, index: usize) -> &mut Place {
        self.places
            .get_mut(index)
            .expect("places are never removed")
    }

    /// The one present token that `uri` can mean, if it is one.
    fn known(&self, uri: &Uri) -> Option<usize> {
        let named = |place: &&Place| place.seat.is_present() && uri.names_token(&place.facts);
        let mut matching = self
            .places
            .iter()
            .enumerate()
            .filter(|(_, place)| named(place));
        match (matching.next(), matching.next()) {
            (Some((index, _)), None) => Some(index),
            _ => None,
        }
    }

    fn found(&mut self, facts: TokenFacts, info: &TokenInfo, slot: Slot) -> usize {
        let era = self.new_era();
        let login = match (info.login_required(), info.protected_authentication_path()) {
            (false, _) => LoginNeed::Nothing,
            (true, false) => LoginNeed::Pin,
            (true, true) => LoginNeed::PinOrPad,
        };
        let index = self
            .places
            .iter()
            .position(|place| same_token(&place.facts, &facts));
        let index = index.unwrap_or_else(|| {
            self.places.push(Place {
                facts: facts.clone(),
                login,
                seat: Seat::Absent,
                refused: RefusedPins::new(),
                held: None,
            });
            self.places.len() - 1
        });
        let place = self.place(index);
        place.facts = facts;
        place.login = login;
        place.happens(Event::Found { slot, era });
        index
    }

    /// Nobody is logged in and no session is in use: starting anew would take nothing from anybody.
    fn is_idle(&self) -> bool {
        self.lent == 0 && !self.places.iter().any(|place| place.seat.is_logged_in())
    }

    fn new_era(&mut self) -> Era {
        self.eras += 1;
        Era(self.eras)
    }
}

impl Place {
    fn name(&self) -> String {
        name(&self.facts)
    }

    fn happens(&mut self, event: Event<OpenSession>) {
        let seat = core::mem::replace(&mut self.seat, Seat::Absent);
        self.seat = seat.on(event);
    }

    fn gone(&mut self) {
        self.happens(Event::Gone);
        self.held = None;
        // Not `refused`: a card pulled and put back is no reason to send a refused PIN again.
    }

    fn slot(&mut self) -> Option<Slot> {
        self.seat.sessions().map(|sessions| sessions.slot)
    }

    /// Whether its private keys can be used now.
    fn is_usable(&self) -> bool {
        self.seat.is_logged_in() || (self.login == LoginNeed::Nothing && self.seat.is_present())
    }

    /// Refuses what is not to be sent.
    fn check(&self, pin: &[u8], state: PinState, final_try: FinalTry) -> Result<(), ModuleError> {
        pin::check_state(state, final_try, &self.name())?;
        let token = self.name();
        if pin.is_empty() && self.login != LoginNeed::PinOrPad {
            return Err(ModuleError::PinNeeded { token, state });
        }
        // An empty PIN means the pad: what is typed there is new each time.
        if !pin.is_empty() && self.refused.has(pin) {
            return Err(ModuleError::PinWrong { token, state });
        }
        Ok(())
    }
}

impl OpenSession {
    fn new(session: Session) -> Self {
        Self {
            session,
            keys: Vec::new(),
        }
    }
}

/// A session in use. Goes back to its token when dropped, unless an operation failed over it.
pub(crate) struct Lease<'a> {
    tokens: &'a Tokens,
    index: usize,
    era: Era,
    /// There until it is dropped.
    open: Option<OpenSession>,
    fate: Fate,
}

#[derive(PartialEq, Eq)]
enum Fate {
    Keep,
    Close,
}

impl Lease<'_> {
    pub(crate) fn session(&self) -> &Session {
        &self
            .open
            .as_ref()
            .expect("until the lease is dropped")
            .session
    }

    pub(crate) fn library(&self) -> &Library {
        &self.tokens.library
    }

    pub(crate) fn facts(&self) -> TokenFacts {
        self.tokens.lock().place(self.index).facts.clone()
    }

    pub(crate) fn slot(&self) -> Option<Slot> {
        self.tokens.slot(self.index)
    }

    /// The key that was found over this session before.
    pub(crate) fn known_key(&self, uri: &Uri, public_key: &PublicKey) -> Option<HeldKey> {
        let open = self.open.as_ref()?;
        let named = |name: &KeyName| {
            name.id == uri.id && name.object == uri.object && name.public_key == *public_key
        };
        open.keys
            .iter()
            .find(|(name, _)| named(name))
            .map(|(_, key)| *key)
    }

    pub(crate) fn remember_key(&mut self, uri: &Uri, public_key: &PublicKey, key: HeldKey) {
        if let Some(open) = &mut self.open {
            let public_key = public_key.clone();
            let name = KeyName {
                id: uri.id.clone(),
                object: uri.object.clone(),
                public_key,
            };
            open.keys.push((name, key));
        }
    }

    /// The session is to be closed: an operation failed over it and may still be active.
    pub(crate) fn spoil(mut self) {
        self.fate = Fate::Close;
    }

    /// The same, and the token's other sessions too.
    pub(crate) fn lost(mut self, error: &Error) {
        self.fate = Fate::Close;
        let (tokens, index, era) = (self.tokens, self.index, self.era);
        drop(self);
        let mut shelf = tokens.lock();
        // Another thread may have recovered it already.
        if shelf
            .place(index)
            .seat
            .sessions()
            .is_some_and(|sessions| sessions.era == era)
        {
            tokens.recover(&mut shelf, index, error);
        }
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        let mut shelf = self.tokens.lock();
        shelf.lent -= 1;
        let idle_max = self.tokens.idle_max;
        let sessions = shelf.place(self.index).seat.sessions();
        let open = self.open.take();
        match sessions.filter(|sessions| sessions.era == self.era && sessions.idle.len() < idle_max)
        {
            Some(sessions) if self.fate == Fate::Keep => {
                sessions.idle.extend(open);
                shelf.recoveries = 0;
            }
            // Closed with the shelf held: after it, the library may be started anew, and a handle of
            // before could name a session of somebody else.
            _ => drop(open),
        }
    }
}

/// How a token is named to people.
pub(crate) fn name(facts: &TokenFacts) -> String {
    let label = if facts.label.is_empty() {
        &facts.model
    } else {
        &facts.label
    };
    format!("token \"{label}\" (serial {})", facts.serial)
}

fn same_token(a: &TokenFacts, b: &TokenFacts) -> bool {
    (&a.serial, &a.label, &a.model, &a.manufacturer)
        == (&b.serial, &b.label, &b.model, &b.manufacturer)
}

fn absent(uri: &Uri) -> ModuleError {
    ModuleError::Absent(uri.to_string())
}
