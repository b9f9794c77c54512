//! Asks an OpenID provider over HTTPS: as much HTTP/1.1 (RFC 9112) as that takes. One request a connection, answers bounded in
//! size and time, no redirects. A client of a library would bring a second HTTP stack for three requests.

use std::{net::IpAddr, sync::Arc, time::Duration};

use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;
use url::{Host, Url};

/// For one request, from the look-up of the name to the last byte.
const DEADLINE: Duration = Duration::from_secs(8);
/// The largest answer, with its head.
const MAX_ANSWER: u64 = 128 * 1024;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    #[error("the address is none that is asked: https, or http on this machine")]
    Address,
    #[error("the connection failed")]
    Io(#[from] std::io::Error),
    #[error("no answer in time")]
    TimedOut,
    #[error("the answer is no HTTP, or too large")]
    Malformed,
    #[error("the answer has status {0}")]
    Status(u16),
}

/// Asks servers.
pub(crate) struct Fetcher {
    tls: TlsConnector,
}

/// What is sent.
pub(crate) enum Sent<'a> {
    Nothing,
    /// A form, with a user and a password if there are any.
    Form(&'a str, Option<&'a str>),
}

impl Fetcher {
    /// Trusts the roots of the web.
    pub(crate) fn new() -> Result<Self, rustls::Error> {
        let mut roots = RootCertStore::empty();
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let config = config.with_root_certificates(roots).with_no_client_auth();
        Ok(Self { tls: TlsConnector::from(Arc::new(config)) })
    }

    /// The body of the answer with status 200.
    pub(crate) async fn ask(&self, url: &Url, sent: Sent<'_>) -> Result<Vec<u8>, FetchError> {
        timeout(DEADLINE, self.exchange(url, sent)).await.map_err(|_| FetchError::TimedOut)?
    }

    async fn exchange(&self, url: &Url, sent: Sent<'_>) -> Result<Vec<u8>, FetchError> {
        let host = url.host().ok_or(FetchError::Address)?;
        let port = url.port_or_known_default().ok_or(FetchError::Address)?;
        let request = request(url, sent);
        let answer = match url.scheme() {
            "https" => {
                let name = ServerName::try_from(url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned())
                    .map_err(|_| FetchError::Address)?;
                let stream = connect(&host, port).await?;
                converse(self.tls.connect(name, stream).await?, &request).await?
            }
            "http" if is_here(&host) => converse(connect(&host, port).await?, &request).await?,
            _ => return Err(FetchError::Address),
        };
        body(&answer)
    }
}

/// Whether the host is this machine: without TLS nobody else is believed.
pub(crate) fn is_here(host: &Host<&str>) -> bool {
    match host {
        Host::Domain(name) => *name == "localhost",
        Host::Ipv4(address) => address.is_loopback(),
        Host::Ipv6(address) => address.is_loopback(),
    }
}

async fn connect(host: &Host<&str>, port: u16) -> std::io::Result<TcpStream> {
    match host {
        Host::Domain(name) => TcpStream::connect((*name, port)).await,
        Host::Ipv4(address) => TcpStream::connect((IpAddr::V4(*address), port)).await,
        Host::Ipv6(address) => TcpStream::connect((IpAddr::V6(*address), port)).await,
    }
}

fn request(url: &Url, sent: Sent<'_>) -> String {
    let path = match url.query() {
        Some(query) => format!("{}?{query}", url.path()),
        None => url.path().to_owned(),
    };
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    let host = format!("{}{port}", url.host_str().unwrap_or_default());
    let common = "Accept: application/json\r\nConnection: close\r\nUser-Agent: buri\r\n";
    match sent {
        Sent::Nothing => format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{common}\r\n"),
        Sent::Form(form, authorization) => {
            let authorization = authorization.map(|value| format!("Authorization: {value}\r\n")).unwrap_or_default();
            let kind = "Content-Type: application/x-www-form-urlencoded\r\n";
            let length = form.len();
            format!(
                "POST {path} HTTP/1.1\r\nHost: {host}\r\n{common}{authorization}{kind}Content-Length: {length}\r\n\r\n{form}"
            )
        }
    }
}

async fn converse(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> Result<Vec<u8>, FetchError> {
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await?;
    let mut answer = Vec::new();
    match stream.take(MAX_ANSWER + 1).read_to_end(&mut answer).await {
        // Servers that close TLS without saying so have told everything: the length is checked below.
        Err(error) if error.kind() != std::io::ErrorKind::UnexpectedEof => return Err(error.into()),
        Ok(_) | Err(_) => {}
    }
    if answer.len() as u64 > MAX_ANSWER { Err(FetchError::Malformed) } else { Ok(answer) }
}

/// The body of an answer that is whole.
fn body(answer: &[u8]) -> Result<Vec<u8>, FetchError> {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").ok_or(FetchError::Malformed)?;
    let head = std::str::from_utf8(&answer[..end]).map_err(|_| FetchError::Malformed)?;
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.")).and_then(|line| line.split(' ').nth(1));
    let status: u16 = status.and_then(|status| status.parse().ok()).ok_or(FetchError::Malformed)?;
    if status != 200 {
        return Err(FetchError::Status(status));
    }
    let headers: Vec<(String, &str)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim()))
        .collect();
    let header = |wanted: &str| headers.iter().find(|(name, _)| name == wanted).map(|(_, value)| *value);
    let rest = &answer[end + 4..];
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
    fn without_tls_only_this_machine_is_asked() {
        let here = |text: &str| is_here(&Url::parse(text).unwrap().host().unwrap());
        assert!(here("http://127.0.0.1:1/") && here("http://[::1]/") && here("http://localhost/"));
        assert!(!here("http://example.test/") && !here("http://192.0.2.1/") && !here("http://localhost.example.test/"));
    }
}
