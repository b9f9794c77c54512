//! How a leg comes in: the challenge, its ticket and proof, and the place it sends from.

use std::net::SocketAddr;

use domain::{SourcePrefix, UnixMillis};
use ring::hmac;
use subtle::ConstantTimeEq as _;
use wire::{
    Code,
    relay::{Cookie, HEADER_SIZE, Join, Message, Slot},
    stream::StreamId,
    ticket::{LegSide, Ticket, TicketError},
};

use super::{Answer, DropReason, Event, Hop, Relay, Verdict, seconds};
use crate::{bucket::Bucket, parking::Arrival, stream::source_of};

/// A leg moves to another address at most this often.
const MOVE_PAUSE: u64 = 1_000_000_000;

/// A cookie is valid in the minute it was made in and in the next one.
const COOKIE_PERIOD: u64 = 60_000_000_000;

impl Relay {
    pub(super) fn challenge(&self, now: u64, from: Hop) -> Verdict {
        let cookie = self.cookie(now / COOKIE_PERIOD, from.address);
        Verdict::Answer(Answer::of(&Message::Challenge { cookie }))
    }

    pub(super) fn join(
        &mut self,
        now: u64,
        wall: UnixMillis,
        from: Hop,
        join: &Join<'_>,
        first: Option<&[u8]>,
    ) -> Verdict {
        if !self.is_cookie(now, from.address, join.cookie) {
            return self.challenge(now, from);
        }
        let source = match StreamId::of(&from.address) {
            Some(stream) => source_of(stream),
            None => SourcePrefix::of(from.address.ip()).bits(),
        };
        if !self.joins.take(now, source) {
            return Verdict::Drop(DropReason::JoinsTooOften);
        }
        match self.admit(now, wall, from, join, first) {
            Ok(answer) => Verdict::Answer(answer),
            Err(Refusal::Code(code)) => {
                self.event(Event::Refused(code));
                Verdict::Answer(Answer::of(&Message::refusal(code, join.id())))
            }
            Err(Refusal::TooSoon) => Verdict::Drop(DropReason::MovesTooOften),
        }
    }

    fn admit(
        &mut self,
        now: u64,
        wall: UnixMillis,
        from: Hop,
        join: &Join<'_>,
        first: Option<&[u8]>,
    ) -> Result<Answer, Refusal> {
        let ticket = self.key.open(join.ticket).map_err(|error| match error {
            TicketError::Malformed | TicketError::Forged => Code::TicketForged,
            TicketError::OtherRelay => Code::TicketForeign,
        })?;
        if !join.is_proved_by(&self.key.leg_key(join.ticket)) {
            return Err(Code::TicketForged.into());
        }
        let slot = match self.slab.find(&ticket.pair) {
            Some(slot) => {
                self.renew(now, slot, &ticket);
                slot
            }
            None if self.draining.is_some() => return Err(Code::RelayDraining.into()),
            None if ticket.expires < wall => return Err(Code::TicketExpired.into()),
            None => {
                let bucket = Bucket::new(ticket.rate);
                let slot = self.slab.insert(ticket.pair, bucket, ticket.payer, seconds(now)).ok_or(Code::RelayFull)?;
                self.slab.story_mut(slot).rated = issue(&ticket);
                self.await_end(now + self.idle(), slot);
                self.event(Event::Opened);
                slot
            }
        };
        self.seat(now, slot, ticket.side, from)?;
        self.accounts.pay(&mut self.slab, slot, ticket.side, ticket.payer);
        self.event(Event::Joined);
        let peer = self.slab.get_mut(slot).and_then(|pair| pair.hop(ticket.side.other()));
        let first = first.filter(|first| self.charge_first(now, slot, first.len()));
        let leg = Arrival { slot, side: ticket.side, at: from, peer };
        if let Some(event) = self.parking.handle_joined(now, leg, first) {
            self.event(event);
        }
        Ok(Answer::of(&Message::Joined { slot, join: join.id(), peer_present: peer.is_some() }))
    }

    /// Has a pair go on with the rate of a ticket that is newer than the one it has its rate from: the plan may have changed.
    fn renew(&mut self, now: u64, slot: Slot, ticket: &Ticket) {
        let story = self.slab.story_mut(slot);
        if issue(ticket) <= story.rated {
            return;
        }
        story.rated = issue(ticket);
        if let Some(pair) = self.slab.get_mut(slot) {
            pair.bucket = pair.bucket.renewed(now, ticket.rate);
            self.changed = Some(slot);
            self.moved = Some(slot);
        }
    }

    /// Charges a first packet as if it had come as DATA.
    fn charge_first(&mut self, now: u64, slot: Slot, length: usize) -> bool {
        let granted = self.slab.get_mut(slot).is_some_and(|pair| pair.bucket.take(now, HEADER_SIZE + length));
        if granted {
            self.changed = Some(slot);
        } else {
            self.event(Event::FirstOverCap);
        }
        granted
    }

    /// Puts a proven leg where it sends from.
    fn seat(&mut self, now: u64, slot: Slot, side: LegSide, from: Hop) -> Result<(), Refusal> {
        let moves_at = self.slab.story_mut(slot).moves_at[side as usize];
        let Some(pair) = self.slab.get_mut(slot) else { return Err(Code::Internal.into()) };
        pair.seen = seconds(now);
        let seated = pair.hop(side);
        if seated == Some(from) {
            return Ok(());
        }
        if seated.is_some() && now < moves_at {
            return Err(Refusal::TooSoon);
        }
        pair.legs[side as usize] = from.address.into();
        pair.doors[side as usize] = from.door;
        self.slab.story_mut(slot).moves_at[side as usize] = now + MOVE_PAUSE;
        self.changed = Some(slot);
        self.moved = Some(slot);
        Ok(())
    }

    fn is_cookie(&self, now: u64, from: SocketAddr, cookie: Cookie) -> bool {
        let minute = now / COOKIE_PERIOD;
        cookie != Cookie::default()
            && [Some(minute), minute.checked_sub(1)]
                .into_iter()
                .flatten()
                .any(|minute| self.cookie(minute, from).0.ct_eq(&cookie.0).into())
    }

    fn cookie(&self, minute: u64, from: SocketAddr) -> Cookie {
        let ip = match from.ip().to_canonical() {
            std::net::IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            std::net::IpAddr::V6(v6) => v6,
        };
        let mut context = hmac::Context::with_key(&self.cookies);
        context.update(&minute.to_be_bytes());
        context.update(&ip.octets());
        context.update(&from.port().to_be_bytes());
        let mut cookie = [0; 16];
        cookie.copy_from_slice(&context.sign().as_ref()[..16]);
        Cookie(cookie)
    }
}

/// What tells an older ticket from a newer one: both legs get theirs together, for the same time.
fn issue(ticket: &Ticket) -> u32 {
    u32::try_from(ticket.expires.0 / 1_000).unwrap_or(u32::MAX)
}

enum Refusal {
    Code(Code),
    TooSoon,
}

impl From<Code> for Refusal {
    fn from(code: Code) -> Self {
        Self::Code(code)
    }
}
