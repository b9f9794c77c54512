//! The rule of [`Standing`], tried by an exhaustive checker against every order in which words about sessions can arrive.
//!
//! Words come late, in any order, many times or never: a word that was sent may be delivered in any later step, and stays to
//! be delivered again. Two simpler rules, tried in the same way, fail after four steps: they are here to show that the
//! checker would find it.
//!
//! The first model is about the rule alone, the second one about sessions at gateways: logins, renewals, goodbyes, sweeps
//! that take a living session for lost, and a presence that is emptied.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::{
    collections::BTreeSet,
    hash::{Hash, Hasher},
};

use domain::{ClientId, Epoch, GatewayId, SessionTag, UnixMillis};
use presence::{Renewal, Seat, Standing};
use stateright::{Checker as _, Model, Property};

#[test]
fn the_seat_depends_on_what_was_heard_and_not_on_the_order() {
    Words { rule: Rule::Tombstone }.checker().spawn_bfs().join().assert_properties();
}

#[test]
fn the_last_word_is_not_to_be_trusted() {
    let checker = Words { rule: Rule::LastWordCounts }.checker().spawn_bfs().join();

    let four_steps = vec![Step::Begin, Step::Begin, Step::Hear(Word::Up(2)), Step::Hear(Word::Up(1))];
    checker.assert_discovery(RIGHT_SEAT, four_steps);
}

#[test]
fn a_down_counts_before_its_up_has_come() {
    let checker = Words { rule: Rule::DownOfTheSeatedCounts }.checker().spawn_bfs().join();

    let four_steps = vec![Step::Begin, Step::End(1), Step::Hear(Word::Down(1)), Step::Hear(Word::Up(1))];
    checker.assert_discovery(RIGHT_SEAT, four_steps);
}

#[test]
fn sessions_at_gateways_keep_to_the_rules() {
    sessions(Tombstones::Kept, Memory::Kept).checker().spawn_bfs().join().assert_properties();
}

#[test]
fn sessions_at_gateways_keep_to_the_rules_when_presence_is_emptied() {
    sessions(Tombstones::Kept, Memory::EmptiedOnce).checker().spawn_bfs().join().assert_properties();
}

#[test]
fn without_tombstones_a_late_renewal_brings_a_session_back() {
    let checker = sessions(Tombstones::Missing, Memory::Kept).checker().spawn_bfs().join();

    let turns = vec![Turn::Login, Turn::SendRenewal(0), Turn::Close(0), Turn::Down(0), Turn::Renewal(0)];
    checker.assert_discovery(OVER_STAYS_OVER, turns);
}

const fn sessions(tombstones: Tombstones, memory: Memory) -> Sessions {
    Sessions { tombstones, memory }
}

/// Sessions of one client in the first model.
const SESSIONS: u64 = 3;
const RIGHT_SEAT: &str = "the seat is that of the newest session heard of, unless that was heard to be over";

/// Words about sessions, and one listener.
struct Words {
    rule: Rule,
}

/// How the listener decides.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rule {
    /// As [`Standing`] does.
    Tombstone,
    LastWordCounts,
    /// An up counts above the highest, a down only for the session that has the seat.
    DownOfTheSeatedCounts,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Word {
    Up(u64),
    Down(u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// The next session begins: its up is sent.
    Begin,
    /// A session ends: its down is sent.
    End(u64),
    /// The listener hears a word that was sent, perhaps not for the first time.
    Hear(Word),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
struct Heard {
    begun: u64,
    sent: BTreeSet<Word>,
    heard: BTreeSet<Word>,
    known: Known,
}

impl Model for Words {
    type State = Heard;
    type Action = Step;

    fn init_states(&self) -> Vec<Heard> {
        vec![Heard::default()]
    }

    fn actions(&self, state: &Heard, steps: &mut Vec<Step>) {
        if state.begun < SESSIONS {
            steps.push(Step::Begin);
        }
        let open = (1..=state.begun).filter(|&session| !state.sent.contains(&Word::Down(session)));
        steps.extend(open.map(Step::End));
        steps.extend(state.sent.iter().copied().map(Step::Hear));
    }

    fn next_state(&self, last: &Heard, step: Step) -> Option<Heard> {
        let mut next = last.clone();
        match step {
            Step::Begin => {
                next.begun += 1;
                next.sent.insert(Word::Up(next.begun));
            }
            Step::End(session) => {
                next.sent.insert(Word::Down(session));
            }
            Step::Hear(word) => {
                next.heard.insert(word);
                next.known.hear(self.rule, word);
            }
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(RIGHT_SEAT, |_, state: &Heard| state.known.epoch() == state.right_seat()),
            Property::sometimes("the last session has the seat", |_, state: &Heard| {
                state.known.epoch() == Some(SESSIONS)
            }),
            Property::sometimes("a session is over before it was heard to begin", |_, state: &Heard| {
                state.heard.contains(&Word::Down(1)) && !state.heard.contains(&Word::Up(1))
            }),
        ]
    }
}

impl Heard {
    fn right_seat(&self) -> Option<u64> {
        let newest = self.heard.iter().map(|&(Word::Up(session) | Word::Down(session))| session).max()?;
        (!self.heard.contains(&Word::Down(newest))).then_some(newest)
    }
}

/// What the listener knows: a [`Standing`] that the checker can put into a table.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
struct Known(Standing);

impl Known {
    fn hear(&mut self, rule: Rule, word: Word) {
        match (rule, word) {
            (Rule::Tombstone | Rule::DownOfTheSeatedCounts, Word::Up(session)) => {
                self.0.renew(seat(session));
            }
            (Rule::Tombstone, Word::Down(session)) => {
                self.0.down(Epoch(session));
            }
            (Rule::LastWordCounts, Word::Up(session)) => {
                self.0 = Standing::default();
                self.0.renew(seat(session));
            }
            (Rule::LastWordCounts, Word::Down(_)) => self.0 = Standing::default(),
            (Rule::DownOfTheSeatedCounts, Word::Down(session)) => {
                if self.epoch() == Some(session) {
                    self.0.down(Epoch(session));
                }
            }
        }
    }

    fn epoch(&self) -> Option<u64> {
        self.0.seat().map(|seat| seat.epoch.0)
    }
}

impl Hash for Known {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.0.highest().hash(hasher);
        self.0.seat().map(|seat| (seat.epoch, seat.tag)).hash(hasher);
    }
}

const OVER_STAYS_OVER: &str = "what is over stays over, as long as presence remembers";
/// Logins in the second model.
const LOGINS: usize = 3;
/// The clock runs on between two logins, so that epochs rise even when presence was emptied in between.
const TICK: u64 = 10;

/// Sessions of one client at gateways that share presence.
struct Sessions {
    tombstones: Tombstones,
    memory: Memory,
}

/// Whether presence remembers an epoch beyond its seat. Without that it is wrong: the checker must find it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tombstones {
    Kept,
    Missing,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Memory {
    Kept,
    EmptiedOnce,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
struct Site {
    sessions: Vec<Session>,
    presence: Known,
    emptied: bool,
    /// The newest session was told that another one took its place.
    wronged: bool,
}

/// A session, from its gateway's point of view. Words that are on their way may arrive at any time, more than once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Session {
    epoch: u64,
    state: State,
    /// A renewal was sent.
    renewal: bool,
    /// Its down was sent.
    down: bool,
    /// Its down has arrived, or it was swept.
    over: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum State {
    Live,
    /// It ended, or was told to.
    Closed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    Login,
    /// The client says goodbye, or its connection breaks: the gateway sends a down.
    Close(usize),
    SendRenewal(usize),
    Renewal(usize),
    Down(usize),
    /// Nobody renewed in time, or so it seems.
    Sweep,
    Empty,
}

impl Model for Sessions {
    type State = Site;
    type Action = Turn;

    fn init_states(&self) -> Vec<Site> {
        vec![Site::default()]
    }

    fn actions(&self, site: &Site, turns: &mut Vec<Turn>) {
        if site.sessions.len() < LOGINS {
            turns.push(Turn::Login);
        }
        for (number, session) in site.sessions.iter().enumerate() {
            if session.state == State::Live {
                turns.push(Turn::Close(number));
                if !session.renewal {
                    turns.push(Turn::SendRenewal(number));
                }
            }
            if session.renewal {
                turns.push(Turn::Renewal(number));
            }
            if session.down {
                turns.push(Turn::Down(number));
            }
        }
        if site.presence.epoch().is_some() {
            turns.push(Turn::Sweep);
        }
        if self.memory == Memory::EmptiedOnce && !site.emptied && !site.sessions.is_empty() {
            turns.push(Turn::Empty);
        }
    }

    fn next_state(&self, last: &Site, turn: Turn) -> Option<Site> {
        let mut site = last.clone();
        match turn {
            Turn::Login => site.login(),
            Turn::Close(number) => {
                site.sessions[number].state = State::Closed;
                site.sessions[number].down = true;
            }
            Turn::SendRenewal(number) => site.sessions[number].renewal = true,
            Turn::Renewal(number) => site.renewal(number),
            Turn::Down(number) => {
                let ended = site.presence.0.down(Epoch(site.sessions[number].epoch));
                site.sessions[number].over = true;
                if ended && self.tombstones == Tombstones::Missing {
                    site.presence = Known::default();
                }
            }
            Turn::Sweep => {
                let epoch = site.presence.0.highest();
                site.presence.0.down(epoch);
                site.session_at(epoch.0).over = true;
            }
            Turn::Empty => {
                site.presence = Known::default();
                site.emptied = true;
            }
        }
        Some(site)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("epochs rise from login to login", |_, site: &Site| {
                site.sessions.is_sorted_by(|earlier, later| earlier.epoch < later.epoch)
            }),
            Property::always("nobody but a newer session takes a place", |_, site: &Site| !site.wronged),
            Property::always(OVER_STAYS_OVER, |_, site: &Site| {
                site.emptied || site.seated().is_none_or(|session| !session.over)
            }),
            Property::always("an older session has no seat, as long as presence remembers", |_, site: &Site| {
                site.emptied || site.seated().is_none_or(|session| Some(session) == site.sessions.last())
            }),
            Property::always("one renewal of each living session puts things right", |_, site: &Site| site.is_healed()),
            Property::sometimes("the last login has the seat", |_, site: &Site| {
                site.sessions.len() == LOGINS && site.seated() == site.sessions.last()
            }),
            Property::sometimes("a living session was swept", |_, site: &Site| {
                site.sessions.iter().any(|session| session.over && session.state == State::Live)
            }),
        ]
    }
}

impl Site {
    fn login(&mut self) {
        let number = u64::try_from(self.sessions.len()).unwrap();
        let newcomer = Seat { epoch: Epoch((number + 1) * TICK), ..seat(number) };
        let epoch = self.presence.0.up(newcomer).epoch.0;
        self.sessions.push(Session { epoch, state: State::Live, renewal: false, down: false, over: false });
    }

    fn renewal(&mut self, number: usize) {
        let renewal = self.presence.0.renew(self.held(number));
        let newest = number + 1 == self.sessions.len();
        self.wronged |= newest && renewal == Renewal::Replaced;
        match renewal {
            Renewal::Kept | Renewal::Rebuilt => {}
            Renewal::Replaced | Renewal::Ended => self.sessions[number].state = State::Closed,
        }
    }

    /// Renews every living session, the newest one first or last, and looks at who has the seat then.
    fn is_healed(&self) -> bool {
        let living: Vec<_> = (0..self.sessions.len()).filter(|&n| self.sessions[n].state == State::Live).collect();
        let newest = self.sessions.last();
        let mut orders = [living.clone(), living];
        orders[1].reverse();
        orders.into_iter().all(|order| {
            let mut site = self.clone();
            order.into_iter().for_each(|number| site.renewal(number));
            match newest {
                // One that was swept has to log in again.
                Some(session) if session.state == State::Live && !session.over => {
                    site.presence.epoch() == Some(session.epoch)
                }
                Some(_) | None => true,
            }
        })
    }

    fn held(&self, number: usize) -> Seat {
        Seat { epoch: Epoch(self.sessions[number].epoch), ..seat(u64::try_from(number).unwrap()) }
    }

    fn seated(&self) -> Option<&Session> {
        let epoch = self.presence.epoch()?;
        self.sessions.iter().find(|session| session.epoch == epoch)
    }

    fn session_at(&mut self, epoch: u64) -> &mut Session {
        self.sessions.iter_mut().find(|session| session.epoch == epoch).unwrap()
    }
}

/// The seat of session `number` of the client, at a gateway of its own.
fn seat(number: u64) -> Seat {
    let byte = u8::try_from(number).unwrap();
    Seat {
        client: ClientId::from_bytes([7; 16]),
        gateway: GatewayId::from_bytes([byte; 16]),
        epoch: Epoch(number),
        tag: SessionTag([byte; 16]),
        since: UnixMillis(0),
        profile: None,
        trips: domain::RelayTrips::NONE,
    }
}
