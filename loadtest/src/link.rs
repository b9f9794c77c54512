//! What a leg sends through: a UDP socket, or a WebSocket over TLS. Neither ever blocks while traffic is measured.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket},
    os::fd::{AsFd, BorrowedFd},
    path::Path,
    sync::Arc,
};

use anyhow::Context as _;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use socket2::{Domain, Socket, Type};
use tokio_tungstenite::tungstenite::{Error as WebError, Message as WebMessage, WebSocket, client::client};
use wire::{
    relay::MAX_DATAGRAM,
    stream::{Outbox, PATH, frames},
};

/// For whom a deployment's certificate is made.
const NAME: &str = "buri.invalid";

/// Frames that wait for TLS; more are lost, as on any link.
const OUTBOX: usize = 64 * 1024;

/// One way to the server.
#[derive(Debug)]
pub(crate) enum Link {
    Udp(UdpSocket),
    Stream(Box<Stream>),
}

/// A WebSocket over TLS.
pub(crate) struct Stream {
    web: WebSocket<StreamOwned<ClientConnection, TcpStream>>,
    waiting: Outbox,
}

/// Where a relay takes streams, and what it is known by.
#[derive(Clone, Debug)]
pub(crate) struct StreamDoor {
    address: SocketAddr,
    tls: Arc<ClientConfig>,
}

impl StreamDoor {
    /// The door at `address` of whoever has the key of `certificate`, and nobody else.
    pub(crate) fn new(address: SocketAddr, certificate: &Path) -> anyhow::Result<Self> {
        let certificate = CertificateDer::from_pem_file(certificate).context("cannot read the certificate")?;
        let mut roots = RootCertStore::empty();
        roots.add(certificate)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self { address, tls: Arc::new(tls) })
    }

    /// A new stream from the address `own`.
    pub(crate) fn open(&self, own: Ipv4Addr) -> anyhow::Result<Stream> {
        let socket = Socket::new(Domain::for_address(self.address), Type::STREAM, None)?;
        socket.bind(&SocketAddr::from((own, 0)).into())?;
        socket.connect(&self.address.into()).context("cannot reach the relay by TCP")?;
        let stream = TcpStream::from(socket);
        stream.set_nodelay(true)?;
        let connection = ClientConnection::new(Arc::clone(&self.tls), ServerName::try_from(NAME)?)?;
        let tls = StreamOwned::new(connection, stream);
        let (web, _) = client(format!("wss://{NAME}{PATH}"), tls)
            .map_err(|error| anyhow::anyhow!("the relay takes no stream: {error}"))?;
        web.get_ref().sock.set_nonblocking(true)?;
        Ok(Stream { web, waiting: Outbox::new(OUTBOX) })
    }
}

impl Link {
    /// Sends one datagram or frame; what cannot go now is lost.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        match self {
            Self::Udp(socket) => match socket.send(bytes) {
                Ok(_) => Ok(()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
                Err(error) => Err(error.into()),
            },
            Self::Stream(stream) => stream.send([bytes]),
        }
    }
}

impl Stream {
    /// Sends frames together; what finds no room is lost.
    pub(crate) fn send<'a>(&mut self, frames: impl IntoIterator<Item = &'a [u8]>) -> anyhow::Result<()> {
        for frame in frames {
            // It counts as lost when it does not arrive.
            let _ = self.waiting.push(frame);
        }
        self.flush()
    }

    /// Writes what waits, as far as it can be.
    pub(crate) fn flush(&mut self) -> anyhow::Result<()> {
        loop {
            match self.web.flush() {
                Ok(()) => {}
                Err(error) if is_full(&error) => return Ok(()),
                Err(error) => return Err(error).context("the stream ended"),
            }
            let Some(message) = self.waiting.take() else { return Ok(()) };
            match self.web.write(WebMessage::binary(message)) {
                Ok(()) => {}
                Err(error) if is_full(&error) => {}
                Err(error) => return Err(error).context("the stream ended"),
            }
        }
    }

    /// The frames of the next message, into `buffers`, and how long each is; none when nothing is there.
    pub(crate) fn receive(
        &mut self,
        buffers: &mut [[u8; MAX_DATAGRAM]],
        lengths: &mut [usize],
    ) -> anyhow::Result<usize> {
        let message = loop {
            match self.web.read() {
                Ok(WebMessage::Binary(message)) => break message,
                Ok(_) => {}
                Err(error) if is_full(&error) => return Ok(0),
                Err(error) => return Err(error).context("the stream ended"),
            }
        };
        let mut count = 0;
        for ((frame, buffer), length) in frames(&message)?.zip(buffers).zip(lengths) {
            buffer[..frame.len()].copy_from_slice(frame);
            *length = frame.len();
            count += 1;
        }
        Ok(count)
    }
}

/// Whether the kernel has nothing or takes nothing now.
fn is_full(error: &WebError) -> bool {
    matches!(error, WebError::Io(error) if error.kind() == io::ErrorKind::WouldBlock)
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Udp(socket) => socket.as_fd(),
            Self::Stream(stream) => stream.web.get_ref().sock.as_fd(),
        }
    }
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stream").field("waiting", &self.waiting.bytes()).finish_non_exhaustive()
    }
}
