//! TCP simultaneous open (RFC 9293, section 3.5; RFC 5382, section 4.2): which connections are tried when.
//!
//! Both sides connect to the observed endpoint of the other, from the port that was observed and listening on it. Each
//! first segment opens the filter of its own NAT for the other one's. Where the order says so, a try with a small hop limit
//! does that alone at the common start: it dies before the peer's NAT, some of which answer what comes too early with a
//! reset, or give the port away. One gap later the tries that are meant to arrive leave, and a refused one is repeated after
//! 50 to 150 ms, drawn, so that two sides that refuse each other do not go on doing so. What is lost TCP itself sends again.
//!
//! A connection counts when the peer has shown on it that it knows the key of the punch; whoever has not within three
//! seconds is cut off, and only a few such strangers are let in at a time. Nothing but punch packets is taken from them.
//!
//! This machine names connections by the peer's endpoint. Their packets are those of [`crate::punch`].

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    time::{Duration, Instant},
};

use domain::PunchOrder;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

/// What is to be done with connections of the punching port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Connect; an unfinished try to the same endpoint is given up for this one. `ttl` limits the hops of all it sends.
    Connect { to: SocketAddr, ttl: Option<u8> },
    /// End the connection, or the try.
    Close(SocketAddr),
}

/// The connections of one punch.
#[derive(Debug)]
pub struct Dial {
    rng: StdRng,
    aims: Vec<Aim>,
    streams: BTreeMap<SocketAddr, Stream>,
    /// No try begins from then on.
    until: Option<Instant>,
    strangers: u32,
    steps: VecDeque<Step>,
}

#[derive(Debug)]
struct Aim {
    endpoint: SocketAddr,
    /// The try that only opens the own NAT.
    opener: Option<(Instant, u8)>,
    due: Option<Instant>,
    tries: u32,
}

#[derive(Clone, Copy, Debug)]
enum Stream {
    /// Until when the peer may show that it is the one.
    Stranger(Instant),
    Proven,
}

impl Dial {
    /// Waits for an order; who connects meanwhile is listened to.
    #[must_use]
    pub fn new(seed: [u8; 32]) -> Self {
        Self {
            rng: StdRng::from_seed(seed),
            aims: Vec::new(),
            streams: BTreeMap::new(),
            until: None,
            strangers: 0,
            steps: VecDeque::new(),
        }
    }

    /// GO. Only the first one counts.
    pub fn handle_order(&mut self, now: Instant, order: &PunchOrder) {
        if self.until.is_some() {
            return;
        }
        let start = now + Duration::from_micros(order.wait_us).min(MAX_WAIT);
        let first = start + Duration::from_micros(order.gap_us).min(MAX_WAIT);
        self.until = Some(first + DIALLING);
        for endpoint in dialled(order) {
            // The peer's order may have come first, and so its connection.
            let there = self.streams.contains_key(&endpoint);
            let opener = (order.opener_ttl > 0 && !there).then_some((start, order.opener_ttl));
            self.aims.push(Aim { endpoint, opener, due: (!there).then_some(first), tries: 0 });
        }
        self.handle_timeout(now);
    }

    /// A connection is there, whoever began it.
    pub fn handle_established(&mut self, now: Instant, peer: SocketAddr) -> Welcome {
        let aimed = self.aims.iter_mut().find(|aim| aim.endpoint == peer);
        let expected = aimed.is_some();
        if let Some(aim) = aimed {
            (aim.opener, aim.due) = (None, None);
        } else {
            self.strangers += 1;
        }
        let waiting = self.streams.values().filter(|stream| matches!(stream, Stream::Stranger(_))).count();
        if !expected && (self.strangers > MAX_STRANGERS || waiting >= MAX_WAITING) {
            self.steps.push_back(Step::Close(peer));
            return Welcome::Refused;
        }
        self.streams.insert(peer, Stream::Stranger(now + PROOF_PATIENCE));
        if expected { Welcome::Greeted } else { Welcome::Awaited }
    }

    /// An authentic punch packet came over it.
    pub fn handle_proven(&mut self, peer: SocketAddr) {
        if let Some(stream) = self.streams.get_mut(&peer) {
            *stream = Stream::Proven;
        }
    }

    /// Something else came over it than what was agreed.
    pub fn handle_forged(&mut self, now: Instant, peer: SocketAddr) {
        if self.streams.remove(&peer).is_some() {
            self.steps.push_back(Step::Close(peer));
            self.try_again(now, peer);
        }
    }

    /// A try failed, or a connection ended.
    pub fn handle_lost(&mut self, now: Instant, peer: SocketAddr) {
        self.streams.remove(&peer);
        self.try_again(now, peer);
    }

    /// The punch has its result: no further tries. Connections stay.
    pub fn handle_finished(&mut self) {
        for aim in std::mem::take(&mut self.aims) {
            if !self.streams.contains_key(&aim.endpoint) {
                self.steps.push_back(Step::Close(aim.endpoint));
            }
        }
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        let over = self.until.is_none_or(|until| now >= until);
        for aim in &mut self.aims {
            if let Some((_, ttl)) = aim.opener.filter(|(due, _)| *due <= now) {
                aim.opener = None;
                aim.tries += 1;
                self.steps.push_back(Step::Connect { to: aim.endpoint, ttl: Some(ttl) });
            }
            if aim.due.is_some_and(|due| due <= now) {
                aim.due = None;
                if !over && aim.tries < MOST_TRIES {
                    aim.tries += 1;
                    self.steps.push_back(Step::Connect { to: aim.endpoint, ttl: None });
                }
            }
        }
        let late = |stream: &Stream| matches!(stream, Stream::Stranger(until) if *until <= now);
        for (peer, _) in self.streams.extract_if(.., |_, stream| late(stream)) {
            self.steps.push_back(Step::Close(peer));
        }
    }

    /// When to call [`Self::handle_timeout`].
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let aims = self.aims.iter().flat_map(|aim| [aim.opener.map(|(due, _)| due), aim.due]).flatten();
        let strangers = self.streams.values().filter_map(|stream| match stream {
            Stream::Stranger(until) => Some(*until),
            Stream::Proven => None,
        });
        aims.chain(strangers).min()
    }

    /// The next thing to do.
    pub fn poll_step(&mut self) -> Option<Step> {
        self.steps.pop_front()
    }

    /// Whether the peer has shown on this connection that it is the one.
    #[must_use]
    pub fn is_proven(&self, peer: SocketAddr) -> bool {
        matches!(self.streams.get(&peer), Some(Stream::Proven))
    }

    fn try_again(&mut self, now: Instant, peer: SocketAddr) {
        let Some(aim) = self.aims.iter_mut().find(|aim| aim.endpoint == peer) else { return };
        if aim.due.is_none() {
            aim.due = Some(now + self.rng.random_range(AGAIN_FIRST..=AGAIN_LAST));
        }
    }
}

/// What becomes of a new connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Welcome {
    /// It leads to where the peer was observed: the first packet may go out.
    Greeted,
    /// From somewhere else: it has to speak first.
    Awaited,
    /// Too many.
    Refused,
}

/// Where an order is carried out by connecting.
pub(crate) fn dialled(order: &PunchOrder) -> impl Iterator<Item = SocketAddr> {
    let theirs = order.candidates.iter().filter(|candidate| !candidate.main && !candidate.local);
    theirs.map(|candidate| candidate.endpoint).filter(|endpoint| endpoint.port() != 0).take(MAX_AIMS)
}

/// How long refused tries are repeated.
pub(crate) const DIALLING: Duration = Duration::from_secs(4);
/// Of one endpoint, the opener included.
pub(crate) const MOST_TRIES: u32 = 42;
/// Endpoints that an order may have connected to: the observed one, and ports that may come after it.
const MAX_AIMS: usize = 4;
const AGAIN_FIRST: Duration = Duration::from_millis(50);
const AGAIN_LAST: Duration = Duration::from_millis(150);
/// For whoever connects to show that it is the peer.
const PROOF_PATIENCE: Duration = Duration::from_secs(3);
/// Of those at a time, and in the whole punch.
const MAX_WAITING: usize = 4;
const MAX_STRANGERS: u32 = 32;
/// The longest wait or gap that makes sense.
const MAX_WAIT: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use domain::{Candidate, InstanceId, PunchId, Strategy};

    use super::*;
    use crate::sim::origin;

    #[test]
    fn an_opener_leaves_at_the_start_and_the_try_that_counts_after_the_gap() {
        let mut lab = Lab::ordered(4);
        let tries = lab.run_for(ms(3_000));
        assert_eq!(tries, [(30, Some(4)), (130, None)]);
    }

    #[test]
    fn what_is_refused_is_tried_again_for_four_seconds_and_not_at_once() {
        let mut lab = Lab::ordered(0);
        let mut tries = Vec::new();
        while lab.now < lab.start + ms(8_000) {
            for (at, _) in lab.run_for(ms(1)) {
                tries.push(at);
                let now = lab.now;
                lab.dial.handle_lost(now, peer());
            }
        }
        let gaps: Vec<_> = tries.windows(2).map(|two| two[1] - two[0]).collect();
        assert!(tries.len() > 20 && tries.len() <= MOST_TRIES as usize, "{tries:?}");
        assert!(gaps.iter().all(|gap| (50..=152).contains(gap)), "{gaps:?}");
        assert!(gaps.iter().any(|gap| *gap != gaps[0]) && *tries.last().unwrap() <= 130 + 4_000);
        assert_eq!(lab.dial.poll_timeout(), None);
    }

    #[test]
    fn a_connection_that_the_peer_made_needs_no_try_of_ours() {
        let mut lab = Lab::ordered(4);
        assert_eq!(lab.dial.handle_established(lab.now, peer()), Welcome::Greeted);
        lab.dial.handle_proven(peer());
        assert_eq!(lab.run_for(ms(6_000)), []);
        assert!(lab.dial.is_proven(peer()));

        let mut early = Lab::new();
        assert_eq!(early.dial.handle_established(early.now, peer()), Welcome::Awaited);
        early.dial.handle_proven(peer());
        early.dial.handle_order(early.now, &order(4));
        assert_eq!(early.run_for(ms(6_000)), []);
    }

    #[test]
    fn a_stranger_who_says_nothing_is_cut_off() {
        let mut lab = Lab::new();
        let stranger = SocketAddr::from(([192, 0, 2, 66], 1_000));
        assert_eq!(lab.dial.handle_established(lab.now, stranger), Welcome::Awaited);
        assert_eq!(lab.dial.poll_timeout(), Some(lab.now + PROOF_PATIENCE));
        lab.dial.handle_timeout(lab.now + PROOF_PATIENCE);
        assert_eq!(lab.dial.poll_step(), Some(Step::Close(stranger)));
        assert_eq!((lab.dial.poll_timeout(), lab.dial.is_proven(stranger)), (None, false));
    }

    #[test]
    fn of_a_flood_of_connections_four_wait_and_thirty_two_are_looked_at() {
        let mut lab = Lab::new();
        let stranger = |port| SocketAddr::from(([192, 0, 2, 66], port));
        let mut greeted = 0;
        for port in 1..=1_000 {
            greeted += usize::from(lab.dial.handle_established(lab.now, stranger(port)) == Welcome::Awaited);
        }
        assert_eq!(greeted, MAX_WAITING);
        let closed = std::iter::from_fn(|| lab.dial.poll_step()).count();
        assert_eq!(closed, 1_000 - MAX_WAITING);
        for port in 1_001..=1_100 {
            if lab.dial.handle_established(lab.now, stranger(port)) == Welcome::Awaited {
                lab.dial.handle_forged(lab.now, stranger(port));
            }
        }
        assert!(lab.dial.streams.len() <= MAX_WAITING);

        // The peer gets through all of them.
        lab.dial.handle_order(lab.now, &order(0));
        assert_eq!(lab.dial.handle_established(lab.now, peer()), Welcome::Greeted);
    }

    #[test]
    fn no_order_makes_a_scanner_of_a_client() {
        let mut lab = Lab::new();
        let candidate =
            |port| Candidate { endpoint: SocketAddr::from(([192, 0, 2, 1], port)), local: false, main: false };
        let mut order = order(4);
        order.candidates = (0..1_000).map(candidate).collect();
        lab.dial.handle_order(lab.now, &order);
        let mut tries = 0;
        for _ in 0..20_000 {
            lab.now += ms(1);
            lab.dial.handle_timeout(lab.now);
            while let Some(Step::Connect { to, .. }) = lab.dial.poll_step() {
                tries += 1;
                assert!((1..=MAX_AIMS).contains(&to.port().into()), "{to}");
                lab.dial.handle_lost(lab.now, to);
            }
        }
        assert!(tries <= MAX_AIMS as u32 * MOST_TRIES, "{tries}");
    }

    struct Lab {
        start: Instant,
        now: Instant,
        dial: Dial,
    }

    impl Lab {
        fn new() -> Self {
            Self { start: origin(), now: origin(), dial: Dial::new([7; 32]) }
        }

        fn ordered(opener_ttl: u8) -> Self {
            let mut lab = Self::new();
            lab.start = lab.now;
            lab.dial.handle_order(lab.now, &order(opener_ttl));
            lab
        }

        /// The tries of a while: milliseconds since the start, and hops.
        fn run_for(&mut self, time: Duration) -> Vec<(u128, Option<u8>)> {
            let end = self.now + time;
            let mut tries = Vec::new();
            while self.now < end {
                self.now += ms(1);
                self.dial.handle_timeout(self.now);
                while let Some(step) = self.dial.poll_step() {
                    if let Step::Connect { ttl, .. } = step {
                        tries.push(((self.now - self.start).as_millis(), ttl));
                    }
                }
            }
            tries
        }
    }

    fn order(opener_ttl: u8) -> PunchOrder {
        PunchOrder {
            punch: PunchId { leader: InstanceId::from_bytes([1; 16]), number: 1 },
            strategy: Strategy::Tcp,
            wait_us: 30_000,
            gap_us: 100_000,
            opener_ttl,
            candidates: vec![Candidate { endpoint: peer(), local: false, main: false }],
            attempt: 1,
            spray: None,
            sockets: 0,
        }
    }

    fn peer() -> SocketAddr {
        ([198, 51, 100, 7], 4_000).into()
    }

    const fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }
}
