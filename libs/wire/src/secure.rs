//! The secure channel under the control connection: `Noise_NK_25519_ChaChaPoly_BLAKE2s` (Noise, revision 34) over any
//! stream of bytes.
//!
//! ```text
//! client                                   server
//! "BURI" version(u16) flags(u8) 0          flags: bit 0 asks for the key
//!                                          1, key(32)                       only if asked
//! -> e, es (48)
//!                                          0, <- e, ee (48)                 or
//!                                          2, code(u16), retry after ms(u32)
//! length(u16) ciphertext  ...              length(u16) ciphertext  ...
//! ```
//! The prelude is the prologue of the handshake, so nobody in between changes the version or the flags unseen. A client
//! that pinned a key sends its first message with the prelude: one round trip. A server that cannot read that message
//! does not have the key and says so; a client that cannot read the answer concludes the same. A rejection is not
//! authenticated: it can only end a connection that the sender could have cut as well.
//!
//! Decides framing and keys only. Sans-IO: bytes in by [`Channel::handle_bytes`], events out by [`Channel::poll_event`],
//! bytes out by [`Channel::outgoing`]. Holds at most one partial record, and nothing at all between records. Rejected
//! alternative: TLS with a pinned certificate, which costs a session tens of kilobytes and middleboxes take apart.

use std::{fmt, sync::LazyLock, time::Duration};

use snow::{
    Builder, HandshakeState, TransportState,
    params::{DHChoice, NoiseParams},
    resolvers::{CryptoResolver as _, DefaultResolver},
};

use crate::{Code, control::MAX_FRAME, server_url::ServerKey};

/// The version of the channel, which changes only when the layout above does.
pub const VERSION: u16 = 1;

/// The largest ciphertext of a record, in bytes.
pub const MAX_RECORD: usize = MAX_FRAME + TAG;

/// The private half of a [`ServerKey`].
#[derive(Clone)]
pub struct ServerSecret([u8; 32]);

/// One side of a secure channel.
pub struct Channel {
    phase: Phase,
    incoming: Vec<u8>,
    outgoing: Vec<u8>,
}

/// What came out of the bytes.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// Everything from now on is secret and authentic (towards the client: from the owner of this key).
    Opened(ServerKey),
    /// One frame, decrypted.
    Frame(Vec<u8>),
}

/// Why a channel cannot go on. What [`Channel::outgoing`] has is still to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SecureError {
    #[error("the bytes do not belong to this protocol")]
    Foreign,
    #[error("the channel's version is not supported")]
    Version,
    #[error("the server does not have the expected key")]
    KeyMismatch,
    #[error("rejected by the server with code {code}")]
    Rejected { code: u16, retry_after: Option<Duration> },
    #[error("a record of {bytes} bytes is larger than {MAX_RECORD} or smaller than {TAG}")]
    RecordSize { bytes: usize },
    #[error("a record was not sealed by the other side")]
    Forged,
    #[error("a frame of {bytes} bytes is larger than {MAX_FRAME}")]
    FrameSize { bytes: usize },
    #[error("the channel is not open")]
    NotOpen,
}

enum Phase {
    /// Server: waits for the prelude.
    Prelude(ServerSecret),
    /// Server: waits for the client's message.
    Greeting(Box<HandshakeState>, ServerKey),
    /// Client: waits for the server's verdict, and for its key when none is pinned.
    Answer(Option<(Box<HandshakeState>, ServerKey)>),
    /// Both: the handshake is done.
    Open { noise: TransportState, hash: [u8; 32], broken: Option<SecureError> },
    /// Both: it came to nothing.
    Failed(SecureError),
}

impl Channel {
    /// The side of the server that has `secret`.
    #[must_use]
    pub const fn server(secret: ServerSecret) -> Self {
        Self::new(Phase::Prelude(secret), Vec::new())
    }

    /// The side of a client of the server `pinned`, or of one that is to tell its key.
    #[must_use]
    pub fn client(pinned: Option<ServerKey>) -> Self {
        match pinned {
            None => Self::new(Phase::Answer(None), prelude(WANT_KEY).to_vec()),
            Some(key) => Self::greeting(initiator(0, key), key, prelude(0).to_vec()),
        }
    }

    /// Takes bytes of the stream. To be called again only after [`Self::poll_event`] gave `None`.
    pub fn handle_bytes(&mut self, bytes: &[u8]) {
        self.incoming.extend_from_slice(bytes);
    }

    /// The next thing that follows from the bytes taken so far.
    ///
    /// # Errors
    /// [`SecureError`], the same from now on: the stream is to be closed. An open channel can still say why.
    pub fn poll_event(&mut self) -> Result<Option<Event>, SecureError> {
        loop {
            match self.step() {
                Ok(Step::Went) => {}
                Ok(Step::Event(event)) => return Ok(Some(event)),
                Ok(Step::Waits) => {
                    // An idle channel owns no buffer.
                    if self.incoming.is_empty() {
                        self.incoming = Vec::new();
                    }
                    return Ok(None);
                }
                Err(error) => {
                    if let Phase::Open { broken, .. } = &mut self.phase {
                        *broken = Some(error);
                    } else {
                        self.phase = Phase::Failed(error);
                    }
                    self.incoming = Vec::new();
                    return Err(error);
                }
            }
        }
    }

    /// Seals one frame for the other side.
    ///
    /// # Errors
    /// [`SecureError::NotOpen`] before [`Event::Opened`], [`SecureError::FrameSize`].
    pub fn send(&mut self, frame: &[u8]) -> Result<(), SecureError> {
        let Phase::Open { noise, .. } = &mut self.phase else { return Err(SecureError::NotOpen) };
        if frame.len() > MAX_FRAME {
            return Err(SecureError::FrameSize { bytes: frame.len() });
        }
        let sealed = frame.len() + TAG;
        let length = u16::try_from(sealed).map_err(|_| SecureError::FrameSize { bytes: frame.len() })?;
        self.outgoing.extend_from_slice(&length.to_be_bytes());
        let start = self.outgoing.len();
        self.outgoing.resize(start + sealed, 0);
        noise.write_message(frame, &mut self.outgoing[start..]).map_err(|_| SecureError::NotOpen)?;
        Ok(())
    }

    /// Bytes for the stream, in order.
    #[must_use]
    pub fn outgoing(&self) -> &[u8] {
        &self.outgoing
    }

    /// Takes note that the first `count` outgoing bytes are on their way.
    pub fn sent(&mut self, count: usize) {
        if count >= self.outgoing.len() {
            self.outgoing = Vec::new();
        } else {
            self.outgoing.drain(..count);
        }
    }

    /// What both sides know of this handshake and nobody of any other: to bind a login to this channel.
    #[must_use]
    pub fn handshake_hash(&self) -> Option<&[u8; 32]> {
        match &self.phase {
            Phase::Open { hash, .. } => Some(hash),
            Phase::Prelude(_) | Phase::Greeting(..) | Phase::Answer(_) | Phase::Failed(_) => None,
        }
    }

    fn step(&mut self) -> Result<Step, SecureError> {
        match &self.phase {
            Phase::Prelude(_) => self.prelude(),
            Phase::Greeting(..) => self.greeted(),
            Phase::Answer(_) => self.answered(),
            Phase::Open { .. } => self.record(),
            Phase::Failed(error) => Err(*error),
        }
    }

    fn prelude(&mut self) -> Result<Step, SecureError> {
        let known = self.incoming.len().min(MAGIC.len());
        if self.incoming[..known] != MAGIC[..known] {
            return Err(SecureError::Foreign);
        }
        let Some(&[_, _, _, _, high, low, flags, _]) = self.incoming.first_chunk::<PRELUDE>() else {
            return Ok(Step::Waits);
        };
        if u16::from_be_bytes([high, low]) != VERSION {
            self.outgoing.extend_from_slice(&rejection(Code::Unsupported, None));
            return Err(SecureError::Version);
        }
        let Phase::Prelude(secret) = &self.phase else { return Err(SecureError::NotOpen) };
        let key = secret.public();
        let prologue: Vec<u8> = self.incoming.drain(..PRELUDE).collect();
        let noise = responder(&prologue, secret);
        if flags & WANT_KEY != 0 {
            self.outgoing.push(KEY);
            self.outgoing.extend_from_slice(key.as_bytes());
        }
        self.phase = Phase::Greeting(Box::new(noise), key);
        Ok(Step::Went)
    }

    fn greeted(&mut self) -> Result<Step, SecureError> {
        let Phase::Greeting(noise, key) = &mut self.phase else { return Err(SecureError::NotOpen) };
        let Some(message) = self.incoming.first_chunk::<MESSAGE>() else { return Ok(Step::Waits) };
        if noise.read_message(message, &mut []).is_err() {
            self.outgoing.extend_from_slice(&rejection(Code::ServerKeyMismatch, None));
            return Err(SecureError::KeyMismatch);
        }
        let mut answer = [ACCEPT; 1 + MESSAGE];
        noise.write_message(&[], &mut answer[1..]).map_err(|_| SecureError::Forged)?;
        self.outgoing.extend_from_slice(&answer);
        let key = *key;
        self.incoming.drain(..MESSAGE);
        self.open(key)
    }

    fn answered(&mut self) -> Result<Step, SecureError> {
        let Phase::Answer(greeting) = &mut self.phase else { return Err(SecureError::NotOpen) };
        match (self.incoming.first(), greeting) {
            (None, _) => Ok(Step::Waits),
            (Some(&REJECT), _) => match self.incoming.first_chunk::<REJECTION>() {
                None => Ok(Step::Waits),
                Some(&[_, high, low, a, b, c, d]) => Err(match u16::from_be_bytes([high, low]) {
                    code if code == Code::ServerKeyMismatch.number() => SecureError::KeyMismatch,
                    code => {
                        let delay = Duration::from_millis(u64::from(u32::from_be_bytes([a, b, c, d])));
                        SecureError::Rejected { code, retry_after: (!delay.is_zero()).then_some(delay) }
                    }
                }),
            },
            (Some(&KEY), None) => match self.incoming[1..].first_chunk::<32>() {
                None => Ok(Step::Waits),
                Some(key) => {
                    let key = ServerKey::from_bytes(*key);
                    self.incoming.drain(..33);
                    let outgoing = std::mem::take(&mut self.outgoing);
                    let incoming = std::mem::take(&mut self.incoming);
                    *self = Self { incoming, ..Self::greeting(initiator(WANT_KEY, key), key, outgoing) };
                    Ok(Step::Went)
                }
            },
            (Some(&ACCEPT), Some((noise, key))) => match self.incoming[1..].first_chunk::<MESSAGE>() {
                None => Ok(Step::Waits),
                Some(message) => {
                    let key = *key;
                    noise.read_message(message, &mut []).map_err(|_| SecureError::KeyMismatch)?;
                    self.incoming.drain(..=MESSAGE);
                    self.open(key)
                }
            },
            (Some(_), _) => Err(SecureError::Foreign),
        }
    }

    fn open(&mut self, key: ServerKey) -> Result<Step, SecureError> {
        let noise = match std::mem::replace(&mut self.phase, Phase::Failed(SecureError::NotOpen)) {
            Phase::Greeting(noise, _) | Phase::Answer(Some((noise, _))) => noise,
            Phase::Prelude(_) | Phase::Answer(None) | Phase::Open { .. } | Phase::Failed(_) => {
                return Err(SecureError::NotOpen);
            }
        };
        let hash = noise.get_handshake_hash().try_into().map_err(|_| SecureError::NotOpen)?;
        let noise = noise.into_transport_mode().map_err(|_| SecureError::NotOpen)?;
        self.phase = Phase::Open { noise, hash, broken: None };
        Ok(Step::Event(Event::Opened(key)))
    }

    fn record(&mut self) -> Result<Step, SecureError> {
        let Phase::Open { noise, broken, .. } = &mut self.phase else { return Err(SecureError::NotOpen) };
        if let Some(error) = broken {
            return Err(*error);
        }
        let Some(header) = self.incoming.first_chunk::<2>() else { return Ok(Step::Waits) };
        let length = usize::from(u16::from_be_bytes(*header));
        if !(TAG..=MAX_RECORD).contains(&length) {
            return Err(SecureError::RecordSize { bytes: length });
        }
        let Some(sealed) = self.incoming.get(2..2 + length) else { return Ok(Step::Waits) };
        let mut frame = vec![0; length - TAG];
        noise.read_message(sealed, &mut frame).map_err(|_| SecureError::Forged)?;
        self.incoming.drain(..2 + length);
        Ok(Step::Event(Event::Frame(frame)))
    }

    fn greeting(mut noise: HandshakeState, key: ServerKey, mut outgoing: Vec<u8>) -> Self {
        let start = outgoing.len();
        outgoing.resize(start + MESSAGE, 0);
        noise.write_message(&[], &mut outgoing[start..]).expect("the first message has a fixed size");
        Self::new(Phase::Answer(Some((Box::new(noise), key))), outgoing)
    }

    const fn new(phase: Phase, outgoing: Vec<u8>) -> Self {
        Self { phase, incoming: Vec::new(), outgoing }
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let phase = match &self.phase {
            Phase::Prelude(_) => "prelude",
            Phase::Greeting(..) => "greeting",
            Phase::Answer(_) => "answer",
            Phase::Open { .. } => "open",
            Phase::Failed(_) => "failed",
        };
        f.debug_struct("Channel").field("phase", &phase).finish_non_exhaustive()
    }
}

impl ServerSecret {
    /// The secret with these bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// What clients know the server by.
    ///
    /// # Panics
    /// Never: the resolver has X25519, and its keys have 32 bytes.
    #[must_use]
    pub fn public(&self) -> ServerKey {
        let mut pair = DefaultResolver.resolve_dh(&DHChoice::Curve25519).expect("the resolver has X25519");
        pair.set(&self.0);
        ServerKey::from_bytes(pair.pubkey().try_into().expect("an X25519 key has 32 bytes"))
    }
}

impl fmt::Debug for ServerSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServerSecret(..)")
    }
}

impl SecureError {
    /// What a client reports when its connection ended with this.
    #[must_use]
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Foreign | Self::Forged => Some(Code::Malformed),
            Self::Version => Some(Code::Unsupported),
            Self::KeyMismatch => Some(Code::ServerKeyMismatch),
            Self::Rejected { code, .. } => Code::from_number(*code),
            Self::RecordSize { .. } | Self::FrameSize { .. } => Some(Code::TooLarge),
            Self::NotOpen => None,
        }
    }
}

/// The bytes that turn a client away before any work was done for it.
#[must_use]
pub fn rejection(code: Code, retry_after: Option<Duration>) -> [u8; REJECTION] {
    let delay = retry_after.map_or(0, |delay| u32::try_from(delay.as_millis()).unwrap_or(u32::MAX));
    let ([high, low], [a, b, c, d]) = (code.number().to_be_bytes(), delay.to_be_bytes());
    [REJECT, high, low, a, b, c, d]
}

enum Step {
    /// There may be more in the same bytes.
    Went,
    Event(Event),
    /// More bytes are needed.
    Waits,
}

fn prelude(flags: u8) -> [u8; PRELUDE] {
    let ([b, u, r, i], [high, low]) = (*MAGIC, VERSION.to_be_bytes());
    [b, u, r, i, high, low, flags, 0]
}

fn initiator(flags: u8, key: ServerKey) -> HandshakeState {
    Builder::new(PARAMS.clone())
        .prologue(&prelude(flags))
        .and_then(|builder| builder.remote_public_key(key.as_bytes()))
        .and_then(Builder::build_initiator)
        .expect("the pattern needs the server's key only")
}

fn responder(prologue: &[u8], secret: &ServerSecret) -> HandshakeState {
    Builder::new(PARAMS.clone())
        .prologue(prologue)
        .and_then(|builder| builder.local_private_key(&secret.0))
        .and_then(Builder::build_responder)
        .expect("the pattern needs the server's key only")
}

static PARAMS: LazyLock<NoiseParams> =
    LazyLock::new(|| "Noise_NK_25519_ChaChaPoly_BLAKE2s".parse().expect("a pattern that the crate knows"));

const MAGIC: &[u8; 4] = b"BURI";
const PRELUDE: usize = 8;
/// A public key and an authentication tag.
const MESSAGE: usize = 32 + TAG;
const REJECTION: usize = 7;
const TAG: usize = 16;
/// A flag of the prelude.
const WANT_KEY: u8 = 1;

// What the server's bytes before the first record begin with.
const ACCEPT: u8 = 0;
const KEY: u8 = 1;
const REJECT: u8 = 2;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_pinned_server_is_reached_in_one_round_trip() {
        let mut client = Channel::client(Some(secret().public()));
        let mut server = Channel::server(secret());
        transfer(&mut client, &mut server);
        assert_eq!(server.poll_event(), Ok(Some(Event::Opened(secret().public()))));
        transfer(&mut server, &mut client);
        assert_eq!(client.poll_event(), Ok(Some(Event::Opened(secret().public()))));
        assert_eq!(client.handshake_hash(), server.handshake_hash());
        assert!(client.handshake_hash().is_some());
    }

    #[test]
    fn an_unknown_server_tells_its_key() {
        let (client, server) = open(Channel::client(None));
        assert_eq!(client.handshake_hash(), server.handshake_hash());
    }

    #[test]
    fn frames_travel_both_ways_in_any_pieces() {
        let (mut client, mut server) = open(Channel::client(None));
        client.send(b"one").unwrap();
        client.send(&[7; MAX_FRAME]).unwrap();
        let bytes = client.outgoing().to_vec();
        let mut frames = Vec::new();
        for piece in bytes.chunks(1000) {
            server.handle_bytes(piece);
            while let Some(Event::Frame(frame)) = server.poll_event().unwrap() {
                frames.push(frame);
            }
        }
        assert_eq!(frames, [b"one".to_vec(), vec![7; MAX_FRAME]]);
        assert_eq!(server.incoming.capacity(), 0, "an idle channel owns no buffer");

        server.send(b"back").unwrap();
        transfer(&mut server, &mut client);
        assert_eq!(client.poll_event(), Ok(Some(Event::Frame(b"back".to_vec()))));
    }

    #[test]
    fn two_handshakes_have_two_hashes() {
        let (first, _) = open(Channel::client(Some(secret().public())));
        let (second, _) = open(Channel::client(Some(secret().public())));
        assert_ne!(first.handshake_hash(), second.handshake_hash());
    }

    #[test]
    fn a_wrong_pin_is_told_to_the_client() {
        let mut client = Channel::client(Some(ServerSecret::from_bytes([9; 32]).public()));
        let mut server = Channel::server(secret());
        transfer(&mut client, &mut server);
        assert_eq!(server.poll_event(), Err(SecureError::KeyMismatch));
        transfer(&mut server, &mut client);
        assert_eq!(client.poll_event(), Err(SecureError::KeyMismatch));
        assert_eq!(client.poll_event(), Err(SecureError::KeyMismatch));
    }

    #[test]
    fn a_server_that_only_says_it_has_the_key_is_found_out() {
        let mut client = Channel::client(Some(secret().public()));
        client.handle_bytes(&[ACCEPT; 1 + MESSAGE]);
        assert_eq!(client.poll_event(), Err(SecureError::KeyMismatch));
    }

    #[test]
    fn a_rejection_before_any_work_names_code_and_delay() {
        let mut client = Channel::client(None);
        client.handle_bytes(&rejection(Code::Busy, Some(Duration::from_millis(1500))));
        let error = client.poll_event().unwrap_err();
        let retry_after = Some(Duration::from_millis(1500));
        assert_eq!(error, SecureError::Rejected { code: Code::Busy.number(), retry_after });
        assert_eq!(error.code(), Some(Code::Busy));
    }

    #[test]
    fn another_protocol_gets_no_answer() {
        let mut server = Channel::server(secret());
        server.handle_bytes(b"GE");
        assert_eq!(server.poll_event(), Err(SecureError::Foreign));
        assert!(server.outgoing().is_empty());
    }

    #[test]
    fn a_newer_channel_is_told_that_it_is_not_supported() {
        let mut server = Channel::server(secret());
        server.handle_bytes(b"BURI\0\x02\0\0");
        assert_eq!(server.poll_event(), Err(SecureError::Version));
        assert_eq!(server.outgoing(), rejection(Code::Unsupported, None));
    }

    #[test]
    fn changed_flags_break_the_handshake() {
        let mut client = Channel::client(Some(secret().public()));
        let mut server = Channel::server(secret());
        let mut bytes = client.outgoing().to_vec();
        bytes[7] ^= 1;
        client.sent(bytes.len());
        server.handle_bytes(&bytes);
        assert_eq!(server.poll_event(), Err(SecureError::KeyMismatch));
    }

    #[test]
    fn a_record_is_bounded_and_authentic() {
        for length in [0, 15, u16::try_from(MAX_RECORD + 1).unwrap(), u16::MAX] {
            let (_, mut server) = open(Channel::client(None));
            server.handle_bytes(&length.to_be_bytes());
            assert_eq!(server.poll_event(), Err(SecureError::RecordSize { bytes: length.into() }));
            assert_eq!(server.poll_event(), Err(SecureError::RecordSize { bytes: length.into() }));
            assert_eq!(server.send(b"that was too large"), Ok(()));
        }
        let (mut client, mut server) = open(Channel::client(None));
        client.send(b"frame").unwrap();
        let mut bytes = client.outgoing().to_vec();
        *bytes.last_mut().unwrap() ^= 1;
        server.handle_bytes(&bytes);
        assert_eq!(server.poll_event(), Err(SecureError::Forged));
    }

    #[test]
    fn a_repeated_record_is_refused() {
        let (mut client, mut server) = open(Channel::client(None));
        client.send(b"frame").unwrap();
        let bytes = client.outgoing().to_vec();
        server.handle_bytes(&bytes);
        assert_eq!(server.poll_event(), Ok(Some(Event::Frame(b"frame".to_vec()))));
        server.handle_bytes(&bytes);
        assert_eq!(server.poll_event(), Err(SecureError::Forged));
    }

    #[test]
    fn a_closed_channel_sends_nothing() {
        assert_eq!(Channel::client(None).send(b"early"), Err(SecureError::NotOpen));
        let (mut client, _) = open(Channel::client(None));
        assert_eq!(client.send(&[0; MAX_FRAME + 1]), Err(SecureError::FrameSize { bytes: MAX_FRAME + 1 }));
        assert!(client.outgoing().is_empty());
    }

    #[test]
    fn the_bytes_of_a_channel_are_fixed() {
        let key = secret().public();
        let noise = Builder::new(PARAMS.clone())
            .prologue(&prelude(WANT_KEY))
            .and_then(|builder| builder.remote_public_key(key.as_bytes()))
            .map(|builder| builder.fixed_ephemeral_key_for_testing_only(&[3; 32]))
            .and_then(Builder::build_initiator)
            .unwrap();
        let mut client = Channel::greeting(noise, key, prelude(WANT_KEY).to_vec());
        let mut server = Channel::server(secret());
        let mut transcript = vec![("client.greeting", client.outgoing().to_vec())];
        server.handle_bytes(client.outgoing());
        client.sent(usize::MAX);
        server.step().ok().unwrap();
        let told = server.outgoing().to_vec();
        server.sent(usize::MAX);
        server.phase = Phase::Greeting(
            Box::new(
                Builder::new(PARAMS.clone())
                    .prologue(&prelude(WANT_KEY))
                    .and_then(|builder| builder.local_private_key(&[5; 32]))
                    .map(|builder| builder.fixed_ephemeral_key_for_testing_only(&[4; 32]))
                    .and_then(Builder::build_responder)
                    .unwrap(),
            ),
            key,
        );
        transcript.push(("server.key", told));
        assert_eq!(server.poll_event(), Ok(Some(Event::Opened(key))));
        transcript.push(("server.accept", server.outgoing().to_vec()));
        transfer(&mut server, &mut client);
        assert_eq!(client.poll_event(), Ok(Some(Event::Opened(key))));
        transcript.push(("hash", client.handshake_hash().unwrap().to_vec()));
        client.send(b"ping").unwrap();
        transcript.push(("client.record", client.outgoing().to_vec()));
        server.send(b"pong").unwrap();
        transcript.push(("server.record", server.outgoing().to_vec()));
        transcript.push(("server.rejection", rejection(Code::Busy, Some(Duration::from_secs(2))).to_vec()));

        let golden = include_str!("../tests/vectors/secure.txt");
        let actual: String = transcript.iter().map(|(name, bytes)| format!("{name} {}\n", hex(bytes))).collect();
        assert_eq!(actual, golden);
    }

    proptest! {
        // A handshake takes tens of milliseconds without optimisation.
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn no_bytes_make_a_channel_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), magic in any::<bool>()) {
            let mut server = Channel::server(secret());
            if magic {
                server.handle_bytes(&prelude(bytes.first().copied().unwrap_or(0)));
            }
            let mut client = Channel::client(None);
            let mut pinned = Channel::client(Some(secret().public()));
            let (_, mut opened) = open(Channel::client(None));
            for channel in [&mut server, &mut client, &mut pinned, &mut opened] {
                channel.handle_bytes(&bytes);
                while let Ok(Some(_)) = channel.poll_event() {}
                prop_assert!(channel.incoming.len() <= bytes.len() + PRELUDE);
            }
        }
    }

    fn secret() -> ServerSecret {
        ServerSecret::from_bytes([5; 32])
    }

    /// Both ends of a channel that the client opened.
    fn open(mut client: Channel) -> (Channel, Channel) {
        let mut server = Channel::server(secret());
        let mut opened = [false; 2];
        for _ in 0..4 {
            transfer(&mut client, &mut server);
            opened[0] |= matches!(server.poll_event().unwrap(), Some(Event::Opened(_)));
            transfer(&mut server, &mut client);
            opened[1] |= matches!(client.poll_event().unwrap(), Some(Event::Opened(_)));
        }
        assert_eq!(opened, [true, true]);
        (client, server)
    }

    fn transfer(from: &mut Channel, to: &mut Channel) {
        to.handle_bytes(from.outgoing());
        from.sent(from.outgoing().len());
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}
