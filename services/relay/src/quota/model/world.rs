//! Three relays, the pairs at them, and what is between the relays and the owner of the count.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use domain::{
    Bandwidth, LEASE_LIFETIME, LeaseId, Month, PayerId, Quota, RelayGrant, RelayId, RelayLease, RelayReport, UnixMillis,
};
use tokio::sync::mpsc;
use wire::{
    relay::{Cookie, Join, Message, Slot, prove},
    ticket::{LegSide, PairNonce, Ticket, TicketKey, TicketRoot},
};

use super::{OVERDRAFT, PAYERS, QUOTAS, RELAYS};
use crate::{
    core::{Hop, Limits, Relay, Verdict},
    quota::{
        Accounts,
        ledger::{Ledger, Refused},
    },
    steer::Workers,
};

pub(super) const WEEK: Duration = Duration::from_secs(7 * 24 * 3_600);
const STEP: Duration = Duration::from_secs(10);
/// A day before the end of a month.
const START: UnixMillis = UnixMillis(1_798_675_200_000);
const SIDES: [LegSide; 2] = [LegSide::A, LegSide::B];

/// Percentages of messages, and one crash in so many steps of a relay (0: none).
pub(super) struct Trouble {
    pub(super) lost: u64,
    pub(super) repeated: u64,
    pub(super) crashes: u64,
}

pub(super) struct World {
    random: u64,
    pub(super) trouble: Trouble,
    start: Instant,
    now: Instant,
    relays: Vec<Process>,
    pairs: Vec<Pair>,
    pub(super) owner: Owner,
    travelling: Vec<(Instant, Letter)>,
    datagram: Vec<u8>,
    /// Bytes that were forwarded, by payer, and those among them that were when the account was closed.
    pub(super) sent: [u64; PAYERS],
    pub(super) late: [u64; PAYERS],
    /// Datagrams that were not.
    pub(super) held_back: [u64; PAYERS],
    /// The most that all legs of a payer send in a second.
    pub(super) fastest: u64,
    pub(super) crashes: u64,
    pub(super) moves: u64,
    pub(super) returns: u64,
}

/// A relay: what its worker, and the task beside it, work with.
struct Process {
    life: u64,
    key: TicketKey,
    relay: Relay,
    accounts: Accounts,
    woken: mpsc::Receiver<PayerId>,
    ledger: Ledger,
    /// The calls that wait for an answer, and until when.
    calls: BTreeMap<PayerId, (RelayReport, Instant)>,
}

struct Pair {
    number: u8,
    payers: [usize; 2],
    rate: Bandwidth,
    /// Datagrams in a step.
    busy: u64,
    /// A pair that pings keeps its slot while it has nothing to say.
    pings: bool,
    port: u16,
    /// Where it is: a relay, in which of its lives, the slot.
    seat: Option<(usize, u64, Slot)>,
    /// Where it was before, and may still be heard.
    former: Option<(usize, u64, Slot)>,
}

#[derive(Clone, Copy)]
enum Letter {
    Report(usize, u64, RelayReport),
    Answer(usize, u64, RelayReport, Result<RelayGrant, Refused>),
}

/// The owner of the count, as the database keeps it.
#[derive(Default)]
pub(super) struct Owner {
    leases: BTreeMap<(PayerId, LeaseId), Held>,
    /// By whose quota it was: of a payer, or of an account.
    pub(super) usage: BTreeMap<(PayerId, Month), u64>,
    /// By payer, whoever's quota it was.
    counted: BTreeMap<PayerId, u64>,
    /// On whose quota payers draw that belong to an account, and how large that is.
    accounts: BTreeMap<PayerId, (PayerId, Quota)>,
    /// How often a lease was told that nothing is left.
    pub(super) told: [u64; PAYERS],
}

/// A lease, until when it holds its part, and of whose quota.
struct Held {
    lease: RelayLease,
    expires: UnixMillis,
    purse: PayerId,
}

impl Owner {
    /// A payer joins an account, or leaves the one it is in. What its leases hold goes along.
    pub(super) fn belong(&mut self, payer: usize, account: Option<(PayerId, Quota)>) {
        let payer = id(payer);
        let purse = account.map_or(payer, |(account, _)| account);
        self.accounts.remove(&payer);
        self.accounts.extend(account.map(|account| (payer, account)));
        let own = self.leases.iter_mut().filter(|((of, _), held)| *of == payer && !held.lease.ended);
        own.for_each(|(_, held)| held.purse = purse);
    }

    fn settle(&mut self, at: UnixMillis, report: &RelayReport) -> Result<RelayGrant, Refused> {
        let name = (report.payer, report.lease);
        let known = self.leases.get(&name).map(|held| held.lease);
        if report.known && known.is_none() {
            return Err(Refused::Lease);
        }
        let own = (report.payer, QUOTAS[number(report.payer)]);
        let (purse, quota) = self.accounts.get(&report.payer).copied().unwrap_or(own);
        let others = self.leases.iter().filter(|(other, held)| **other != name && held.purse == purse);
        let held = others.filter(|(_, held)| held.expires > at).map(|(_, held)| held.lease.open()).sum();
        let used = self.usage.entry((purse, Month::of(at))).or_default();
        let before = known.unwrap_or_default();
        let (lease, added) = before.settle(report, quota, *used, held);
        *used += added;
        *self.counted.entry(report.payer).or_default() += added;
        if lease.open() == 0 && (known.is_none() || before.open() > 0) {
            self.told[number(report.payer)] += 1;
        }
        self.leases.insert(name, Held { lease, expires: at.plus(LEASE_LIFETIME), purse });
        Ok(lease.grant())
    }

    /// Forgets when the product does.
    fn forget(&mut self, at: UnixMillis) {
        self.leases.retain(|_, held| held.expires.plus(Duration::from_secs(24 * 3_600)) > at);
    }
}

impl World {
    /// `busy` times as much traffic as pairs have when all is well.
    pub(super) fn new(seed: u64, trouble: Trouble, busy: u64) -> Self {
        let start = Instant::now();
        let pair = |number: u8| {
            let payer = usize::from(number) % PAYERS;
            // Some pay for both, as the owner of a network does.
            let other = if number < 9 { (payer + 1) % PAYERS } else { payer };
            let capped = number % 4 == 3 && busy == 1;
            Pair {
                number,
                payers: [payer, other],
                rate: if capped { Bandwidth::from_kbit_per_second(8) } else { Bandwidth::UNLIMITED },
                busy: busy * [1, 2, 6][usize::from(number) % 3],
                pings: number.is_multiple_of(2),
                port: 10_000 + u16::from(number) * 1_000,
                seat: None,
                former: None,
            }
        };
        Self {
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            trouble,
            start,
            now: start,
            relays: (0..RELAYS as u64).map(|life| Process::new(start, life)).collect(),
            pairs: (0..12).map(pair).collect(),
            owner: Owner::default(),
            travelling: Vec::new(),
            datagram: Vec::new(),
            sent: [0; PAYERS],
            late: [0; PAYERS],
            held_back: [0; PAYERS],
            fastest: 4 * 6 * busy * 2_048 / STEP.as_secs(),
            crashes: 0,
            moves: 0,
            returns: 0,
        }
    }

    pub(super) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now += STEP;
            for at in 0..RELAYS {
                if self.trouble.crashes > 0 && self.draw(self.trouble.crashes) == 0 {
                    self.crashes += 1;
                    self.relays[at] = Process::new(self.start, self.relays[at].life + RELAYS as u64);
                }
            }
            for nth in 0..self.pairs.len() {
                self.live(nth);
            }
            self.turn();
            if self.draw(360) == 0 {
                self.owner.forget(self.wall());
            }
        }
    }

    /// What a pair does in one step.
    fn live(&mut self, nth: usize) {
        let quarter = self.now.duration_since(self.start).as_secs() / 900;
        let silent = (quarter.wrapping_mul(7) + nth as u64).is_multiple_of(2);
        let Pair { busy, pings, seat, .. } = self.pairs[nth];
        if silent {
            if let Some((at, life, slot)) = seat.filter(|_| pings) {
                for side in SIDES {
                    self.hand(nth, (at, life, side), &Message::Ping { slot, nonce: 1 }.to_vec());
                }
            }
            return;
        }
        if seat.is_none_or(|(at, life, _)| self.relays[at].life != life) || self.draw(400) == 0 {
            let at = self.draw(RELAYS as u64) as usize;
            self.join(nth, at);
            self.moves += 1;
        } else if self.draw(400) == 0 {
            // From other ports, at the same relay.
            self.pairs[nth].port += 2;
            self.join(nth, seat.map_or(0, |(at, _, _)| at));
            self.returns += 1;
        }
        for _ in 0..busy {
            let side = SIDES[self.draw(2) as usize];
            let length = if self.draw(4) == 0 { 100 + self.draw(1_900) as usize } else { 2_048 };
            // A datagram that was sent before the move arrives after it.
            let former = self.pairs[nth].former.filter(|_| self.draw(50) == 0);
            let Some(seat) = former.or(self.pairs[nth].seat) else { continue };
            if !self.send(nth, seat, side, length) && former.is_none() {
                // The slot is gone: it was silent for too long.
                self.join(nth, seat.0);
                self.returns += 1;
            }
        }
    }

    /// One datagram; `false` when the relay does not know the pair.
    fn send(&mut self, nth: usize, (at, life, slot): (usize, u64, Slot), side: LegSide, length: usize) -> bool {
        let mut datagram = std::mem::take(&mut self.datagram);
        datagram.resize(length, 0);
        Message::Data { slot, payload: &[] }.write(&mut datagram);
        let payer = self.pairs[nth].payers[side as usize];
        let open = self.relays[at].accounts.find(id(payer)).is_none_or(|account| account.is_open());
        let verdict = self.hand(nth, (at, life, side), &datagram);
        self.datagram = datagram;
        match verdict {
            Some(Verdict::Forward(_)) => {
                self.sent[payer] += length as u64;
                self.late[payer] += if open { 0 } else { length as u64 };
            }
            Some(Verdict::Drop(crate::core::DropReason::NoSlot)) | None => return false,
            Some(Verdict::Drop(_) | Verdict::Answer(_) | Verdict::Copy) => self.held_back[payer] += 1,
        }
        true
    }

    /// Has a relay look at what a leg sends, if it is still that relay.
    fn hand(&mut self, nth: usize, (at, life, side): (usize, u64, LegSide), datagram: &[u8]) -> Option<Verdict> {
        let (wall, now) = (self.wall(), self.now);
        let from = Hop { address: SocketAddr::from(([192, 0, 2, 1], self.pairs[nth].port + side as u16)), door: 0 };
        let process = self.relays.get_mut(at).filter(|process| process.life == life)?;
        let verdict = process.relay.handle_datagram(now, wall, from, datagram);
        while process.relay.poll_event().is_some() {}
        let _ = process.relay.poll_note();
        Some(verdict)
    }

    /// Both legs join at a relay, with new tickets for the same pair.
    fn join(&mut self, nth: usize, at: usize) {
        let Pair { number, payers, rate, seat, .. } = self.pairs[nth];
        let Process { life, ref key, .. } = self.relays[at];
        let (pair, expires, relay) =
            (PairNonce([number; 16]), self.wall().plus(Duration::from_secs(60)), relay_id(life));
        let tickets = SIDES.map(|side| {
            let payer = id(payers[side as usize]);
            let ticket = key.seal(&Ticket { relay, pair, side, rate, payer, expires });
            (ticket, key.leg_key(&ticket))
        });
        for (side, (ticket, key)) in SIDES.into_iter().zip(tickets) {
            let mut cookie = Cookie::default();
            let slot = loop {
                let proof = prove(&key, cookie, &ticket);
                let join = Message::Join(Join { cookie, ticket: &ticket, proof: &proof }).to_vec();
                let Some(Verdict::Answer(answer)) = self.hand(nth, (at, life, side), &join) else {
                    panic!("a join is answered")
                };
                match Message::parse(answer.as_bytes()) {
                    Some(Message::Challenge { cookie: fresh }) => cookie = fresh,
                    Some(Message::Joined { slot, .. }) => break slot,
                    other => panic!("{other:?}"),
                }
            };
            self.pairs[nth].seat = Some((at, life, slot));
        }
        self.pairs[nth].former = seat.filter(|(before, _, _)| *before != at);
    }

    /// Messages arrive, relays and ledgers look at what is due, and new messages leave.
    fn turn(&mut self) {
        let now = self.now;
        let (mut due, later): (Vec<_>, _) = self.travelling.drain(..).partition(|(at, _)| *at <= now);
        self.travelling = later;
        // In any order.
        while !due.is_empty() {
            let next = self.draw(due.len() as u64) as usize;
            match due.swap_remove(next).1 {
                Letter::Report(at, life, report) => {
                    let answer = self.owner.settle(self.wall(), &report);
                    self.post(Letter::Answer(at, life, report, answer));
                }
                Letter::Answer(at, life, report, answer) => {
                    let process = &mut self.relays[at];
                    let asked = process.calls.get(&report.payer).is_some_and(|(asked, _)| *asked == report);
                    if process.life == life && asked {
                        process.calls.remove(&report.payer);
                        match answer {
                            Ok(grant) => process.ledger.handle_grant(now, report.payer, grant),
                            Err(refused) => process.ledger.handle_refusal(now, report.payer, refused),
                        }
                    }
                }
            }
        }
        for at in 0..RELAYS {
            let life = self.relays[at].life;
            for report in self.relays[at].turn(now) {
                self.post(Letter::Report(at, life, report));
            }
        }
    }

    /// Sends a message: it is lost, takes up to a call's deadline, or arrives twice.
    fn post(&mut self, message: Letter) {
        let copies = match self.draw(100) {
            roll if roll < self.trouble.lost => 0,
            roll if roll < self.trouble.lost + self.trouble.repeated => 2,
            _ => 1,
        };
        for _ in 0..copies {
            let delay = Duration::from_millis(self.draw(12_000));
            self.travelling.push((self.now + delay, message));
        }
    }

    /// All relays leave in order, with a network that gets everything through in the end.
    pub(super) fn end(&mut self) {
        for process in &mut self.relays {
            process.relay.handle_end();
            process.ledger.drain(self.now);
        }
        for _ in 0..500 {
            self.now += STEP;
            self.turn();
        }
        self.relays.iter().for_each(|process| assert!(process.ledger.is_settled()));
        let at = self.wall();
        let held: u64 = self.owner.leases.values().filter(|held| held.expires > at).map(|held| held.lease.open()).sum();
        assert_eq!(held, 0, "everything was returned");
    }

    pub(super) fn counted(&self, payer: usize) -> u64 {
        self.owner.counted.get(&id(payer)).copied().unwrap_or_default()
    }

    fn wall(&self) -> UnixMillis {
        START.plus(self.now.duration_since(self.start))
    }

    /// A number below `below` (xorshift64*).
    fn draw(&mut self, below: u64) -> u64 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        (self.random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % below
    }
}

impl Process {
    fn new(start: Instant, life: u64) -> Self {
        let (accounts, woken) = Accounts::new(OVERDRAFT);
        let limits = Limits { max_slots: 100, idle: Duration::from_secs(60) };
        let key = || TicketRoot::new([1; 32]).key(relay_id(life));
        let worker = (0, Workers::ONE);
        Self {
            life,
            relay: Relay::new(start, key(), [9; 32], limits, worker, accounts.clone()),
            key: key(),
            ledger: Ledger::new(start, accounts.clone(), life.to_be_bytes()),
            accounts,
            woken,
            calls: BTreeMap::new(),
        }
    }

    /// What the worker does between datagrams, and the task beside it.
    fn turn(&mut self, now: Instant) -> Vec<RelayReport> {
        while self.relay.poll_deadline().is_some_and(|due| due <= now) {
            self.relay.handle_deadline(now);
            while self.relay.poll_event().is_some() {}
        }
        while let Ok(payer) = self.woken.try_recv() {
            self.ledger.handle_wake(payer);
        }
        let late: Vec<_> = self.calls.iter().filter(|(_, (_, until))| *until <= now).map(|(payer, _)| *payer).collect();
        for payer in late {
            self.calls.remove(&payer);
            self.ledger.handle_refusal(now, payer, Refused::Later);
        }
        while self.ledger.poll_deadline() <= now {
            self.ledger.handle_deadline(now);
        }
        let reports: Vec<_> = std::iter::from_fn(|| self.ledger.poll_report(now)).collect();
        for report in &reports {
            let open = self.calls.insert(report.payer, (*report, now + Duration::from_secs(15)));
            assert!(open.is_none(), "one call of an account at a time");
        }
        reports
    }
}

fn relay_id(life: u64) -> RelayId {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&life.to_be_bytes());
    RelayId::from_bytes(id)
}

fn id(payer: usize) -> PayerId {
    PayerId::from_bytes([u8::try_from(payer + 1).unwrap(); 16])
}

pub(super) fn number(payer: PayerId) -> usize {
    usize::from(payer.as_bytes()[0]) - 1
}
