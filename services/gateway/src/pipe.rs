//! The stream under a connection: plain TCP, or the messages of a WebSocket over TLS.
//!
//! The path that a WebSocket is asked for says what it is for: a control connection, or a relay's frames. The latter are
//! handed over where a relay runs in this process, and refused where none does.

use std::{io, time::Duration};

use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_tungstenite::{
    WebSocketStream, accept_hdr_async_with_config,
    tungstenite::{
        Message,
        handshake::server::{ErrorResponse, Request, Response},
        http::StatusCode,
        protocol::WebSocketConfig,
    },
};

/// A client that takes longer to read what was written is too slow.
const WRITE_PATIENCE: Duration = Duration::from_secs(10);

const READ: usize = 4 * 1024;

/// The largest message of a WebSocket, in bytes.
const MAX_MESSAGE: usize = 64 * 1024;

/// A WebSocket over TLS.
pub type Web = WebSocketStream<TlsStream<TcpStream>>;

/// One stream.
pub(crate) enum Pipe {
    Plain(TcpStream),
    Web(Box<Web>),
}

/// What a stream is for.
pub(crate) enum Opened {
    Control(Pipe),
    Relay(Box<Web>),
}

impl Pipe {
    /// The server's side of TLS and the WebSocket handshake. What is for a relay is refused unless `relays`.
    pub(crate) async fn web(stream: TcpStream, tls: &TlsAcceptor, relays: bool) -> io::Result<Opened> {
        let stream = tls.accept(stream).await?;
        let mut relay = false;
        #[expect(clippy::result_large_err, reason = "the library's callback")]
        let check = |request: &Request, response: Response| -> Result<Response, ErrorResponse> {
            relay = request.uri().path() == wire::stream::PATH && relays;
            if relay || request.uri().path() == wire::control::PATH {
                return Ok(response);
            }
            let mut refusal = ErrorResponse::new(None);
            *refusal.status_mut() = StatusCode::NOT_FOUND;
            Err(refusal)
        };
        let config = WebSocketConfig::default()
            .read_buffer_size(READ)
            .write_buffer_size(0)
            .max_message_size(Some(MAX_MESSAGE))
            .max_frame_size(Some(MAX_MESSAGE));
        let web = accept_hdr_async_with_config(stream, check, Some(config)).await.map_err(io::Error::other)?;
        let web = Box::new(web);
        Ok(if relay { Opened::Relay(web) } else { Opened::Control(Self::Web(web)) })
    }

    /// The next bytes. Nothing is lost when the future is dropped.
    pub(crate) async fn read(&mut self) -> io::Result<Bytes> {
        match self {
            Self::Plain(stream) => {
                // A session that waits owns no buffer: it is made when there is something to read.
                stream.readable().await?;
                let mut buffer = BytesMut::with_capacity(READ);
                match stream.read_buf(&mut buffer).await? {
                    0 => Err(io::ErrorKind::UnexpectedEof.into()),
                    _ => Ok(buffer.freeze()),
                }
            }
            Self::Web(web) => loop {
                match web.next().await {
                    Some(Ok(Message::Binary(bytes))) => return Ok(bytes),
                    Some(Ok(Message::Close(_))) | None => return Err(io::ErrorKind::UnexpectedEof.into()),
                    Some(Ok(Message::Text(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                    Some(Err(error)) => return Err(io::Error::other(error)),
                }
            },
        }
    }

    /// Writes all of `bytes`; `TimedOut` when the client does not read.
    pub(crate) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let written = async {
            match self {
                Self::Plain(stream) => stream.write_all(bytes).await,
                Self::Web(web) => {
                    web.send(Message::Binary(Bytes::copy_from_slice(bytes))).await.map_err(io::Error::other)
                }
            }
        };
        timeout(WRITE_PATIENCE, written).await?
    }

    /// Says that nothing more comes.
    pub(crate) async fn close(&mut self) {
        let closed = async {
            match self {
                Self::Plain(stream) => stream.shutdown().await,
                Self::Web(web) => web.close().await.map_err(io::Error::other),
            }
        };
        // The other side may be gone already.
        let _ = timeout(Duration::from_secs(1), closed).await;
    }
}
