//! As much of HTTP/1.1 as it takes to ask one thing: one request on one connection.

use std::{
    io::{self, BufRead as _, Read as _, Write as _},
    net::{TcpStream, ToSocketAddrs as _},
    time::Duration,
};

use serde_json::Value;

use super::commands::Request;

/// No answer takes longer, but the export of a long log.
const PATIENCE: Duration = Duration::from_secs(60);

/// The longest head of a stream, and the longest size of a chunk with its end.
const LONGEST_HEAD: u64 = 16 * 1024;
const LONGEST_SIZE: u64 = 18;

/// The API.
#[derive(Debug)]
pub(crate) struct Server {
    authority: String,
    token: String,
}

/// What the API answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) etag: Option<String>,
    pub(crate) text: String,
}

/// An answer without an end, or one that says why there is none.
pub(crate) enum Streamed {
    Open(Chunks),
    Refused(Answer),
}

/// The content of chunks, as they come.
#[derive(Debug)]
pub(crate) struct Chunks {
    stream: io::BufReader<TcpStream>,
    /// Of the chunk that is read.
    left: u64,
}

impl io::Read for Chunks {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let malformed = || io::Error::from(io::ErrorKind::InvalidData);
        while self.left == 0 {
            let mut line = String::new();
            self.stream.by_ref().take(LONGEST_SIZE).read_line(&mut line)?;
            // Before every chunk but the first stands the end of the one before.
            let size = match line.trim() {
                "" if line == "\r\n" => continue,
                text => u64::from_str_radix(text, 16).map_err(|_| malformed())?,
            };
            if size == 0 {
                return Ok(0);
            }
            self.left = size;
        }
        let read = self.stream.by_ref().take(self.left).read(into)?;
        self.left -= read as u64;
        Ok(read)
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HttpError {
    #[error("the URL of the API begins with http:// and has nothing after the port")]
    Url,
    #[error("cannot reach the API at {authority}")]
    Unreachable { authority: String, source: io::Error },
    #[error("the API's answer broke off")]
    Broken(#[source] io::Error),
    #[error("that is no answer of the API")]
    Malformed,
}

impl Server {
    pub(crate) fn new(url: &str, token: &str) -> Result<Self, HttpError> {
        let authority = url.strip_prefix("http://").map(|rest| rest.trim_end_matches('/')).ok_or(HttpError::Url)?;
        let fits = !authority.is_empty() && authority.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/');
        if !fits {
            return Err(HttpError::Url);
        }
        let port =
            if authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()) { "" } else { ":80" };
        Ok(Self { authority: format!("{authority}{port}"), token: token.to_owned() })
    }

    pub(crate) fn send(&self, request: &Request) -> Result<Answer, HttpError> {
        let mut bytes = Vec::new();
        self.connect(request)?.read_to_end(&mut bytes).map_err(HttpError::Broken)?;
        read(&bytes)
    }

    /// A connection over which `request` was sent.
    fn connect(&self, request: &Request) -> Result<TcpStream, HttpError> {
        let unreachable = |source| HttpError::Unreachable { authority: self.authority.clone(), source };
        let address = self.authority.to_socket_addrs().map_err(unreachable)?.next();
        let address = address.ok_or_else(|| unreachable(io::Error::other("the name has no address")))?;
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5)).map_err(unreachable)?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(HttpError::Broken)?;
        stream.write_all(self.text(request).as_bytes()).map_err(HttpError::Broken)?;
        Ok(stream)
    }

    /// Asks for something that has no end.
    pub(crate) fn open(&self, request: &Request) -> Result<Streamed, HttpError> {
        let mut stream = io::BufReader::new(self.connect(request)?);
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let read = stream.by_ref().take(LONGEST_HEAD).read_until(b'\n', &mut head).map_err(HttpError::Broken)?;
            if read == 0 || head.len() as u64 > LONGEST_HEAD {
                return Err(HttpError::Malformed);
            }
        }
        let text = str::from_utf8(&head).map_err(|_| HttpError::Malformed)?.to_ascii_lowercase();
        if text.starts_with("http/1.1 200 ") && text.contains("\r\ntransfer-encoding: chunked\r\n") {
            return Ok(Streamed::Open(Chunks { stream, left: 0 }));
        }
        stream.read_to_end(&mut head).map_err(HttpError::Broken)?;
        read(&head).map(Streamed::Refused)
    }

    fn text(&self, request: &Request) -> String {
        let (method, target) = (request.method.name(), request.target());
        let Self { authority, token } = self;
        let mut text = format!("{method} {target} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n");
        text += &format!("Authorization: Bearer {token}\r\nAccept: application/json\r\n");
        for (name, value) in &request.headers {
            text += &format!("{name}: {value}\r\n");
        }
        match &request.body {
            Some(body) => {
                let body = body.to_string();
                text + &format!("Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len())
            }
            None => text + "Content-Length: 0\r\n\r\n",
        }
    }
}

impl Answer {
    pub(crate) const fn is_success(&self) -> bool {
        matches!(self.status, 200..=299)
    }

    pub(crate) fn document(&self) -> Result<Value, HttpError> {
        if self.text.is_empty() {
            return Ok(Value::Object(serde_json::Map::new()));
        }
        serde_json::from_str(&self.text).map_err(|_| HttpError::Malformed)
    }
}

/// Takes an answer apart whose connection was closed after it.
fn read(bytes: &[u8]) -> Result<Answer, HttpError> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").ok_or(HttpError::Malformed)?;
    let head = str::from_utf8(&bytes[..end]).map_err(|_| HttpError::Malformed)?;
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok());
    let header = |wanted: &str| {
        let mut fields = head.split("\r\n").skip(1).filter_map(|line| line.split_once(':'));
        fields.find(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value.trim().to_owned())
    };
    let rest = &bytes[end + 4..];
    let body = match (header("transfer-encoding"), header("content-length")) {
        (Some(coding), _) if coding.eq_ignore_ascii_case("chunked") => joined(rest).ok_or(HttpError::Malformed)?,
        (_, Some(length)) if length.parse() != Ok(rest.len()) => return Err(HttpError::Malformed),
        _ => rest.to_vec(),
    };
    let text = String::from_utf8(body).map_err(|_| HttpError::Malformed)?;
    Ok(Answer { status: status.ok_or(HttpError::Malformed)?, etag: header("etag"), text })
}

/// The content of chunks; `None` when the last one is missing.
fn joined(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut content = Vec::new();
    loop {
        let end = rest.windows(2).position(|window| window == b"\r\n")?;
        let size = str::from_utf8(&rest[..end]).ok()?.split(';').next()?.trim();
        let size = usize::from_str_radix(size, 16).ok()?;
        if size == 0 {
            return Some(content);
        }
        let chunk = rest.get(end + 2..)?;
        content.extend_from_slice(chunk.get(..size)?);
        rest = chunk.get(size + 2..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_taken_apart_and_broken_ones_refused() {
        let plain = read(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nETag: \"r1\"\r\n\r\n{}").unwrap();
        assert_eq!((plain.status, plain.etag.as_deref(), plain.text.as_str()), (200, Some("\"r1\""), "{}"));
        let chunked =
            read(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\n\r\n");
        assert_eq!(chunked.unwrap().text, "abc0123456789");
        let empty = read(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap();
        assert!(empty.is_success() && empty.document().unwrap().as_object().unwrap().is_empty());
        let broken: [&[u8]; 6] = [
            b"",
            b"HTTP/1.1 200 OK\r\n",
            b"HTTP/1.1 2x0 OK\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n{}",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nab",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        ];
        for bytes in broken {
            assert!(read(bytes).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn a_url_is_plain_http_without_a_path() {
        for good in ["http://127.0.0.1:1", "http://[::1]:80/", "http://admin"] {
            assert!(Server::new(good, "t").is_ok(), "{good}");
        }
        assert_eq!(Server::new("http://admin", "t").unwrap().authority, "admin:80");
        for bad in ["https://a", "127.0.0.1:1", "http://", "http://a/b", "http://a\r\nb"] {
            assert!(Server::new(bad, "t").is_err(), "{bad}");
        }
    }
}
