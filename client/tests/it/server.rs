//! A server that says exactly what a test wants it to say, over real sockets.

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use domain::{ClientId, SessionTag, UnixMillis};
use futures_util::{SinkExt as _, StreamExt as _};
use rustls_pki_types::PrivateKeyDer;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_tungstenite::{WebSocketStream, accept_async, tungstenite::Message};
use wire::{
    control::{ClientFrame, LOGIN_CONTEXT, Login, Refused, ServerFrame, Welcome},
    secure::{Channel, Event, SecureError, ServerSecret},
};

/// Longer than anything that works takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Where the WebSocket is looked for when port 443 is closed.
const WEB_PORT: u16 = 8443;

pub(crate) struct Server {
    pub(crate) plain: TcpListener,
    web: TcpListener,
    tls: TlsAcceptor,
    secret: ServerSecret,
}

/// One connection of a client.
pub(crate) struct Session {
    stream: Stream,
    channel: Channel,
}

pub(crate) enum Stream {
    Plain(TcpStream),
    Web(Box<WebSocketStream<TlsStream<TcpStream>>>),
}

impl Server {
    /// A server on a loopback address of its own, `nth` of this process.
    pub(crate) async fn new(nth: u8, secret: [u8; 32]) -> Self {
        let [.., high, low] = std::process::id().to_be_bytes();
        let address = Ipv4Addr::new(127, 200 + nth, high, low);
        let made = rcgen::generate_simple_self_signed(["buri.invalid".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        Self {
            plain: TcpListener::bind((address, 0)).await.unwrap(),
            web: TcpListener::bind((address, WEB_PORT)).await.unwrap(),
            tls: TlsAcceptor::from(Arc::new(config)),
            secret: ServerSecret::from_bytes(secret),
        }
    }

    /// Somebody else at the same address.
    pub(crate) fn with_secret(self, secret: [u8; 32]) -> Self {
        Self { secret: ServerSecret::from_bytes(secret), ..self }
    }

    /// The URL without a fingerprint.
    pub(crate) fn url(&self) -> String {
        format!("buri://{}", self.plain.local_addr().unwrap())
    }

    /// The URL with the fingerprint of `secret`.
    pub(crate) fn url_of(&self, secret: [u8; 32]) -> String {
        format!("{}#{}", self.url(), ServerSecret::from_bytes(secret).public())
    }

    /// A URL whose plain port is closed.
    pub(crate) fn web_url(&self) -> String {
        format!("buri://{}:1", self.plain.local_addr().unwrap().ip())
    }

    /// The next connection over TCP, as far as the secure channel.
    pub(crate) async fn accept(&self) -> Result<Session, SecureError> {
        let (stream, _) = timeout(PATIENCE, self.plain.accept()).await.expect("nobody comes").unwrap();
        self.open(Stream::Plain(stream)).await
    }

    /// The next connection over a WebSocket, as far as the secure channel.
    pub(crate) async fn accept_web(&self) -> Result<Session, SecureError> {
        let (stream, _) = timeout(PATIENCE, self.web.accept()).await.expect("nobody comes").unwrap();
        let stream = self.tls.accept(stream).await.unwrap();
        self.open(Stream::Web(Box::new(accept_async(stream).await.unwrap()))).await
    }

    /// Whether nobody comes by TCP or WebSocket for so long.
    pub(crate) async fn is_left_alone(&self, time: Duration) -> bool {
        let anybody = async {
            tokio::select! {
                _ = self.plain.accept() => {}
                _ = self.web.accept() => {}
            }
        };
        timeout(time, anybody).await.is_err()
    }

    async fn open(&self, stream: Stream) -> Result<Session, SecureError> {
        let mut session = Session { stream, channel: Channel::server(self.secret.clone()) };
        loop {
            let event = session.channel.poll_event();
            session.flush().await;
            match event? {
                Some(Event::Opened(_)) => return Ok(session),
                Some(Event::Frame(_)) => panic!("a frame before the channel is open"),
                None => assert!(session.fill().await, "the client left"),
            }
        }
    }
}

impl Session {
    /// Takes the login, which must be good, and welcomes the client.
    pub(crate) async fn welcome(&mut self) -> Login {
        let login = self.login().await;
        let welcome = Welcome {
            client: ClientId::of(&login.identity),
            nick: None,
            token: Some("a token".to_owned()),
            now: UnixMillis(0),
            keepalive_ms: 60_000,
            tag: SessionTag([7; 16]),
            reflectors: Vec::new(),
            prefix4: 10,
            prefix6: 48,
            relays: Vec::new(),
            membership_keys: Vec::new(),
        };
        self.send(&ServerFrame::Welcome(Box::new(welcome))).await;
        login
    }

    /// Takes the login, which must be good.
    pub(crate) async fn login(&mut self) -> Login {
        let Some(ClientFrame::Login(login)) = self.receive().await else { panic!("no login") };
        let signed = [LOGIN_CONTEXT, self.channel.handshake_hash().unwrap()].concat();
        login.identity.verify(&signed, &login.signature).unwrap();
        login.identity.verify_tunnel_key(&login.tunnel, &login.tunnel_signature).unwrap();
        *login
    }

    /// Says goodbye and leaves.
    pub(crate) async fn end(mut self, refused: Refused) {
        self.send(&ServerFrame::Goodbye(refused)).await;
        while self.receive().await.is_some() {}
    }

    pub(crate) async fn send(&mut self, frame: &ServerFrame) {
        self.channel.send(&frame.encode()).unwrap();
        self.flush().await;
    }

    /// The next frame; `None` when the client left.
    pub(crate) async fn receive(&mut self) -> Option<ClientFrame> {
        loop {
            if let Some(Event::Frame(frame)) = self.channel.poll_event().unwrap() {
                return Some(ClientFrame::decode(&frame).unwrap());
            }
            if !self.fill().await {
                return None;
            }
        }
    }

    async fn flush(&mut self) {
        let bytes = Bytes::copy_from_slice(self.channel.outgoing());
        self.channel.sent(bytes.len());
        if bytes.is_empty() {
            return;
        }
        // A client that left is not told.
        let _ = match &mut self.stream {
            Stream::Plain(stream) => stream.write_all(&bytes).await,
            Stream::Web(web) => web.send(Message::Binary(bytes)).await.map_err(std::io::Error::other),
        };
    }

    async fn fill(&mut self) -> bool {
        let bytes = timeout(PATIENCE, self.read()).await.expect("the client says nothing");
        self.channel.handle_bytes(&bytes);
        !bytes.is_empty()
    }

    async fn read(&mut self) -> Bytes {
        match &mut self.stream {
            Stream::Plain(stream) => {
                let mut bytes = BytesMut::with_capacity(4096);
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
