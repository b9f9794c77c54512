//! Discovery, on the client: which questions leave which socket when, and what the answers say.
//!
//! [`Discovery`] runs at login, on every change of the network, now and then while idle, and a few times soon again when IPv6 or
//! UDP stayed silent (its owner decides):
//!
//! | stage | socket | asks | tries | shows |
//! |---|---|---|---|---|
//! | mapping | main, the one that will carry tunnels | R1:p, R1:q, R2:p | 3, 250 ms apart | [`domain::Mapping`] (RFC 5780, section 4.3) |
//! | IPv6 | main | the first endpoint of IPv6 | 3, 250 ms apart | whether it works, and the address |
//! | filter | spare, which speaks to R1:p only | R1:p for answers from R1:q and R2:p | 3, 150 ms apart | [`domain::Filtering`] (section 4.4) |
//! | hairpin | spare and main | each other's public endpoint | 3, 150 ms apart | RFC 4787, section 6; RFC 5780, section 4.5 |
//! | bursts | 8 fresh ones, and 8 more 400 ms later | R1:p | 1 | [`domain::Allocation`], and the rate of others' flows |
//!
//! Hairpin questions go both ways because a strict filter lets in only what was sent to. Main and spare socket know each
//! other's public endpoint from the stages before.
//!
//! **Bursts are for hard NATs.** A client whose mapping depends on nothing has nothing to predict, and most clients are such:
//! they are spared 16 flows, their carrier's port block too. So bursts start when two sightings of the main socket differ, or
//! when no second reflector could be asked; in the latter case not when the port was kept, because a NAT that keeps ports
//! would do so for the next destination, too. The price is one round trip before the first burst. Behind a NAT that counts,
//! answers must not be awaited between the questions of a burst, and no question is repeated: others' flows come between.
//!
//! **Two results.** The class is reported as soon as the mapping is known and the filter had one chance, at most 750 ms after
//! the start; a hard mapping without an allocation says that bursts are under way. The end, with allocation and hairpin, comes
//! at most 1.7 s after the start. [`Discovered::settled_by`] steadies both by what was found before.
//!
//! [`TcpTest`] runs beside it; [`Measurement`] on PREPARE, right before a punch; [`Lifetime`] once a day.

mod lifetime;
mod measurement;
mod questions;
mod reflectors;
mod tcp;

use std::{
    collections::VecDeque,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use domain::{NatProfile, Observation, Probe, Reflected, Scope, SessionTag, TransactionId, Vantage, scope};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

pub(crate) use self::measurement::POOL_SOCKETS;
use self::questions::{Question, Questions, Tries};
pub use self::{
    lifetime::{LIFETIME_INTERVAL, Lifetime, SILENCES_S},
    measurement::{MAX_PUNCHING_SOCKETS, Measurement},
    reflectors::Reflectors,
    tcp::{Connections, TcpTest},
};
use crate::classify::{BURST, Bursts, History, Sightings, classify};

/// The client's socket that a question leaves from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Socket {
    /// The one that carries tunnels.
    Main,
    /// A fresh one that nothing else is sent from.
    Spare,
    /// One of 16 fresh ones with even local ports, which ask once each.
    Burst(u8),
    /// One of five that are silent after their only question.
    Lifetime(u8),
    /// One of those that PREPARE asks for, with even local ports.
    Punching(u16),
    /// A TCP port of discovery or of one punch, from which connections are made.
    Tcp,
}

/// A question to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    pub socket: Socket,
    pub to: SocketAddr,
    pub probe: Probe,
}

/// What a client knows about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Local {
    /// Of the main socket.
    pub port: u16,
    /// From which the main socket reaches the reflectors, as far as the system tells.
    pub address: Option<IpAddr>,
    /// [`NatProfile::place`].
    pub place: u32,
}

/// What a discovery found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Discovered {
    /// Without what other machines find out: port mapping, TCP and lifetime.
    pub profile: NatProfile,
    /// Of the main socket, in the order first, other port, other address, IPv6.
    pub observations: Vec<Observation>,
    /// Where the main socket was seen over IPv4; `None` when it was not, or at several places.
    pub public: Option<SocketAddr>,
    /// The public address, also when there were several ports; the first one of several.
    pub address: Option<IpAddr>,
    /// Whether a NAT stands between the client and the Internet; without one a strict filter is a firewall. `None` when the
    /// client does not know its own address, or was not seen.
    pub translated: Option<bool>,
    /// Whether this is the last result of this discovery.
    pub finished: bool,
}

impl Discovered {
    /// The same with the class that the last discoveries agree on.
    #[must_use]
    pub fn settled_by(self, history: &mut History) -> Self {
        let profile = if self.finished {
            history.settle(self.address, self.profile)
        } else {
            history.preview(self.address, self.profile)
        };
        Self { profile, ..self }
    }
}

/// One discovery. Drive it until [`Discovery::poll_timeout`] is `None`.
#[derive(Debug)]
pub struct Discovery {
    start: Instant,
    questions: Questions,
    hairpin: Questions,
    hairpin_begun: bool,
    came_back: bool,
    /// When each burst was to leave.
    bursts: Option<[Instant; 2]>,
    reflectors: Reflectors,
    local: Local,
    reported: bool,
    finished: bool,
    found: VecDeque<Discovered>,
}

impl Discovery {
    /// Starts asking. `seed` must be unpredictable to others.
    #[must_use]
    pub fn new(now: Instant, reflectors: Reflectors, tag: SessionTag, local: Local, seed: [u8; 32]) -> Self {
        let mut rng = StdRng::from_seed(seed);
        let mut questions = Questions::new(Some(tag), rng.random());
        for endpoint in reflectors.same_family().chain(reflectors.v6) {
            questions.add(now, Socket::Main, endpoint, Vantage::Asked, MAPPING_TRIES);
        }
        for vantage in [Vantage::Asked, Vantage::OtherPort, Vantage::OtherAddress] {
            questions.add(now, Socket::Spare, reflectors.first, vantage, FILTER_TRIES);
        }
        questions.handle_timeout(now);
        Self {
            start: now,
            questions,
            hairpin: Questions::new(None, rng.random()),
            hairpin_begun: false,
            came_back: false,
            bursts: None,
            reflectors,
            local,
            reported: false,
            finished: false,
            found: VecDeque::new(),
        }
    }

    /// An answer arrived at `socket`. Those that nobody asked for are ignored.
    pub fn handle_answer(&mut self, now: Instant, socket: Socket, from: SocketAddr, reflected: Reflected) {
        self.questions.handle_answer(socket, from, reflected);
        self.proceed(now);
    }

    /// A reflector cannot answer from where it was asked to.
    pub fn handle_refusal(&mut self, now: Instant, transaction: TransactionId) {
        self.questions.handle_refusal(transaction);
        self.proceed(now);
    }

    /// A STUN binding request arrived at the main or the spare socket. One of ours has come back through the NAT.
    pub fn handle_hairpin(&mut self, now: Instant, from: SocketAddr, transaction: TransactionId) {
        // RFC 4787 wants the external address as the source; those NATs that leave the inner one are good enough.
        let inside = scope(from.ip()) == Scope::Private;
        let ours = |question: &Question| question.is(transaction) && (inside || question.to.ip() == from.ip());
        if self.hairpin.iter().any(ours) {
            self.came_back = true;
            self.hairpin.give_up(|_| true);
            self.proceed(now);
        }
    }

    /// Repeats what was not answered, or gives up.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.questions.handle_timeout(now);
        self.hairpin.handle_timeout(now);
        self.proceed(now);
    }

    /// When to call [`Self::handle_timeout`]; `None` when the discovery is over.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.questions.poll_timeout().into_iter().chain(self.hairpin.poll_timeout()).min()
    }

    /// The next question to send.
    pub fn poll_transmit(&mut self) -> Option<Ask> {
        // Hairpin questions open flows too, and must not come between those of a burst.
        self.hairpin.poll_transmit().or_else(|| self.questions.poll_transmit())
    }

    /// A result to report: one or two in a discovery, the last one marked.
    pub fn poll_event(&mut self) -> Option<Discovered> {
        self.found.pop_front()
    }

    /// Begins what the answers allow, and reports.
    fn proceed(&mut self, now: Instant) {
        self.begin_hairpin(now);
        self.begin_bursts(now);
        let over = self.poll_timeout().is_none();
        if over && !self.finished {
            self.finished = true;
            self.report();
        } else if !self.reported && self.is_mapped() && self.filter_had_a_chance(now) && self.first_burst_is_over() {
            self.report();
        }
    }

    fn begin_hairpin(&mut self, now: Instant) {
        let spare = self.questions.iter().find(|question| question.socket == Socket::Spare);
        let spare_is_known = spare.is_none_or(Question::is_over);
        let Some(main) = self.sighted().next().filter(|_| spare_is_known && !self.hairpin_begun) else { return };
        self.hairpin_begun = true;
        if self.is_untranslated(main) {
            return;
        }
        let spare = spare.and_then(Question::seen);
        self.hairpin.add(now, Socket::Spare, main, Vantage::Asked, FILTER_TRIES);
        if let Some(spare) = spare {
            self.hairpin.add(now, Socket::Main, spare, Vantage::Asked, FILTER_TRIES);
        }
        self.hairpin.handle_timeout(now);
    }

    fn begin_bursts(&mut self, now: Instant) {
        let Some(first) = self.sighted().next().filter(|_| self.bursts.is_none()) else { return };
        let differ = self.sighted().any(|seen| seen != first);
        let kept = first.port() == self.local.port;
        let unsure = self.is_mapped() && !kept && classify(&self.sightings()).unsure;
        if !differ && !unsure {
            return;
        }
        // Not the first reflector when that one is dead.
        let asked = self.mapping().find(|question| question.answer.is_some()).map(|question| question.to);
        let Some(to) = asked else { return };
        let bursts = [now, now + BETWEEN_BURSTS];
        self.bursts = Some(bursts);
        let members = (0..).map(Socket::Burst).zip(bursts.into_iter().flat_map(|due| [due; BURST]));
        for (socket, due) in members {
            self.questions.add(due, socket, to, Vantage::Asked, BURST_TRY);
        }
        self.questions.handle_timeout(now);
    }

    fn report(&mut self) {
        self.reported = true;
        let first = self.sighted().next();
        let mut profile = NatProfile { place: self.local.place, ..classify(&self.sightings()) };
        if profile.class().is_hard() && profile.allocation.is_none() {
            // Whoever waits for a step may wait in vain.
            profile.allocation = self.first_burst_alone().without_order();
        }
        let answers = self.questions.iter().filter(|question| question.socket == Socket::Main);
        let discovered = Discovered {
            profile,
            observations: answers.filter_map(|question| question.answer.as_ref()?.observation.clone()).collect(),
            public: first.filter(|&first| self.sighted().all(|seen| seen == first)),
            address: first.map(|first| first.ip()),
            translated: first.and_then(|first| self.local.address.map(|local| local != first.ip())),
            finished: self.finished,
        };
        self.found.push_back(discovered);
    }

    fn sightings(&self) -> Sightings {
        let main = |to: Option<SocketAddr>| self.mapping().find(|question| Some(question.to) == to);
        let seen = |to| main(to).and_then(Question::seen);
        let lets_in = |vantage| {
            let mut filter = self.questions.iter().filter(|question| question.socket == Socket::Spare);
            filter.any(|question| question.vantage == vantage && question.answer.is_some())
        };
        let nearest = self.mapping().find_map(|question| question.answer.as_ref());
        Sightings {
            first: seen(Some(self.reflectors.first)),
            other_port: seen(self.reflectors.other_port),
            other_address: seen(self.reflectors.other_address),
            ipv6: self.questions.iter().any(|question| question.to.is_ipv6() && question.answer.is_some()),
            let_in_other_port: lets_in(Vantage::OtherPort),
            let_in_other_address: lets_in(Vantage::OtherAddress),
            local_port: self.local.port,
            local_address: self.local.address,
            ttl: nearest.map_or(0, |answer| answer.ttl),
            hairpin: self.hairpin_result(),
            bursts: self.finished.then(|| self.bursts().unwrap_or_default()),
        }
    }

    fn hairpin_result(&self) -> Option<bool> {
        let tried = self.hairpin.iter().next().is_some() && self.hairpin.poll_timeout().is_none();
        (self.came_back || tried).then_some(self.came_back)
    }

    fn bursts(&self) -> Option<Bursts> {
        let members = || self.questions.iter().filter(|question| matches!(question.socket, Socket::Burst(_)));
        let [first, second] = [members().next()?.asked?, members().nth(BURST)?.asked?];
        let mut seen = [[None; BURST]; 2];
        for (place, question) in seen.as_flattened_mut().iter_mut().zip(members()) {
            *place = question.seen();
        }
        let between = |question: &&Question| {
            !matches!(question.socket, Socket::Burst(_))
                && question.asked.is_some_and(|asked| asked > first && asked < second)
        };
        let own = self.questions.iter().chain(self.hairpin.iter()).filter(between).count();
        Some(Bursts { seen, apart: second - first, own_flows: u16::try_from(own).unwrap_or(u16::MAX) })
    }

    fn first_burst(&self) -> impl Iterator<Item = &Question> {
        self.questions.iter().filter(|question| matches!(question.socket, Socket::Burst(_))).take(BURST)
    }

    fn first_burst_is_over(&self) -> bool {
        self.first_burst().all(Question::is_over)
    }

    fn first_burst_alone(&self) -> Bursts {
        let mut first = [None; BURST];
        for (place, question) in first.iter_mut().zip(self.first_burst()) {
            *place = question.seen();
        }
        Bursts { seen: [first, [None; BURST]], ..Bursts::default() }
    }

    /// Questions of the main socket over the family of the first reflector.
    fn mapping(&self) -> impl Iterator<Item = &Question> {
        let v6 = self.reflectors.v6;
        self.questions.iter().filter(move |question| question.socket == Socket::Main && Some(question.to) != v6)
    }

    fn sighted(&self) -> impl Iterator<Item = SocketAddr> {
        self.mapping().filter_map(Question::seen)
    }

    fn is_mapped(&self) -> bool {
        self.mapping().all(Question::is_over)
    }

    fn is_untranslated(&self, seen: SocketAddr) -> bool {
        self.local.address == Some(seen.ip())
    }

    fn filter_had_a_chance(&self, now: Instant) -> bool {
        let settled = self.questions.iter().filter(|question| question.socket == Socket::Spare).all(Question::is_over);
        settled || now >= self.start + ONE_CHANCE
    }
}

const MAPPING_TRIES: Tries = Tries { count: 3, interval: Duration::from_millis(250) };
const FILTER_TRIES: Tries = Tries { count: 3, interval: Duration::from_millis(150) };
/// Long enough for an answer from the other side of the world.
const BURST_TRY: Tries = Tries { count: 1, interval: Duration::from_millis(500) };
pub(crate) const BETWEEN_BURSTS: Duration = Duration::from_millis(400);
/// What the filter test gets before a first result: two of its tries.
const ONE_CHANCE: Duration = Duration::from_millis(300);
