//! What a leg sends through: a UDP socket, or a WebSocket, with TLS or without. None ever blocks while traffic is measured.

use std::{
    collections::VecDeque,
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket},
    os::fd::{AsFd, BorrowedFd},
    path::Path,
    sync::Arc,
};

use anyhow::Context as _;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use socket2::{Domain, Socket, Type};
use tokio_tungstenite::tungstenite::{
    ClientRequestBuilder, Error as WebError, Message as WebMessage, WebSocket, client::client,
};
use wire::{
    relay::MAX_DATAGRAM,
    stream::{Outbox, PATH, frames},
};

use crate::iroh::{self, Endpoint, Said};

/// For whom a deployment's certificate is made.
const NAME: &str = "buri.invalid";

/// Bytes that wait for the kernel; more are lost, as on any link.
const OUTBOX: usize = 64 * 1024;

/// One way to the server.
#[derive(Debug)]
pub(crate) enum Link {
    Udp(UdpSocket),
    Stream(Box<Stream>),
}

/// A WebSocket.
pub(crate) struct Stream {
    web: WebSocket<Pipe>,
    waiting: Waiting,
}

/// What is below a WebSocket.
#[derive(Debug)]
enum Pipe {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

/// Messages that wait for the kernel.
enum Waiting {
    /// Many frames in a message, as our relay takes them.
    Relay(Outbox),
    /// A datagram in each, as iroh-relay takes them.
    Iroh { messages: VecDeque<Vec<u8>>, bytes: usize },
}

/// Where a relay takes streams, and what it is known by.
#[derive(Clone, Debug)]
pub(crate) struct StreamDoor {
    address: SocketAddr,
    tls: Option<Arc<ClientConfig>>,
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
        Ok(Self { address, tls: Some(Arc::new(tls)) })
    }

    /// The door at `address` of whoever is there.
    pub(crate) const fn plain(address: SocketAddr) -> Self {
        Self { address, tls: None }
    }

    /// A new stream from the address `own` to our relay.
    pub(crate) fn open(&self, own: Ipv4Addr) -> anyhow::Result<Stream> {
        let mut web = self.connect(own, None)?;
        web.get_mut().never_block()?;
        Ok(Stream { web, waiting: Waiting::Relay(Outbox::new(OUTBOX)) })
    }

    /// A new stream from the address `own` to an iroh-relay, as `endpoint`.
    pub(crate) fn open_as(&self, own: Ipv4Addr, endpoint: &Endpoint) -> anyhow::Result<Stream> {
        let mut web = self.connect(own, Some(iroh::PROTOCOL))?;
        loop {
            let WebMessage::Binary(message) = web.read()? else { continue };
            match Said::parse(&message) {
                Said::Challenge(challenge) => web.send(WebMessage::binary(endpoint.prove(challenge)))?,
                Said::Confirmed => break,
                Said::Datagrams { .. } | Said::Ping(_) | Said::Else => anyhow::bail!("the iroh-relay lets nobody in"),
            }
        }
        web.get_mut().never_block()?;
        Ok(Stream { web, waiting: Waiting::Iroh { messages: VecDeque::new(), bytes: 0 } })
    }

    fn connect(&self, own: Ipv4Addr, protocol: Option<&str>) -> anyhow::Result<WebSocket<Pipe>> {
        let socket = Socket::new(Domain::for_address(self.address), Type::STREAM, None)?;
        socket.bind(&SocketAddr::from((own, 0)).into())?;
        socket.connect(&self.address.into()).context("cannot reach the relay by TCP")?;
        let stream = TcpStream::from(socket);
        stream.set_nodelay(true)?;
        let (scheme, pipe) = match &self.tls {
            None => ("ws", Pipe::Plain(stream)),
            Some(tls) => {
                let connection = ClientConnection::new(Arc::clone(tls), ServerName::try_from(NAME)?)?;
                ("wss", Pipe::Tls(Box::new(StreamOwned::new(connection, stream))))
            }
        };
        let request = ClientRequestBuilder::new(format!("{scheme}://{NAME}{PATH}").parse()?);
        let request = protocol.into_iter().fold(request, ClientRequestBuilder::with_sub_protocol);
        let (web, _) = client(request, pipe).map_err(|error| anyhow::anyhow!("the relay takes no stream: {error}"))?;
        Ok(web)
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
            self.waiting.push(frame);
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
        loop {
            let message = match self.web.read() {
                Ok(WebMessage::Binary(message)) => message,
                Ok(_) => continue,
                Err(error) if is_full(&error) => return Ok(0),
                Err(error) => return Err(error).context("the stream ended"),
            };
            if let Waiting::Relay(_) = self.waiting {
                return Ok(put(frames(&message)?, buffers, lengths));
            }
            match Said::parse(&message) {
                Said::Datagrams { bytes, length } => return Ok(put(bytes.chunks(length), buffers, lengths)),
                Said::Ping(answer) => self.waiting.push(&answer),
                Said::Challenge(_) | Said::Confirmed | Said::Else => {}
            }
        }
    }
}

impl Waiting {
    /// It counts as lost when it does not arrive.
    fn push(&mut self, frame: &[u8]) {
        match self {
            Self::Relay(outbox) => drop(outbox.push(frame)),
            Self::Iroh { messages, bytes } if *bytes + frame.len() <= OUTBOX => {
                *bytes += frame.len();
                messages.push_back(frame.to_vec());
            }
            Self::Iroh { .. } => {}
        }
    }

    fn take(&mut self) -> Option<Vec<u8>> {
        match self {
            Self::Relay(outbox) => outbox.take(),
            Self::Iroh { messages, bytes } => {
                let message = messages.pop_front()?;
                *bytes -= message.len();
                Some(message)
            }
        }
    }
}

fn put<'a>(
    datagrams: impl Iterator<Item = &'a [u8]>,
    buffers: &mut [[u8; MAX_DATAGRAM]],
    lengths: &mut [usize],
) -> usize {
    let mut count = 0;
    for ((datagram, buffer), length) in datagrams.zip(buffers).zip(lengths) {
        // A longer one is none of ours.
        *length = datagram.len().min(MAX_DATAGRAM);
        buffer[..*length].copy_from_slice(&datagram[..*length]);
        count += 1;
    }
    count
}

/// Whether the kernel has nothing or takes nothing now.
fn is_full(error: &WebError) -> bool {
    matches!(error, WebError::Io(error) if error.kind() == io::ErrorKind::WouldBlock)
}

impl Pipe {
    fn never_block(&self) -> io::Result<()> {
        self.socket().set_nonblocking(true)
    }

    const fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(stream) => &stream.sock,
        }
    }
}

impl Read for Pipe {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.write(bytes),
            Self::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(socket) => socket.flush(),
            Self::Tls(stream) => stream.flush(),
        }
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Udp(socket) => socket.as_fd(),
            Self::Stream(stream) => stream.web.get_ref().socket().as_fd(),
        }
    }
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stream").field("pipe", self.web.get_ref()).finish_non_exhaustive()
    }
}
