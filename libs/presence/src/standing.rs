//! The rule that decides who has a seat, whatever order the words about it come in.
//!
//! Every session of a client has an epoch, and presence remembers the highest it heard of. An up counts when its epoch is
//! above that, a down when it is not below; both raise it. So the end of a session outlives the session (a tombstone), and a
//! late word about it changes nothing. Two simpler rules are wrong after four steps: "the last word counts", and "a down
//! counts only for the session that has the seat" (its up may still be on the way). `tests/model.rs` shows both.
//!
//! A seat that ran out is a down, too: its loss was announced, so that the session can only come up anew.

use std::cmp::Ordering;

use domain::{Epoch, NatProfile, RelayTrips};

use crate::{Renewal, Seat, Up};

/// What presence knows of one client.
///
/// The in-process back-end keeps these. Redis runs the same rule as scripts, and is compared with this one in the tests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    highest: Epoch,
    /// Its epoch is the highest.
    seat: Option<Seat>,
}

impl Standing {
    /// Gives the seat to a new session, at an epoch above all before it and not below that of `session`. The same session
    /// again (after a time-out of the first attempt, say) gets what it has.
    pub fn up(&mut self, mut session: Seat) -> Up {
        let before = self.seat;
        if let Some(seat) = before.filter(|seat| is_same(seat, &session)) {
            return Up { epoch: seat.epoch, replaced: None };
        }
        session.epoch = session.epoch.max(Epoch(self.highest.0.saturating_add(1)));
        self.seat_at(session);
        Up { epoch: session.epoch, replaced: before }
    }

    /// Keeps the seat of `session`, or gives it one when nothing as new is known.
    pub fn renew(&mut self, session: Seat) -> Renewal {
        match (session.epoch.cmp(&self.highest), self.seat) {
            (Ordering::Less, _) => Renewal::Replaced,
            (Ordering::Equal, None) => Renewal::Ended,
            (Ordering::Equal, Some(seat)) if is_same(&seat, &session) => Renewal::Kept,
            // Two sessions got one epoch: presence was emptied in between. The first to renew stays.
            (Ordering::Equal, Some(_)) => Renewal::Replaced,
            (Ordering::Greater, _) => {
                self.seat_at(session);
                Renewal::Rebuilt
            }
        }
    }

    /// Ends the session with `epoch` and all before it. Whether one of them had the seat.
    pub fn down(&mut self, epoch: Epoch) -> bool {
        if epoch < self.highest {
            return false;
        }
        self.highest = epoch;
        self.seat.take().is_some()
    }

    /// Notes the NAT profile of the session with `epoch`, if that has the seat.
    pub fn report(&mut self, epoch: Epoch, profile: NatProfile) -> bool {
        match &mut self.seat {
            Some(seat) if seat.epoch == epoch => {
                seat.profile = Some(profile);
                true
            }
            Some(_) | None => false,
        }
    }

    /// Notes how far relays are from the session with `epoch`, if that has the seat.
    pub fn measured(&mut self, epoch: Epoch, trips: RelayTrips) -> bool {
        match &mut self.seat {
            Some(seat) if seat.epoch == epoch => {
                seat.trips = trips;
                true
            }
            Some(_) | None => false,
        }
    }

    /// The seat, if somebody has it.
    #[must_use]
    pub const fn seat(&self) -> Option<&Seat> {
        self.seat.as_ref()
    }

    /// The greatest epoch heard of.
    #[must_use]
    pub const fn highest(&self) -> Epoch {
        self.highest
    }

    fn seat_at(&mut self, seat: Seat) {
        self.highest = seat.epoch;
        self.seat = Some(seat);
    }
}

fn is_same(one: &Seat, other: &Seat) -> bool {
    (one.gateway, one.tag) == (other.gateway, other.tag)
}
