//! Stories: what a user does, end to end, with real parts.

mod first_steps;
