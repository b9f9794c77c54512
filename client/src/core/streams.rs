//! The streams to relays: one for all legs there, open while one of them wishes for it.
//!
//! A stream that cannot be opened, or ends, is tried again after half a second, doubling to half a minute, sooner after a
//! change of the network. One that nobody wishes for any more lingers for ten seconds: what was on its way may arrive.

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    time::{Duration, Instant},
};

use domain::{ClientId, RelayId, StreamEndpoint};
use wire::stream::StreamId;

use super::Output;

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Streams {
    relays: BTreeMap<RelayId, Stream>,
    /// Who wishes for a stream to where; two while a pair moves between relays.
    wishes: BTreeMap<ClientId, Vec<RelayId>>,
    named: u64,
}

#[derive(Debug)]
struct Stream {
    endpoints: Vec<StreamEndpoint>,
    wishes: usize,
    state: State,
    /// One after the other.
    failures: u32,
    /// The last wish is gone.
    lingers: Option<Instant>,
}

#[derive(Debug)]
enum State {
    Waiting(Instant),
    Opening(StreamId),
    Open(StreamId, StreamEndpoint),
}

impl Streams {
    /// What `peer` wishes for now.
    pub(super) fn wish<'a>(
        &mut self,
        now: Instant,
        peer: ClientId,
        wished: impl Iterator<Item = (RelayId, &'a [StreamEndpoint])>,
        outputs: &mut VecDeque<Output>,
    ) {
        let mut wished = wished.peekable();
        if wished.peek().is_none() && !self.wishes.contains_key(&peer) {
            return;
        }
        let before = self.wishes.remove(&peer).unwrap_or_default();
        let mut relays = Vec::with_capacity(before.len());
        for (relay, endpoints) in wished {
            if relays.contains(&relay) || self.relays.len() >= MOST && !self.relays.contains_key(&relay) {
                continue;
            }
            let stream = self.relays.entry(relay).or_insert_with(|| Stream::new(now));
            if stream.endpoints != endpoints {
                stream.endpoints = endpoints.to_vec();
            }
            stream.lingers = None;
            stream.wishes += usize::from(!before.contains(&relay));
            relays.push(relay);
        }
        for relay in before.iter().filter(|relay| !relays.contains(relay)) {
            if let Some(stream) = self.relays.get_mut(relay) {
                stream.wishes -= 1;
                if stream.wishes == 0 {
                    stream.lingers = Some(now + LINGER);
                }
            }
        }
        if !relays.is_empty() {
            self.wishes.insert(peer, relays);
        }
        self.handle_deadline(now, outputs);
    }

    /// A peer is gone, and its wishes with it.
    pub(super) fn forget(&mut self, now: Instant, peer: ClientId, outputs: &mut VecDeque<Output>) {
        self.wish(now, peer, std::iter::empty(), outputs);
    }

    /// A stream is open, at the endpoint that answered. Returns whose it is.
    pub(super) fn handle_opened(&mut self, stream: StreamId, endpoint: StreamEndpoint) -> Option<RelayId> {
        let (relay, found) = self.find(stream)?;
        found.state = State::Open(stream, endpoint);
        Some(relay)
    }

    /// A stream ended, or could not be opened. Returns whose it was.
    pub(super) fn handle_closed(&mut self, now: Instant, stream: StreamId) -> Option<RelayId> {
        let (relay, found) = self.find(stream)?;
        let pause = FIRST_PAUSE * 2_u32.saturating_pow(found.failures);
        found.failures = (found.failures + 1).min(MOST_FAILURES);
        found.state = State::Waiting(now + pause.min(LONGEST_PAUSE));
        Some(relay)
    }

    /// A leg joined over a stream: the next failure is the first.
    pub(super) fn handle_use(&mut self, address: SocketAddr) {
        if let Some((_, found)) = StreamId::of(&address).and_then(|stream| self.find(stream)) {
            found.failures = 0;
        }
    }

    /// What was open went through a network that this machine has left.
    pub(super) fn handle_network_change(&mut self, now: Instant, outputs: &mut VecDeque<Output>) {
        for stream in self.relays.values_mut() {
            stream.close(outputs);
            stream.state = State::Waiting(now);
            stream.failures = 0;
        }
        self.handle_deadline(now, outputs);
    }

    /// A stream is of no use. Returns whose it was.
    pub(super) fn reject(
        &mut self,
        now: Instant,
        address: SocketAddr,
        outputs: &mut VecDeque<Output>,
    ) -> Option<RelayId> {
        let stream = StreamId::of(&address)?;
        self.find(stream)?.1.close(outputs);
        self.handle_closed(now, stream)
    }

    pub(super) fn handle_deadline(&mut self, now: Instant, outputs: &mut VecDeque<Output>) {
        self.relays.retain(|_, stream| {
            let over = stream.lingers.is_some_and(|until| until <= now);
            if over {
                stream.close(outputs);
            }
            !over
        });
        for stream in self.relays.values_mut() {
            if stream.wishes > 0 && matches!(stream.state, State::Waiting(until) if until <= now) {
                self.named += 1;
                let id = StreamId(self.named);
                stream.state = State::Opening(id);
                outputs.push_back(Output::OpenStream { stream: id, endpoints: stream.endpoints.clone() });
            }
        }
    }

    pub(super) fn poll_deadline(&self) -> Option<Instant> {
        let due = |stream: &Stream| {
            let opens = match stream.state {
                State::Waiting(until) if stream.wishes > 0 => Some(until),
                State::Waiting(_) | State::Opening(_) | State::Open(..) => None,
            };
            [opens, stream.lingers].into_iter().flatten().min()
        };
        self.relays.values().filter_map(due).min()
    }

    /// The open stream to `relay`.
    pub(super) fn open(&self, relay: RelayId) -> Option<SocketAddr> {
        match self.relays.get(&relay)?.state {
            State::Open(stream, _) => Some(stream.address()),
            State::Waiting(_) | State::Opening(_) => None,
        }
    }

    /// Whether a leg is better off to begin with a stream.
    pub(super) fn are_needed(&self) -> bool {
        self.relays.values().any(|stream| stream.wishes > 0 && matches!(stream.state, State::Open(..)))
    }

    /// Where the stream with this address leads.
    pub(super) fn endpoint(&self, address: SocketAddr) -> Option<&StreamEndpoint> {
        let wanted = StreamId::of(&address)?;
        self.relays.values().find_map(|stream| match &stream.state {
            State::Open(id, endpoint) if *id == wanted => Some(endpoint),
            State::Open(..) | State::Waiting(_) | State::Opening(_) => None,
        })
    }

    fn find(&mut self, wanted: StreamId) -> Option<(RelayId, &mut Stream)> {
        self.relays.iter_mut().find(|(_, stream)| stream.id() == Some(wanted)).map(|(relay, stream)| (*relay, stream))
    }
}

impl Stream {
    const fn new(now: Instant) -> Self {
        Self { endpoints: Vec::new(), wishes: 0, state: State::Waiting(now), failures: 0, lingers: None }
    }

    const fn id(&self) -> Option<StreamId> {
        match self.state {
            State::Waiting(_) => None,
            State::Opening(id) | State::Open(id, _) => Some(id),
        }
    }

    fn close(&self, outputs: &mut VecDeque<Output>) {
        outputs.extend(self.id().map(Output::CloseStream));
    }
}

/// More relays than a client has legs at; a server that names others has another problem.
const MOST: usize = 16;
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
const MOST_FAILURES: u32 = 6;
const LINGER: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_stream_serves_all_who_wish_and_lingers_after_the_last() {
        let (start, mut streams, mut outputs) = lab();
        for peer in [1, 2] {
            streams.wish(start, client(peer), wish().iter().map(|one| (RELAY, &**one)), &mut outputs);
        }
        let stream = opened(&mut outputs).unwrap();
        assert_eq!(opened(&mut outputs), None);
        assert_eq!(streams.open(RELAY), None);
        streams.handle_opened(stream, endpoint());
        assert_eq!(streams.open(RELAY), Some(stream.address()));
        assert_eq!(streams.endpoint(stream.address()), Some(&endpoint()));

        streams.forget(start, client(1), &mut outputs);
        streams.handle_deadline(start + Duration::from_secs(60), &mut outputs);
        assert!(outputs.is_empty());
        streams.forget(start, client(2), &mut outputs);
        assert_eq!(streams.poll_deadline(), Some(start + LINGER));
        assert!(!streams.are_needed());
        streams.handle_deadline(start + LINGER, &mut outputs);
        assert!(matches!(outputs.pop_front(), Some(Output::CloseStream(closed)) if closed == stream));
        assert_eq!((streams.open(RELAY), streams.poll_deadline()), (None, None));
    }

    #[test]
    fn a_stream_that_fails_is_tried_again_after_longer_and_longer() {
        let (mut now, mut streams, mut outputs) = lab();
        streams.wish(now, client(1), wish().iter().map(|one| (RELAY, &**one)), &mut outputs);
        let mut pauses = Vec::new();
        for _ in 0..9 {
            let stream = opened(&mut outputs).unwrap();
            assert_eq!(streams.handle_closed(now, stream), Some(RELAY));
            assert_eq!(streams.handle_closed(now, stream), None, "once");
            let due = streams.poll_deadline().unwrap();
            pauses.push(due - now);
            streams.handle_deadline(due - Duration::from_millis(1), &mut outputs);
            assert!(outputs.is_empty());
            now = due;
            streams.handle_deadline(now, &mut outputs);
        }
        assert_eq!(pauses[..3], [FIRST_PAUSE, 2 * FIRST_PAUSE, 4 * FIRST_PAUSE]);
        assert_eq!(pauses[8], LONGEST_PAUSE);

        let stream = opened(&mut outputs).unwrap();
        streams.handle_network_change(now, &mut outputs);
        assert!(matches!(outputs.pop_front(), Some(Output::CloseStream(closed)) if closed == stream));
        let again = opened(&mut outputs).unwrap();
        streams.handle_opened(again, endpoint());
        streams.handle_use(again.address());
        streams.handle_closed(now, again);
        assert_eq!(streams.poll_deadline(), Some(now + FIRST_PAUSE));
    }

    #[test]
    fn relays_are_bounded_however_many_a_server_names() {
        let (now, mut streams, mut outputs) = lab();
        for number in 0..100 {
            let relay = RelayId::from_bytes([number; 16]);
            streams.wish(now, client(number), wish().iter().map(|one| (relay, &**one)), &mut outputs);
        }
        assert_eq!(outputs.len(), MOST);
    }

    const RELAY: RelayId = RelayId::from_bytes([5; 16]);

    fn lab() -> (Instant, Streams, VecDeque<Output>) {
        (Instant::now(), Streams::default(), VecDeque::new())
    }

    fn client(number: u8) -> ClientId {
        ClientId::from_bytes([number; 16])
    }

    fn endpoint() -> StreamEndpoint {
        "relay.example:443".parse().unwrap()
    }

    fn wish() -> [Vec<StreamEndpoint>; 1] {
        [vec![endpoint()]]
    }

    fn opened(outputs: &mut VecDeque<Output>) -> Option<StreamId> {
        let Output::OpenStream { stream, .. } = outputs.pop_front()? else { panic!("nothing is opened") };
        Some(stream)
    }
}
