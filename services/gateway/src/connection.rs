//! What one connection may do when. Pure: bytes in, steps out, bytes out.
//!
//! A connection goes through three phases: the secure channel opens, the client proves its identity, the session runs. In
//! the second phase exactly one frame is understood, a login whose signature covers the hash of this connection's handshake:
//! one that was recorded or relayed from another connection fails here, before anything was asked of anybody. Where work is asked
//! for before the login goes on, nothing but its result is understood.

use std::time::{Duration, Instant};

use wire::{
    Code,
    control::{ClientFrame, FrameError, LOGIN_CONTEXT, Login, OLDEST_VERSION, ServerFrame},
    secure::{Channel, Event, SecureError, ServerSecret},
    work::Solution,
};

/// The window in which requests are counted.
const WINDOW: Duration = Duration::from_secs(10);

/// What follows from the bytes so far.
#[derive(Debug)]
pub(crate) enum Step {
    /// The secure channel is open: the answer is on its way, the login is awaited.
    Opened,
    /// The client proved who it is.
    Login(Box<Login>),
    /// The client says that it did the work it was asked for.
    Worked(Box<Solution>),
    /// Something the client says in its session.
    Frame(ClientFrame),
}

/// Why the connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum End {
    #[error("not a client")]
    Foreign,
    #[error("refused: {0}")]
    Refused(Code),
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Connection {
    channel: Channel,
    phase: Phase,
    requests: u32,
    most_requests: u32,
    window: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Opening,
    LoggingIn,
    Working,
    Session,
}

impl Connection {
    /// A connection that was just accepted, with at most `most_requests` in ten seconds.
    pub(crate) fn new(now: Instant, secret: ServerSecret, most_requests: u32) -> Self {
        Self { channel: Channel::server(secret), phase: Phase::Opening, requests: 0, most_requests, window: now }
    }

    /// Takes bytes of the stream. To be called again only after [`Self::poll_step`] gave `None`.
    pub(crate) fn handle_bytes(&mut self, bytes: &[u8]) {
        self.channel.handle_bytes(bytes);
    }

    /// What follows from them.
    pub(crate) fn poll_step(&mut self, now: Instant) -> Result<Option<Step>, End> {
        loop {
            let Some(event) = self.channel.poll_event().map_err(|error| self.broken(error))? else { return Ok(None) };
            match event {
                Event::Opened(_) => {
                    self.phase = Phase::LoggingIn;
                    return Ok(Some(Step::Opened));
                }
                Event::Frame(bytes) => match ClientFrame::decode(&bytes) {
                    Ok(frame) => return self.understand(now, frame).map(Some),
                    // A newer client may say what this server does not know; never before its login.
                    Err(FrameError::Unknown) if self.phase == Phase::Session => {}
                    Err(FrameError::TooLarge { .. }) => return Err(End::Refused(Code::TooLarge)),
                    Err(FrameError::Unknown | FrameError::Malformed(_) | FrameError::Trailing { .. }) => {
                        return Err(End::Refused(Code::Malformed));
                    }
                },
            }
        }
    }

    fn understand(&mut self, now: Instant, frame: ClientFrame) -> Result<Step, End> {
        match (self.phase, frame) {
            (Phase::LoggingIn, ClientFrame::Login(login)) => {
                self.verify(&login)?;
                self.phase = Phase::Session;
                Ok(Step::Login(login))
            }
            (Phase::Working, ClientFrame::Worked(solution)) => {
                self.phase = Phase::Session;
                Ok(Step::Worked(solution))
            }
            (Phase::Opening | Phase::LoggingIn | Phase::Working, _)
            | (Phase::Session, ClientFrame::Login(_) | ClientFrame::Worked(_)) => Err(End::Refused(Code::Malformed)),
            (Phase::Session, frame) => {
                self.count(now)?;
                Ok(Step::Frame(frame))
            }
        }
    }

    fn verify(&self, login: &Login) -> Result<(), End> {
        if login.version < OLDEST_VERSION {
            return Err(End::Refused(Code::Unsupported));
        }
        let hash = self.channel.handshake_hash().ok_or(End::Foreign)?;
        let signed = [LOGIN_CONTEXT, hash].concat();
        let valid = login.identity.verify(&signed, &login.signature).is_ok()
            && login.identity.verify_tunnel_key(&login.tunnel, &login.tunnel_signature).is_ok();
        if valid { Ok(()) } else { Err(End::Refused(Code::SignatureInvalid)) }
    }

    fn count(&mut self, now: Instant) -> Result<(), End> {
        if now.saturating_duration_since(self.window) >= WINDOW {
            (self.window, self.requests) = (now, 0);
        }
        self.requests += 1;
        if self.requests > self.most_requests { Err(End::Refused(Code::RateLimited)) } else { Ok(()) }
    }

    fn broken(&self, error: SecureError) -> End {
        match error {
            SecureError::RecordSize { .. } | SecureError::FrameSize { .. } => End::Refused(Code::TooLarge),
            SecureError::Foreign
            | SecureError::Version
            | SecureError::KeyMismatch
            | SecureError::Rejected { .. }
            | SecureError::Forged
            | SecureError::NotOpen => End::Foreign,
        }
    }

    /// Nothing is understood any more but the result of the work that the client is asked for.
    pub(crate) fn await_work(&mut self) {
        self.phase = Phase::Working;
    }

    /// What names this connection, once it is open.
    pub(crate) fn handshake_hash(&self) -> Option<[u8; 32]> {
        self.channel.handshake_hash().copied()
    }

    /// Seals a frame for the client. Before the channel is open there is nobody to tell: then nothing happens.
    pub(crate) fn send(&mut self, frame: &ServerFrame) {
        self.send_encoded(&frame.encode());
    }

    /// Seals a frame that is encoded already.
    pub(crate) fn send_encoded(&mut self, frame: &[u8]) {
        if let Err(error) = self.channel.send(frame) {
            tracing::debug!(%error, "a frame was not sent");
        }
    }

    /// Bytes for the stream.
    pub(crate) fn outgoing(&self) -> &[u8] {
        self.channel.outgoing()
    }

    /// Takes note that these bytes are on their way.
    pub(crate) fn sent(&mut self, count: usize) {
        self.channel.sent(count);
    }
}

#[cfg(test)]
mod tests {
    use domain::{IdentityKey, Signature, TUNNEL_KEY_CONTEXT, TunnelKey};
    use proptest::prelude::*;
    use ring::signature::{Ed25519KeyPair, KeyPair as _};
    use wire::control::VERSION;

    use super::*;

    #[test]
    fn a_login_comes_once() {
        let (now, mut client, mut server) = open(10);
        let login = ClientFrame::Login(Box::new(login(&client)));
        assert!(matches!(say(now, &mut client, &mut server, &login), Ok(Some(Step::Login(_)))));
        assert!(matches!(say(now, &mut client, &mut server, &login), Err(End::Refused(Code::Malformed))));
    }

    #[test]
    fn work_comes_when_it_is_asked_for_and_nothing_else_does() {
        let puzzle = wire::work::Puzzle { seed: [1; 32], bits: 0, until: domain::UnixMillis(1) };
        let worked = ClientFrame::Worked(Box::new(Solution { puzzle, number: 7 }));
        let login = |client: &Channel| ClientFrame::Login(Box::new(login(client)));
        let malformed = |taken| assert!(matches!(taken, Err(End::Refused(Code::Malformed))), "{taken:?}");

        let (now, mut client, mut server) = open(10);
        malformed(say(now, &mut client, &mut server, &worked));

        let (now, mut client, mut server) = open(10);
        let frame = login(&client);
        say(now, &mut client, &mut server, &frame).unwrap();
        malformed(say(now, &mut client, &mut server, &worked));

        let (now, mut client, mut server) = open(10);
        let frame = login(&client);
        say(now, &mut client, &mut server, &frame).unwrap();
        server.await_work();
        assert!(matches!(say(now, &mut client, &mut server, &worked), Ok(Some(Step::Worked(_)))));
        assert!(matches!(say(now, &mut client, &mut server, &ClientFrame::Ping(1)), Ok(Some(Step::Frame(_)))));

        let (now, mut client, mut server) = open(10);
        let frame = login(&client);
        say(now, &mut client, &mut server, &frame).unwrap();
        server.await_work();
        malformed(say(now, &mut client, &mut server, &ClientFrame::Ping(1)));
    }

    #[test]
    fn an_older_client_than_is_understood_is_told_so() {
        let (now, mut client, mut server) = open(10);
        let old = Login { version: OLDEST_VERSION - 1, ..login(&client) };
        let refused = say(now, &mut client, &mut server, &ClientFrame::Login(Box::new(old)));
        assert!(matches!(refused, Err(End::Refused(Code::Unsupported))));
        let (now, mut client, mut server) = open(10);
        let new = Login { version: VERSION + 1, ..login(&client) };
        let taken = say(now, &mut client, &mut server, &ClientFrame::Login(Box::new(new)));
        assert!(matches!(taken, Ok(Some(Step::Login(_)))));
    }

    #[test]
    fn requests_are_counted_in_windows() {
        let (now, mut client, mut server) = open(3);
        let login = ClientFrame::Login(Box::new(login(&client)));
        say(now, &mut client, &mut server, &login).unwrap();
        for _ in 0..3 {
            assert!(say(now, &mut client, &mut server, &ClientFrame::Ping(1)).is_ok());
        }
        let later = now + WINDOW;
        for _ in 0..3 {
            assert!(say(later, &mut client, &mut server, &ClientFrame::Ping(1)).is_ok());
        }
        let over = say(later, &mut client, &mut server, &ClientFrame::Ping(1));
        assert!(matches!(over, Err(End::Refused(Code::RateLimited))));
    }

    proptest! {
        // A handshake takes tens of milliseconds without optimisation.
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn no_bytes_get_past_the_login(sealed in any::<bool>(), bytes in proptest::collection::vec(any::<u8>(), 0..500)) {
            let (now, mut client, mut server) = open(10);
            if sealed {
                client.send(&bytes).unwrap();
                server.handle_bytes(client.outgoing());
            } else {
                server.handle_bytes(&bytes);
            }
            while let Ok(Some(step)) = server.poll_step(now) {
                prop_assert!(false, "{step:?}");
            }
        }
    }

    /// A client's channel to a connection that waits for the login.
    fn open(most_requests: u32) -> (Instant, Channel, Connection) {
        let (now, secret) = (Instant::now(), ServerSecret::from_bytes([5; 32]));
        let mut client = Channel::client(Some(secret.public()));
        let mut server = Connection::new(now, secret, most_requests);
        server.handle_bytes(client.outgoing());
        client.sent(usize::MAX);
        assert!(matches!(server.poll_step(now), Ok(Some(Step::Opened))));
        client.handle_bytes(server.outgoing());
        assert!(matches!(client.poll_event(), Ok(Some(Event::Opened(_)))));
        (now, client, server)
    }

    fn say(
        now: Instant,
        client: &mut Channel,
        server: &mut Connection,
        frame: &ClientFrame,
    ) -> Result<Option<Step>, End> {
        client.send(&frame.encode()).ok();
        server.handle_bytes(client.outgoing());
        client.sent(usize::MAX);
        server.poll_step(now)
    }

    fn login(channel: &Channel) -> Login {
        let pair = Ed25519KeyPair::from_seed_unchecked(&[1; 32]).unwrap();
        let sign = |parts: &[&[u8]]| Signature::try_from(pair.sign(&parts.concat()).as_ref()).unwrap();
        let tunnel = TunnelKey::from_bytes([2; 32]);
        Login {
            version: VERSION,
            identity: IdentityKey::try_from(pair.public_key().as_ref()).unwrap(),
            tunnel,
            tunnel_signature: sign(&[TUNNEL_KEY_CONTEXT, tunnel.as_bytes()]),
            signature: sign(&[LOGIN_CONTEXT, channel.handshake_hash().unwrap()]),
            nick: None,
            token: None,
            known: Vec::new(),
            client: None,
        }
    }
}
