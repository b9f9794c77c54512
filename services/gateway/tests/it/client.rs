//! A client that says exactly what a test wants it to say.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use domain::{ClientId, IdentityKey, Signature, TUNNEL_KEY_CONTEXT, TunnelKey};
use futures_util::{SinkExt as _, StreamExt as _};
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_tungstenite::{WebSocketStream, client_async, tungstenite::Message};
use wire::{
    Code,
    control::{ClientFrame, LOGIN_CONTEXT, Login, Refused, ServerFrame, VERSION, Welcome},
    secure::{Channel, Event, SecureError},
    server_url::ServerKey,
};

use crate::lab::{Gateway, NAME};

/// Longer than anything that works takes.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Client {
    stream: Stream,
    pub(crate) channel: Channel,
}

pub(crate) enum Stream {
    Plain(TcpStream),
    Web(Box<WebSocketStream<TlsStream<TcpStream>>>),
}

impl Client {
    /// A connection over TCP whose secure channel is not open yet.
    pub(crate) async fn dial(gateway: &Gateway, pinned: Option<ServerKey>) -> Self {
        let stream = TcpStream::connect(gateway.plain).await.unwrap();
        Self { stream: Stream::Plain(stream), channel: Channel::client(pinned) }
    }

    /// An open connection over TCP.
    pub(crate) async fn plain(gateway: &Gateway) -> Self {
        let mut client = Self::dial(gateway, Some(gateway.key)).await;
        assert_eq!(client.open().await, Ok(gateway.key));
        client
    }

    /// An open connection over a WebSocket.
    pub(crate) async fn web(gateway: &Gateway) -> Self {
        let stream = upgraded(gateway, "/control").await.unwrap();
        let mut client = Self { stream: Stream::Web(Box::new(stream)), channel: Channel::client(Some(gateway.key)) };
        assert_eq!(client.open().await, Ok(gateway.key));
        client
    }

    /// Waits until the secure channel is open, or came to nothing.
    pub(crate) async fn open(&mut self) -> Result<ServerKey, SecureError> {
        loop {
            self.flush().await;
            match self.channel.poll_event()? {
                Some(Event::Opened(key)) => return Ok(key),
                Some(Event::Frame(frame)) => panic!("a frame before the channel is open: {frame:?}"),
                None => {
                    self.flush().await;
                    assert!(self.fill().await, "the gateway left without a word");
                }
            }
        }
    }

    /// Logs in and takes everything up to `Synced`.
    pub(crate) async fn log_in(&mut self, seed: u8) -> (Welcome, Vec<ServerFrame>) {
        self.send_login(seed, None).await;
        self.welcome().await
    }

    pub(crate) async fn send_login(&mut self, seed: u8, token: Option<String>) {
        let login = login(seed, self.channel.handshake_hash().unwrap());
        self.send(&ClientFrame::Login(Box::new(Login { token, ..login }))).await;
    }

    /// Takes what follows a good login.
    pub(crate) async fn welcome(&mut self) -> (Welcome, Vec<ServerFrame>) {
        let welcome = match self.receive().await {
            Some(ServerFrame::Welcome(welcome)) => *welcome,
            other => panic!("no welcome but {other:?}"),
        };
        let mut changes = Vec::new();
        loop {
            let frame = self.receive().await.unwrap();
            if matches!(frame, ServerFrame::Synced(..)) {
                return (welcome, changes);
            }
            changes.push(frame);
        }
    }

    pub(crate) async fn send(&mut self, frame: &ClientFrame) {
        self.channel.send(&frame.encode()).unwrap();
        self.flush().await;
    }

    /// Sends something that need not be a frame, sealed.
    pub(crate) async fn send_sealed(&mut self, bytes: &[u8]) {
        self.channel.send(bytes).unwrap();
        self.flush().await;
    }

    /// Sends bytes as they are. The gateway may have left already.
    pub(crate) async fn send_raw(&mut self, bytes: &[u8]) {
        let _ = match &mut self.stream {
            Stream::Plain(stream) => stream.write_all(bytes).await,
            Stream::Web(web) => {
                web.send(Message::Binary(Bytes::copy_from_slice(bytes))).await.map_err(std::io::Error::other)
            }
        };
    }

    /// The next frame; `None` when the gateway closed the connection.
    pub(crate) async fn receive(&mut self) -> Option<ServerFrame> {
        loop {
            if let Some(Event::Frame(frame)) = self.channel.poll_event().unwrap() {
                let frame = ServerFrame::decode(&frame).unwrap();
                let ServerFrame::Ping(number) = frame else { return Some(frame) };
                self.send(&ClientFrame::Pong(number)).await;
                continue;
            }
            if !self.fill().await {
                return None;
            }
        }
    }

    /// The next frame that is not one of those that come at any time.
    pub(crate) async fn refusal(&mut self) -> Code {
        match self.receive().await {
            Some(ServerFrame::Refused(refused) | ServerFrame::Goodbye(refused)) => {
                assert_eq!(self.receive().await, None, "the connection ends with its refusal");
                code(&refused)
            }
            other => panic!("no refusal but {other:?}"),
        }
    }

    /// Takes what is said until the connection ends. Returns the last frame.
    pub(crate) async fn last_words(&mut self) -> Option<ServerFrame> {
        let mut last = None;
        while let Some(frame) = self.receive().await {
            last = Some(frame);
        }
        last
    }

    /// Waits for the answer to a keepalive: everything said before was dealt with.
    pub(crate) async fn is_alive(&mut self) {
        self.send(&ClientFrame::Ping(7)).await;
        while self.receive().await.unwrap() != ServerFrame::Pong(7) {}
    }

    async fn flush(&mut self) {
        let bytes = self.channel.outgoing().to_vec();
        self.channel.sent(bytes.len());
        if !bytes.is_empty() {
            self.send_raw(&bytes).await;
        }
    }

    /// Whether more bytes came before the end.
    async fn fill(&mut self) -> bool {
        let bytes = timeout(PATIENCE, self.read()).await.expect("the gateway says nothing");
        self.channel.handle_bytes(&bytes);
        !bytes.is_empty()
    }

    async fn read(&mut self) -> Bytes {
        match &mut self.stream {
            Stream::Plain(stream) => {
                let mut bytes = bytes::BytesMut::with_capacity(4096);
                // A reset is an end, too.
                let _ = stream.read_buf(&mut bytes).await;
                bytes.freeze()
            }
            Stream::Web(web) => loop {
                match web.next().await {
                    Some(Ok(Message::Binary(bytes))) => return bytes,
                    Some(Ok(Message::Close(_)) | Err(_)) | None => return Bytes::new(),
                    Some(Ok(Message::Text(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                }
            },
        }
    }
}

/// What the client with this seed signs for the channel with this hash.
pub(crate) fn login(seed: u8, hash: &[u8; 32]) -> Login {
    let pair = Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap();
    let sign = |parts: &[&[u8]]| Signature::try_from(pair.sign(&parts.concat()).as_ref()).unwrap();
    let tunnel = TunnelKey::from_bytes([seed; 32]);
    Login {
        version: VERSION,
        identity: identity(seed),
        tunnel,
        tunnel_signature: sign(&[TUNNEL_KEY_CONTEXT, tunnel.as_bytes()]),
        signature: sign(&[LOGIN_CONTEXT, hash]),
        nick: None,
        token: None,
        known: Vec::new(),
        client: None,
    }
}

pub(crate) fn identity(seed: u8) -> IdentityKey {
    let pair = Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap();
    IdentityKey::try_from(pair.public_key().as_ref()).unwrap()
}

pub(crate) fn id(seed: u8) -> ClientId {
    ClientId::of(&identity(seed))
}

pub(crate) fn code(refused: &Refused) -> Code {
    Code::from_number(refused.code).unwrap()
}

/// A WebSocket over TLS to `path`; the status when it was refused.
pub(crate) async fn upgraded(gateway: &Gateway, path: &str) -> Result<WebSocketStream<TlsStream<TcpStream>>, u16> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(gateway.certificate.clone()).unwrap();
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(gateway.web).await.unwrap();
    let stream = TlsConnector::from(Arc::new(config)).connect(NAME.try_into().unwrap(), stream).await.unwrap();
    match client_async(format!("wss://{NAME}{path}"), stream).await {
        Ok((stream, _)) => Ok(stream),
        Err(tokio_tungstenite::tungstenite::Error::Http(response)) => Err(response.status().as_u16()),
        Err(error) => panic!("{error}"),
    }
}
