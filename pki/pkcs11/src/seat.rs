//! The login state of one token.

use cryptoki::slot::Slot;

/// Where a token is, who is logged in, and which sessions wait to be used. `S` is a session, closed
/// when it is dropped.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Seat<S> {
    /// In no slot, as far as was seen.
    Absent,
    /// In a slot; nobody is logged in.
    Public(Sessions<S>),
    /// Logged in.
    LoggedIn {
        /// Never used for an operation: a failed one costs its session, and closing the last session
        /// logs out (PKCS #11 v2.40 section 5.6, C_CloseSession).
        anchor: S,
        sessions: Sessions<S>,
    },
}

/// Sessions of one token that nobody uses just now.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Sessions<S> {
    pub(crate) slot: Slot,
    /// Sessions and handles of another era are void, even if the token is the same.
    pub(crate) era: Era,
    pub(crate) idle: Vec<S>,
}

/// Counts insertions, logouts and recoveries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Era(pub(crate) u64);

/// What happens to a token.
#[derive(Debug)]
pub(crate) enum Event<S> {
    /// It was seen in this slot. `era` counts if that is news.
    Found { slot: Slot, era: Era },
    /// It was not seen, or an error says that it is gone.
    Gone,
    /// A login over this session succeeded.
    LoggedIn(S),
    /// The login ended; what comes is a new era.
    LoggedOut(Era),
}

impl<S> Seat<S> {
    /// Total: every event is answered in every state. What a state owned and the next one does not
    /// is dropped, which closes sessions.
    pub(crate) fn on(self, event: Event<S>) -> Self {
        use Event as E;
        match (self, event) {
            (_, E::Gone) => Self::Absent,
            (Self::Public(sessions), E::Found { slot, .. }) if sessions.slot == slot => {
                Self::Public(sessions)
            }
            (Self::LoggedIn { anchor, sessions }, E::Found { slot, .. })
                if sessions.slot == slot =>
            {
                Self::LoggedIn { anchor, sessions }
            }
            // New, or moved to another slot: then it was out in between, and its login is gone.
            (_, E::Found { slot, era }) => Self::Public(Sessions::new(slot, era)),
            (Self::Public(sessions) | Self::LoggedIn { sessions, .. }, E::LoggedIn(anchor)) => {
                Self::LoggedIn { anchor, sessions }
            }
            (Self::LoggedIn { sessions, .. }, E::LoggedOut(era)) => {
                Self::Public(Sessions::new(sessions.slot, era))
            }
            (Self::Public(sessions), E::LoggedOut(_)) => Self::Public(sessions),
            (Self::Absent, E::LoggedIn(_) | E::LoggedOut(_)) => Self::Absent,
        }
    }

    /// Its sessions, if it is present.
    pub(crate) fn sessions(&mut self) -> Option<&mut Sessions<S>> {
        match self {
            Self::Absent => None,
            Self::Public(sessions) | Self::LoggedIn { sessions, .. } => Some(sessions),
        }
    }

    /// Whether somebody is logged in.
    pub(crate) fn is_logged_in(&self) -> bool {
        matches!(self, Self::LoggedIn { .. })
    }

    /// Whether it is present.
    pub(crate) fn is_present(&self) -> bool {
        !matches!(self, Self::Absent)
    }
}

impl<S> Sessions<S> {
    fn new(slot: Slot, era: Era) -> Self {
        Self {
            slot,
            era,
            idle: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: Era = Era(1);
    const NEW: Era = Era(2);

    fn slot(id: u64) -> Slot {
        Slot::try_from(id).unwrap()
    }

    fn sessions(id: u64, era: Era, idle: &[&'static str]) -> Sessions<&'static str> {
        Sessions {
            slot: slot(id),
            era,
            idle: idle.to_vec(),
        }
    }

    fn public() -> Seat<&'static str> {
        Seat::Public(sessions(1, OLD, &["a"]))
    }

    fn logged_in() -> Seat<&'static str> {
        Seat::LoggedIn {
            anchor: "anchor",
            sessions: sessions(1, OLD, &["a"]),
        }
    }

    #[test]
    fn seen_again_in_its_slot_it_keeps_login_and_sessions() {
        let found = || Event::Found {
            slot: slot(1),
            era: NEW,
        };
        assert_eq!(public().on(found()), public());
        assert_eq!(logged_in().on(found()), logged_in());
    }

    #[test]
    fn seen_in_another_slot_or_anew_it_starts_without_login_in_a_new_era() {
        for seat in [Seat::Absent, public(), logged_in()] {
            let moved = seat.on(Event::Found {
                slot: slot(2),
                era: NEW,
            });
            assert_eq!(moved, Seat::Public(sessions(2, NEW, &[])));
        }
    }

    #[test]
    fn gone_it_keeps_nothing() {
        for seat in [Seat::Absent, public(), logged_in()] {
            assert_eq!(seat.on(Event::Gone), Seat::Absent);
        }
    }

    #[test]
    fn a_login_keeps_the_sessions_and_ends_with_all_of_them() {
        assert_eq!(public().on(Event::LoggedIn("anchor")), logged_in());
        assert_eq!(
            logged_in().on(Event::LoggedIn("second")),
            Seat::LoggedIn {
                anchor: "second",
                sessions: sessions(1, OLD, &["a"])
            }
        );
        assert_eq!(Seat::Absent.on(Event::LoggedIn("late")), Seat::Absent);
        assert_eq!(
            logged_in().on(Event::LoggedOut(NEW)),
            Seat::Public(sessions(1, NEW, &[]))
        );
        assert_eq!(public().on(Event::LoggedOut(NEW)), public());
        assert_eq!(Seat::<&str>::Absent.on(Event::LoggedOut(NEW)), Seat::Absent);
    }
}
