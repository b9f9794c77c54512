//! The rule that decides who has a seat, whatever order the words about it come in.
//!
//! Every session of a client has an epoch, and presence remembers the highest it heard of. An up counts when its epoch is
//! above that, a down when it is not below; both raise it. So the end of a session outlives the session (a tombstone), and a
//! late word about it changes nothing. Two simpler rules are wrong after four steps: "the last word counts", and "a down
//! counts only for the session that has the seat" (its up may still be on the way). `tests/model.rs` shows both.
//!
//! A seat that ran out has no tombstone: that was a guess, and its gateway may know better.

use domain::{Epoch, NatProfile};

use crate::{Renewal, Seat, Up};

/// What presence knows of one client.
///
/// The in-process back-end keeps these. Redis runs the same rule as scripts, and is compared with this one in the tests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    highest: Epoch,
    hold: Hold,
}

/// Who has the seat. Its epoch is always the highest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Hold {
    #[default]
    Nobody,
    Lapsed,
    Seated(Seat),
}

impl Standing {
    /// Gives the seat to a new session, at an epoch above all before it and not below that of `session`. The same session
    /// again (after a time-out of the first attempt, say) gets what it has.
    pub fn up(&mut self, mut session: Seat) -> Up {
        let before = self.seat().copied();
        if let Some(seat) = before.filter(|seat| is_same(seat, &session)) {
            return Up { epoch: seat.epoch, replaced: None };
        }
        session.epoch = session.epoch.max(Epoch(self.highest.0.saturating_add(1)));
        self.seat_at(session);
        Up { epoch: session.epoch, replaced: before }
    }

    /// Keeps the seat of `session`, or gives it back when it was forgotten and nothing newer is known.
    pub fn renew(&mut self, session: Seat) -> Renewal {
        let renewal = match self.hold {
            _ if session.epoch > self.highest => Renewal::Rebuilt,
            _ if session.epoch < self.highest => Renewal::Replaced,
            Hold::Seated(seat) if is_same(&seat, &session) => Renewal::Kept,
            Hold::Lapsed => Renewal::Revived,
            Hold::Seated(_) | Hold::Nobody => Renewal::Replaced,
        };
        match renewal {
            Renewal::Rebuilt | Renewal::Revived => self.seat_at(session),
            Renewal::Kept | Renewal::Replaced => {}
        }
        renewal
    }

    /// Ends the session with `epoch` and all before it. Whether one of them had the seat.
    pub fn down(&mut self, epoch: Epoch) -> bool {
        if epoch < self.highest {
            return false;
        }
        self.highest = epoch;
        matches!(std::mem::take(&mut self.hold), Hold::Seated(_))
    }

    /// Takes the seat away from a session that was not renewed.
    pub fn lapse(&mut self) -> Option<Seat> {
        let seat = self.seat().copied()?;
        self.hold = Hold::Lapsed;
        Some(seat)
    }

    /// Notes the NAT profile of the session with `epoch`, if that has the seat.
    pub fn report(&mut self, epoch: Epoch, profile: NatProfile) -> bool {
        match &mut self.hold {
            Hold::Seated(seat) if seat.epoch == epoch => {
                seat.profile = Some(profile);
                true
            }
            Hold::Seated(_) | Hold::Nobody | Hold::Lapsed => false,
        }
    }

    /// The seat, if somebody has it.
    #[must_use]
    pub const fn seat(&self) -> Option<&Seat> {
        match &self.hold {
            Hold::Seated(seat) => Some(seat),
            Hold::Nobody | Hold::Lapsed => None,
        }
    }

    /// The greatest epoch heard of.
    #[must_use]
    pub const fn highest(&self) -> Epoch {
        self.highest
    }

    /// Whether the last session ran out, so that it may come back.
    #[must_use]
    pub const fn has_lapsed(&self) -> bool {
        matches!(self.hold, Hold::Lapsed)
    }

    fn seat_at(&mut self, seat: Seat) {
        self.highest = seat.epoch;
        self.hold = Hold::Seated(seat);
    }
}

fn is_same(one: &Seat, other: &Seat) -> bool {
    (one.gateway, one.tag) == (other.gateway, other.tag)
}
