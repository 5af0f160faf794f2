//! What is known of the tokens, under one lock.

use claviger_pki::module::{ModuleError, PinState};
use claviger_pki::p11_uri::{TokenFacts, Uri};
use cryptoki::slot::{Slot, TokenInfo};

use super::lease::OpenSession;
use crate::pin::{self, FinalTry, HeldPin, RefusedPins};
use crate::seat::{Era, Event, Seat};

/// Every token that was ever seen.
#[derive(Default)]
pub(super) struct Shelf {
    /// Only ever grows, so that an index stays good.
    pub(super) places: Vec<Place>,
    /// Sessions in use, of all tokens.
    pub(super) lent: usize,
    /// How many eras there have been.
    eras: u64,
    /// Recoveries since something last worked.
    pub(super) recoveries: u32,
}

/// One token, there or not.
pub(super) struct Place {
    pub(super) facts: TokenFacts,
    login: LoginNeed,
    pub(super) seat: Seat<OpenSession>,
    pub(super) refused: RefusedPins,
    pub(super) held: Option<HeldPin>,
}

/// What a token wants before its private keys can be used.
#[derive(Clone, Copy, PartialEq, Eq)]
enum LoginNeed {
    Nothing,
    Pin,
    /// The PIN may be entered on the reader: an empty one means that.
    PinOrPad,
}

impl Shelf {
    pub(super) fn place(&mut self, index: usize) -> &mut Place {
        self.places
            .get_mut(index)
            .expect("places are never removed")
    }

    /// The one present token that `uri` can mean, if it is one.
    pub(super) fn known(&self, uri: &Uri) -> Option<usize> {
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

    pub(super) fn found(&mut self, facts: TokenFacts, info: &TokenInfo, slot: Slot) -> usize {
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
    pub(super) fn is_idle(&self) -> bool {
        self.lent == 0 && !self.places.iter().any(|place| place.seat.is_logged_in())
    }

    /// Whether the library has shown any token in this process.
    pub(super) fn has_seen_tokens(&self) -> bool {
        !self.places.is_empty()
    }

    pub(super) fn new_era(&mut self) -> Era {
        self.eras += 1;
        Era(self.eras)
    }
}

impl Place {
    pub(super) fn name(&self) -> String {
        name(&self.facts)
    }

    pub(super) fn happens(&mut self, event: Event<OpenSession>) {
        let seat = core::mem::replace(&mut self.seat, Seat::Absent);
        self.seat = seat.on(event);
    }

    pub(super) fn gone(&mut self) {
        self.happens(Event::Gone);
        self.held = None;
        // Not `refused`: a card pulled and put back is no reason to send a refused PIN again.
    }

    pub(super) fn slot(&mut self) -> Option<Slot> {
        self.seat.sessions().map(|sessions| sessions.slot)
    }

    /// Whether its private keys can be used now.
    pub(super) fn is_usable(&self) -> bool {
        self.seat.is_logged_in() || (self.login == LoginNeed::Nothing && self.seat.is_present())
    }

    /// Refuses what is not to be sent.
    pub(super) fn check(
        &self,
        pin: &[u8],
        state: PinState,
        final_try: FinalTry,
    ) -> Result<(), ModuleError> {
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
