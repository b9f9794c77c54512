//! Ways to a server: plain TCP, or a WebSocket over TLS, which passes where a browser does; both also through an HTTP proxy.
//!
//! Streams to relays take the latter way, too.
//!
//! TLS is for the network in between only. Its certificate is not checked: who the server is decides the secure channel
//! inside, whose key is pinned, so a middlebox that replaces the certificate gains nothing.

use std::{io, net::IpAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::CryptoProvider,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use serde::{Deserialize, Serialize};
use socket2::SockRef;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{Message, protocol::WebSocketConfig},
};
use wire::{control::PATH, server_url::ServerUrl};

/// How long a way may take to open.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// How long a write may take: a server that does not read is lost.
const WRITE_PATIENCE: Duration = Duration::from_secs(20);

/// How long what was sent may go without a sign that it arrived. A cable that is out for ten seconds ends no session.
const UNACKNOWLEDGED: Duration = Duration::from_secs(20);

/// How long the other side may take to leave, too.
const CLOSE_PATIENCE: Duration = Duration::from_secs(1);

/// The largest head of a proxy's answer, in bytes.
const MAX_PROXY_HEAD: u64 = 8 * 1024;

const READ: usize = 16 * 1024;

/// One way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Way {
    /// TCP to the port of the URL.
    Plain,
    /// A WebSocket over TLS to this port.
    Web(u16),
}

/// An HTTP proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Proxy {
    authority: String,
}

/// A WebSocket over TLS.
pub(crate) type Web = WebSocketStream<TlsStream<TcpStream>>;

/// An open way: a stream of bytes.
pub(super) enum Pipe {
    Plain(TcpStream),
    Web(Box<Web>),
}

impl Way {
    /// All ways, the one that worked last in front. A proxy passes TLS best.
    pub(super) fn in_order(last: Option<Self>, proxied: bool) -> Vec<Self> {
        let usual = if proxied {
            [Self::Web(443), Self::Web(8443), Self::Plain]
        } else {
            [Self::Plain, Self::Web(443), Self::Web(8443)]
        };
        last.into_iter().chain(usual.into_iter().filter(|way| Some(*way) != last)).collect()
    }

    /// For people.
    pub(super) fn name(self) -> String {
        match self {
            Self::Plain => "TCP".to_owned(),
            Self::Web(port) => format!("WebSocket over TLS on port {port}"),
        }
    }

    /// Opens this way.
    pub(super) async fn open(self, url: &ServerUrl, proxy: Option<&Proxy>) -> io::Result<Pipe> {
        timeout(PATIENCE, self.opened(url, proxy)).await?
    }

    async fn opened(self, url: &ServerUrl, proxy: Option<&Proxy>) -> io::Result<Pipe> {
        match self {
            Self::Plain => Ok(Pipe::Plain(tcp(url.host(), url.port(), proxy).await?)),
            Self::Web(port) => Ok(Pipe::Web(Box::new(web(url.host(), port, PATH, proxy).await?))),
        }
    }
}

/// A WebSocket over TLS to `host` (a name or an address), where it asks for `path`.
pub(crate) async fn web(host: &str, port: u16, path: &str, proxy: Option<&Proxy>) -> io::Result<Web> {
    let stream = tcp(host, port, proxy).await?;
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let tls = TlsConnector::from(tls_config()?).connect(name, stream).await?;
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    let config = WebSocketConfig::default()
        .read_buffer_size(4 * 1024)
        .write_buffer_size(0)
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE));
    let opened = client_async_with_config(format!("wss://{host}{path}"), tls, Some(config)).await;
    opened.map(|(web, _)| web).map_err(io::Error::other)
}

async fn tcp(host: &str, port: u16, proxy: Option<&Proxy>) -> io::Result<TcpStream> {
    let stream = match proxy {
        None => TcpStream::connect((host, port)).await?,
        Some(proxy) => proxy.connect(host, port).await?,
    };
    stream.set_nodelay(true)?;
    SockRef::from(&stream).set_tcp_user_timeout(Some(UNACKNOWLEDGED))?;
    Ok(stream)
}

/// The largest message of a WebSocket: a few records of the secure channel.
const MAX_MESSAGE: usize = 256 * 1024;

impl Proxy {
    /// The proxy at `http://HOST:PORT`.
    pub(crate) fn parse(url: &str) -> Option<Self> {
        let authority = url.strip_prefix("http://")?.trim_end_matches('/');
        let (host, port) = authority.rsplit_once(':')?;
        let valid = !host.is_empty() && !host.contains(['/', '@', ' ']) && port.parse::<u16>().is_ok();
        valid.then(|| Self { authority: authority.to_owned() })
    }

    /// A tunnel to `host:port` (RFC 9110, section 9.3.6).
    async fn connect(&self, host: &str, port: u16) -> io::Result<TcpStream> {
        let mut stream = TcpStream::connect(&self.authority).await?;
        let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        let request = format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        // One byte at a time, so that nothing of the tunnel is taken.
        let mut head = BufReader::with_capacity(1, (&mut stream).take(MAX_PROXY_HEAD));
        let mut line = String::new();
        head.read_line(&mut line).await?;
        if line.split(' ').nth(1) != Some("200") {
            return Err(io::Error::other(format!("the proxy refused: {}", line.trim())));
        }
        while line != "\r\n" && line != "\n" {
            line.clear();
            if head.read_line(&mut line).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(stream)
    }
}

impl Pipe {
    /// The next bytes. Nothing is lost when the future is dropped.
    ///
    /// # Errors
    /// `UnexpectedEof` at the end of the stream.
    pub(super) async fn read(&mut self) -> io::Result<Bytes> {
        match self {
            Self::Plain(stream) => {
                let mut buffer = bytes::BytesMut::with_capacity(READ);
                match stream.read_buf(&mut buffer).await? {
                    0 => Err(io::ErrorKind::UnexpectedEof.into()),
                    _ => Ok(buffer.freeze()),
                }
            }
            Self::Web(web) => loop {
                match web.next().await {
                    Some(Ok(Message::Binary(bytes))) => return Ok(bytes),
                    Some(Ok(Message::Close(_))) | None => return Err(io::ErrorKind::UnexpectedEof.into()),
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return Err(io::Error::other(error)),
                }
            },
        }
    }

    /// The address of this machine that the stream is bound to.
    pub(super) fn local_address(&self) -> Option<IpAddr> {
        let stream = match self {
            Self::Plain(stream) => stream,
            Self::Web(web) => web.get_ref().get_ref().0,
        };
        stream.local_addr().ok().map(|address| address.ip())
    }

    /// Writes all of `bytes`.
    pub(super) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
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

    /// Says that nothing more comes, and waits until all of it was taken: a stream that is dropped with bytes unread would
    /// take back what was said last.
    pub(super) async fn close(&mut self) {
        let closed = async {
            match self {
                Self::Plain(stream) => stream.shutdown().await?,
                Self::Web(web) => WebSocketStream::close(web, None).await.map_err(io::Error::other)?,
            }
            while self.read().await.is_ok() {}
            Ok::<_, io::Error>(())
        };
        // The other side may be gone already.
        let _ = timeout(CLOSE_PATIENCE, closed).await;
    }
}

impl std::fmt::Debug for Pipe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Plain(_) => "Pipe::Plain",
            Self::Web(_) => "Pipe::Web",
        })
    }
}

fn tls_config() -> io::Result<Arc<ClientConfig>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// Accepts every certificate whose owner proves to have its key; see the top of this file.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn the_way_that_worked_comes_first() {
        assert_eq!(Way::in_order(None, false)[0], Way::Plain);
        let order = Way::in_order(Some(Way::Web(8443)), false);
        assert_eq!(order, [Way::Web(8443), Way::Plain, Way::Web(443)]);
        assert_eq!(Way::in_order(None, true)[0], Way::Web(443));
    }

    #[test]
    fn a_proxy_is_a_host_and_a_port() {
        assert!(Proxy::parse("http://proxy.example:3128").is_some());
        assert!(Proxy::parse("http://[::1]:3128/").is_some());
        for url in ["proxy:3128", "https://proxy:3128", "http://proxy", "http://:1", "http://a@b:1", "http://p:99999"] {
            assert_eq!(Proxy::parse(url), None, "{url}");
        }
    }

    #[tokio::test]
    async fn a_proxy_makes_a_tunnel_and_takes_none_of_its_bytes() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Proxy::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
        let url: ServerUrl = "buri://server.example:1".parse().unwrap();
        let serving = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = [0; 64];
            let count = stream.read(&mut head).await.unwrap();
            assert!(head[..count].starts_with(b"CONNECT server.example:1 HTTP/1.1\r\n"));
            stream.write_all(b"HTTP/1.1 200 Fine\r\nVia: test\r\n\r\nhello").await.unwrap();
            stream
        };
        let (stream, pipe) = tokio::join!(serving, Way::Plain.open(&url, Some(&proxy)));
        assert_eq!(&*pipe.unwrap().read().await.unwrap(), b"hello");
        drop(stream);
    }

    #[tokio::test]
    async fn a_proxy_that_refuses_says_why() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Proxy::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
        let url: ServerUrl = "buri://server.example:1".parse().unwrap();
        let serving = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(b"HTTP/1.1 403 No\r\n\r\n").await.unwrap();
            stream
        };
        let (_stream, pipe) = tokio::join!(serving, Way::Plain.open(&url, Some(&proxy)));
        assert!(pipe.unwrap_err().to_string().contains("403"));
    }
}
