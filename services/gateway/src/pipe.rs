//! The stream under a connection: plain TCP, or the messages of a WebSocket over TLS.

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
    WebSocketStream, accept_async_with_config,
    tungstenite::{Message, protocol::WebSocketConfig},
};

/// A client that takes longer to read what was written is too slow.
const WRITE_PATIENCE: Duration = Duration::from_secs(10);

const READ: usize = 4 * 1024;

/// The largest message of a WebSocket, in bytes.
const MAX_MESSAGE: usize = 64 * 1024;

/// One stream.
pub(crate) enum Pipe {
    Plain(TcpStream),
    Web(Box<WebSocketStream<TlsStream<TcpStream>>>),
}

impl Pipe {
    /// The server's side of TLS and the WebSocket handshake.
    pub(crate) async fn web(stream: TcpStream, tls: &TlsAcceptor) -> io::Result<Self> {
        let stream = tls.accept(stream).await?;
        let config = WebSocketConfig::default()
            .read_buffer_size(READ)
            .write_buffer_size(0)
            .max_message_size(Some(MAX_MESSAGE))
            .max_frame_size(Some(MAX_MESSAGE));
        let web = accept_async_with_config(stream, Some(config)).await.map_err(io::Error::other)?;
        Ok(Self::Web(Box::new(web)))
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
