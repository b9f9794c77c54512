//! Asks servers of others over HTTP: as much HTTP/1.1 (RFC 9112) as that takes. One request a connection, answers bounded in
//! size and time, no redirects. A client of a library would bring a second HTTP stack for four requests.
//!
//! # Whom
//! A URL of a stranger can name what only this machine reaches: its own services, its neighbours, the metadata of its host.
//! So [`Whom`] says who may be asked, and it is said of the *addresses* that the name has when it is looked up: the connection
//! goes to an address that was looked at, and to no other, so that a name which is answered differently the next time gains
//! nothing. Public addresses of this machine itself are found out when the connection is there, before anything is sent.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use domain::{Scope, scope};
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpStream, lookup_host},
    time::timeout,
};
use tokio_rustls::TlsConnector;
use url::{Host, Url};

/// The largest answer, with its head.
const MAX_ANSWER: u64 = 128 * 1024;
/// The largest head of an answer whose body does not matter.
const MAX_HEAD: u64 = 16 * 1024;
/// Addresses of one name that are tried.
const MOST_ADDRESSES: usize = 4;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error("the address is none that is asked: https, or http on this machine")]
    Address,
    #[error("the name has no address")]
    Unknown(#[source] std::io::Error),
    #[error("the address is private, or this machine's own")]
    Private,
    #[error("no connection")]
    Connect(#[source] std::io::Error),
    #[error("no TLS with a certificate that is trusted")]
    Tls(#[source] std::io::Error),
    #[error("the connection failed")]
    Io(#[from] std::io::Error),
    #[error("no answer in time")]
    TimedOut,
    #[error("the answer is no HTTP, or too large")]
    Malformed,
    #[error("the answer has status {0}")]
    Status(u16),
}

/// Who may be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whom {
    /// Somebody whom the operator chose: over TLS anybody, without it this machine only.
    Chosen,
    /// The public Internet, and neither this machine nor a private network.
    Public,
    /// Anybody.
    Anybody,
}

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    pub url: &'a Url,
    pub whom: Whom,
    /// For all of it, from the look-up of the name on.
    pub deadline: Duration,
    /// Without line ends: they are not looked at.
    pub headers: &'a [(&'a str, &'a str)],
    /// What is posted, and of which type; `None` asks with GET.
    pub body: Option<(&'a str, &'a str)>,
}

/// Asks servers.
pub struct Fetcher {
    tls: TlsConnector,
}

impl std::fmt::Debug for Fetcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fetcher").finish_non_exhaustive()
    }
}

impl Fetcher {
    /// Trusts the roots of the web.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn new() -> Result<Self, rustls::Error> {
        let mut roots = RootCertStore::empty();
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let config = config.with_root_certificates(roots).with_no_client_auth();
        Ok(Self { tls: TlsConnector::from(Arc::new(config)) })
    }

    /// The body of the answer with status 200.
    ///
    /// # Errors
    /// [`FetchError`].
    pub async fn body(&self, request: &Request<'_>) -> Result<Vec<u8>, FetchError> {
        let answer = timeout(request.deadline, self.exchange(request, Want::All)).await;
        body(&answer.map_err(|_| FetchError::TimedOut)??)
    }

    /// The status of the answer. Its body is not read.
    ///
    /// # Errors
    /// [`FetchError`].
    pub async fn status(&self, request: &Request<'_>) -> Result<u16, FetchError> {
        let answer = timeout(request.deadline, self.exchange(request, Want::Head)).await;
        status(&answer.map_err(|_| FetchError::TimedOut)??)
    }

    async fn exchange(&self, request: &Request<'_>, want: Want) -> Result<Vec<u8>, FetchError> {
        let Request { url, whom, .. } = *request;
        let host = url.host().ok_or(FetchError::Address)?;
        let port = url.port_or_known_default().ok_or(FetchError::Address)?;
        let text = text(request);
        match url.scheme() {
            "https" => {
                let name = ServerName::try_from(url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned())
                    .map_err(|_| FetchError::Address)?;
                let stream = connect(&host, port, whom).await?;
                converse(self.tls.connect(name, stream).await.map_err(FetchError::Tls)?, &text, want).await
            }
            "http" if whom != Whom::Chosen || is_here(&host) => {
                converse(connect(&host, port, whom).await?, &text, want).await
            }
            _ => Err(FetchError::Address),
        }
    }
}

/// How much of an answer is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Want {
    All,
    Head,
}

/// Whether the host is this machine: without TLS nobody else is believed.
#[must_use]
pub fn is_here(host: &Host<&str>) -> bool {
    match host {
        Host::Domain(name) => *name == "localhost",
        Host::Ipv4(address) => address.is_loopback(),
        Host::Ipv6(address) => address.is_loopback(),
    }
}

/// Whether everybody may be sent to this address: it is on the public Internet, and leads nowhere else.
#[must_use]
pub fn is_public(address: IpAddr) -> bool {
    let embedded = match address.to_canonical() {
        IpAddr::V4(v4) => match v4.octets() {
            // Protocol assignments, benchmarks between neighbours, relays to IPv6.
            [192, 0, 0, _] | [198, 18..=19, ..] | [192, 88, 99, _] => return false,
            _ => None,
        },
        // Behind these prefixes stands an IPv4 address: NAT64, 6to4, and the compatible form of old.
        IpAddr::V6(v6) => match v6.segments() {
            // A translator of somebody's own leads where that one wants (RFC 8215, RFC 2765).
            [0x64, 0xff9b, 1, ..] | [0, 0, 0, 0, 0xffff, 0, _, _] => return false,
            [0x64, 0xff9b, ..] | [0, 0, 0, 0, 0, 0, _, _] => Some(v6.to_bits() as u32),
            [0x2002, high, low, ..] => Some(u32::from(high) << 16 | u32::from(low)),
            // Teredo hides it; site-local is private by another name.
            [0x2001, 0, ..] | [0xfec0..=0xfeff, ..] => return false,
            _ => None,
        },
    };
    let behind = embedded.is_none_or(|bits| scope(IpAddr::V4(bits.into())) == Scope::Public);
    scope(address) == Scope::Public && behind
}

async fn connect(host: &Host<&str>, port: u16, whom: Whom) -> Result<TcpStream, FetchError> {
    let addresses: Vec<SocketAddr> = match host {
        Host::Domain(name) => lookup_host((*name, port)).await.map_err(FetchError::Unknown)?.take(16).collect(),
        Host::Ipv4(address) => vec![(IpAddr::V4(*address), port).into()],
        Host::Ipv6(address) => vec![(IpAddr::V6(*address), port).into()],
    };
    // A name with one public and one private address is not a receiver that moves: it is somebody who tries.
    if whom == Whom::Public && addresses.iter().any(|address| !is_public(address.ip())) {
        return Err(FetchError::Private);
    }
    let mut failed = std::io::Error::from(std::io::ErrorKind::NotFound);
    for address in addresses.into_iter().take(MOST_ADDRESSES) {
        match TcpStream::connect(address).await {
            Ok(stream) if whom == Whom::Public && is_own(&stream)? => return Err(FetchError::Private),
            Ok(stream) => return Ok(stream),
            Err(error) => failed = error,
        }
    }
    Err(FetchError::Connect(failed))
}

/// Whether both ends are this machine.
fn is_own(stream: &TcpStream) -> std::io::Result<bool> {
    Ok(stream.local_addr()?.ip() == stream.peer_addr()?.ip())
}

fn text(request: &Request<'_>) -> String {
    let url = request.url;
    let path = match url.query() {
        Some(query) => format!("{}?{query}", url.path()),
        None => url.path().to_owned(),
    };
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    let host = format!("{}{port}", url.host_str().unwrap_or_default());
    let method = if request.body.is_some() { "POST" } else { "GET" };
    let mut text = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n");
    text += "Accept: application/json\r\nConnection: close\r\nUser-Agent: buri\r\n";
    for (name, value) in request.headers {
        text += &format!("{name}: {value}\r\n");
    }
    match request.body {
        Some((kind, body)) => text + &format!("Content-Type: {kind}\r\nContent-Length: {}\r\n\r\n{body}", body.len()),
        None => text + "\r\n",
    }
}

async fn converse(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    request: &str,
    want: Want,
) -> Result<Vec<u8>, FetchError> {
    let sent = async {
        stream.write_all(request.as_bytes()).await?;
        stream.flush().await
    };
    // Who answers before it has read everything may close while we write: what it said counts.
    let sent = sent.await;
    let mut answer = Vec::new();
    if want == Want::Head {
        let mut limited = stream.take(MAX_HEAD);
        while status(&answer).is_err() {
            match limited.read_buf(&mut answer).await {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) => return Err(sent.err().unwrap_or(error).into()),
            }
        }
        if answer.is_empty() {
            return Err(sent.err().unwrap_or_else(|| std::io::ErrorKind::UnexpectedEof.into()).into());
        }
        return Ok(answer);
    }
    sent?;
    match stream.take(MAX_ANSWER + 1).read_to_end(&mut answer).await {
        // Servers that close TLS without saying so have told everything: the length is checked below.
        Err(error) if error.kind() != std::io::ErrorKind::UnexpectedEof => return Err(error.into()),
        Ok(_) | Err(_) => {}
    }
    if answer.len() as u64 > MAX_ANSWER { Err(FetchError::Malformed) } else { Ok(answer) }
}

/// The status of an answer whose head is whole; what comes before it (RFC 9110, section 15.2) is passed over.
fn status(mut answer: &[u8]) -> Result<u16, FetchError> {
    loop {
        let (status, _, rest) = head(answer)?;
        match status {
            100..=199 => answer = rest,
            status => return Ok(status),
        }
    }
}

/// The status, the lines of the head after it, and what follows.
fn head(answer: &[u8]) -> Result<(u16, std::str::Split<'_, &'static str>, &[u8]), FetchError> {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").ok_or(FetchError::Malformed)?;
    let head = std::str::from_utf8(&answer[..end]).map_err(|_| FetchError::Malformed)?;
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.")).and_then(|line| line.split(' ').nth(1));
    let status = status.and_then(|status| status.parse().ok()).filter(|status| (100..=999).contains(status));
    Ok((status.ok_or(FetchError::Malformed)?, lines, &answer[end + 4..]))
}

/// The body of an answer that is whole.
fn body(answer: &[u8]) -> Result<Vec<u8>, FetchError> {
    let (status, lines, rest) = head(answer)?;
    if status != 200 {
        return Err(FetchError::Status(status));
    }
    let headers: Vec<(String, &str)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim()))
        .collect();
    let header = |wanted: &str| headers.iter().find(|(name, _)| name == wanted).map(|(_, value)| *value);
    if header("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
        return chunks(rest).ok_or(FetchError::Malformed);
    }
    match header("content-length").map(str::parse::<usize>) {
        Some(Ok(length)) if length == rest.len() => Ok(rest.to_vec()),
        Some(_) => Err(FetchError::Malformed),
        None => Ok(rest.to_vec()),
    }
}

fn chunks(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = rest.windows(2).position(|two| two == b"\r\n")?;
        let size = std::str::from_utf8(&rest[..line]).ok()?;
        let size = usize::from_str_radix(size.split(';').next()?.trim(), 16).ok()?;
        rest = &rest[line + 2..];
        if size == 0 {
            return Some(body);
        }
        let chunk = rest.get(..size)?;
        body.extend_from_slice(chunk);
        rest = rest.get(size..)?.strip_prefix(b"\r\n")?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_answer_has_a_body() {
        let plain = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";
        let open = b"HTTP/1.0 200 OK\r\n\r\n{}";
        let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n1;x=y\r\n}\r\n0\r\n\r\n";
        for answer in [plain.as_slice(), open, chunked] {
            assert_eq!(body(answer).unwrap(), b"{}");
        }
    }

    #[test]
    fn what_is_cut_off_or_nonsense_has_none() {
        let broken: [&[u8]; 9] = [
            b"",
            b"HTTP/1.1 200 OK\r\n",
            b"SSH-2.0\r\n\r\n",
            b"HTTP/1.1 OK\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{}",
            b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n{}",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n{}\r\n0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        ];
        for answer in broken {
            assert!(matches!(body(answer), Err(FetchError::Malformed)), "{}", String::from_utf8_lossy(answer));
        }
        assert!(matches!(body(b"HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n"), Err(FetchError::Status(302))));
    }

    #[test]
    fn a_status_is_known_as_soon_as_the_head_is_whole() {
        assert_eq!(status(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap(), 204);
        assert_eq!(status(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 302 Found\r\nA: b\r\n\r\nxyz").unwrap(), 302);
        for broken in
            ["", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 20 OK\r\n\r\n", "x\r\n\r\n"]
        {
            assert!(status(broken.as_bytes()).is_err(), "{broken}");
        }
    }

    #[test]
    fn only_addresses_of_the_public_internet_are_public() {
        let public = |text: &str| is_public(text.parse().unwrap());
        for good in ["203.0.113.7", "8.8.8.8", "2001:db8::1", "2606:4700::1", "64:ff9b::808:808", "2002:808:808::1"] {
            assert!(public(good), "{good}");
        }
        let bad = [
            "127.0.0.1",
            "127.255.0.1",
            "0.0.0.0",
            "10.1.2.3",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "100.64.0.1",
            "169.254.169.254",
            "224.0.0.1",
            "255.255.255.255",
            "192.0.0.170",
            "198.18.0.1",
            "::",
            "::1",
            "fe80::1",
            "fec0::1",
            "fd00::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::127.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::808:808",
            "::ffff:0:8.8.8.8",
            "2002:7f00:1::",
            "2002:a00:1::1",
            "2001:0:1::1",
        ];
        for bad in bad {
            assert!(!public(bad), "{bad}");
        }
    }

    #[tokio::test]
    async fn a_private_address_is_not_even_connected_to() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let fetcher = Fetcher::new().unwrap();
        for host in ["127.0.0.1", "localhost", "[::1]", "0x7f000001", "2130706433", "127.1"] {
            let url = Url::parse(&format!("http://{host}:{port}/")).unwrap();
            let deadline = Duration::from_secs(5);
            let request =
                Request { url: &url, whom: Whom::Public, deadline, headers: &[], body: Some(("text/plain", "x")) };
            let refused = fetcher.status(&request).await;
            assert!(matches!(refused, Err(FetchError::Private)), "{host}: {refused:?}");
        }
        assert!(timeout(Duration::from_millis(10), listener.accept()).await.is_err());
    }

    #[test]
    fn without_tls_only_this_machine_is_asked() {
        let here = |text: &str| is_here(&Url::parse(text).unwrap().host().unwrap());
        assert!(here("http://127.0.0.1:1/") && here("http://[::1]/") && here("http://localhost/"));
        assert!(!here("http://example.test/") && !here("http://192.0.2.1/") && !here("http://localhost.example.test/"));
    }
}
