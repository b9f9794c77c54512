//! Where a server is and how it is recognised: `buri://host[:port]#fingerprint`.
//!
//! The fingerprint is the whole static key of the server (32 bytes), in lower-case base32 (RFC 4648) without padding, so
//! that a URL is enough to connect safely. Without one the key is pinned at first use.

use std::{fmt, net::Ipv6Addr, str::FromStr};

/// The port of the plain transport, when a URL names none.
pub const DEFAULT_PORT: u16 = 12975;

/// The public X25519 key (RFC 7748) that a server proves to have.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerKey([u8; 32]);

/// A server's address and, when known, its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerUrl {
    host: String,
    port: u16,
    key: Option<ServerKey>,
}

/// Why a text is no URL of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ServerUrlError {
    #[error("a server is written buri://host[:port]#fingerprint")]
    Scheme,
    #[error("the host is neither a name nor an address")]
    Host,
    #[error("a port is a number from 1 to 65535")]
    Port,
    #[error("a fingerprint has {FINGERPRINT} characters of a-z and 2-7")]
    Fingerprint,
}

impl ServerUrl {
    /// The URL of the server at `host` (a name or an address) and `port`.
    ///
    /// # Errors
    /// [`ServerUrlError::Host`] or [`ServerUrlError::Port`].
    pub fn new(host: &str, port: u16, key: Option<ServerKey>) -> Result<Self, ServerUrlError> {
        let name = |host: &str| {
            (1..=253).contains(&host.len())
                && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'))
        };
        if !name(host) && host.parse::<Ipv6Addr>().is_err() {
            return Err(ServerUrlError::Host);
        }
        if port == 0 {
            return Err(ServerUrlError::Port);
        }
        Ok(Self { host: host.to_ascii_lowercase(), port, key })
    }

    /// The name or address of the host; an IPv6 address without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port of the plain transport.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// The key of the server, when the URL names one.
    #[must_use]
    pub const fn key(&self) -> Option<ServerKey> {
        self.key
    }

    /// `host:port`, as a client remembers a server by.
    #[must_use]
    pub fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl FromStr for ServerUrl {
    type Err = ServerUrlError;

    fn from_str(text: &str) -> Result<Self, ServerUrlError> {
        let rest = text.strip_prefix("buri://").ok_or(ServerUrlError::Scheme)?;
        let (authority, key) = match rest.split_once('#') {
            Some((authority, fingerprint)) => (authority, Some(fingerprint.parse()?)),
            None => (rest, None),
        };
        let authority = authority.strip_suffix('/').unwrap_or(authority);
        let (host, port) = match authority.strip_prefix('[') {
            Some(bracketed) => {
                let (host, after) = bracketed.split_once(']').ok_or(ServerUrlError::Host)?;
                host.parse::<Ipv6Addr>().map_err(|_| ServerUrlError::Host)?;
                match after.strip_prefix(':') {
                    Some(port) => (host, Some(port)),
                    None if after.is_empty() => (host, None),
                    None => return Err(ServerUrlError::Port),
                }
            }
            None => match authority.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (authority, None),
            },
        };
        let port = match port {
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                digits.parse().map_err(|_| ServerUrlError::Port)?
            }
            Some(_) => return Err(ServerUrlError::Port),
            None => DEFAULT_PORT,
        };
        Self::new(host, port, key)
    }
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        write!(f, "buri://{host}")?;
        if self.port != DEFAULT_PORT {
            write!(f, ":{}", self.port)?;
        }
        self.key.map_or(Ok(()), |key| write!(f, "#{key}"))
    }
}

impl ServerKey {
    /// The key with these bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes of the key.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for ServerKey {
    /// The fingerprint.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::with_capacity(FINGERPRINT);
        for index in 0..FINGERPRINT {
            text.push(char::from(ALPHABET[usize::from(five_bits(&self.0, index))]));
        }
        f.write_str(&text)
    }
}

impl fmt::Debug for ServerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ServerKey {
    type Err = ServerUrlError;

    fn from_str(text: &str) -> Result<Self, ServerUrlError> {
        if text.len() != FINGERPRINT {
            return Err(ServerUrlError::Fingerprint);
        }
        let mut bytes = [0; 32];
        let (mut gathered, mut bits, mut at) = (0_u32, 0, 0);
        for character in text.bytes() {
            let value = match character {
                b'a'..=b'z' => character - b'a',
                b'2'..=b'7' => character - b'2' + 26,
                _ => return Err(ServerUrlError::Fingerprint),
            };
            gathered = gathered << 5 | u32::from(value);
            bits += 5;
            if bits >= 8 {
                bits -= 8;
                bytes[at] = (gathered >> bits) as u8;
                gathered &= (1 << bits) - 1;
                at += 1;
            }
        }
        // One key, one text: the bits left over must be zero.
        if gathered == 0 { Ok(Self(bytes)) } else { Err(ServerUrlError::Fingerprint) }
    }
}

/// Characters of a fingerprint: 256 bits, five each.
const FINGERPRINT: usize = 52;

const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// The five bits of `bytes` that character `index` stands for.
fn five_bits(bytes: &[u8; 32], index: usize) -> u8 {
    let (byte, shift) = (index * 5 / 8, index * 5 % 8);
    let next = bytes.get(byte + 1).copied().unwrap_or(0);
    let word = u16::from_be_bytes([bytes[byte], next]);
    ((word << shift) >> 11) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_one_fingerprint() {
        let mut bytes = [0; 32];
        bytes.iter_mut().zip(0_u8..).for_each(|(byte, n)| *byte = n.wrapping_mul(37).wrapping_add(11));
        let key = ServerKey::from_bytes(bytes);
        assert_eq!(key.to_string().parse(), Ok(key));
        assert_eq!(ServerKey::from_bytes([0; 32]).to_string(), "a".repeat(52));
        // `printf '\xff%.0s' {1..32} | base32 | tr A-Z a-z`
        assert_eq!(ServerKey::from_bytes([0xff; 32]).to_string(), format!("{}q", "7".repeat(51)));
    }

    #[test]
    fn a_fingerprint_is_exact() {
        for text in ["", "aaaa", &"a".repeat(53), &"A".repeat(52), &"1".repeat(52), &format!("{}b", "a".repeat(51))] {
            assert_eq!(text.parse::<ServerKey>(), Err(ServerUrlError::Fingerprint), "{text}");
        }
    }

    #[test]
    fn a_url_reads_back_from_its_text() {
        let print = ServerKey::from_bytes([7; 32]).to_string();
        for text in [
            "buri://example.org".to_owned(),
            "buri://127.0.0.1:5000".to_owned(),
            format!("buri://[::1]:99#{print}"),
            format!("buri://[fd00::2]#{print}"),
            format!("buri://a-b.example#{print}"),
        ] {
            assert_eq!(text.parse::<ServerUrl>().unwrap().to_string(), text);
        }
        let url: ServerUrl = "buri://Example.org/".parse().unwrap();
        assert_eq!((url.host(), url.port(), url.key()), ("example.org", DEFAULT_PORT, None));
        assert_eq!("buri://[::1]:99".parse::<ServerUrl>().unwrap().authority(), "[::1]:99");
    }

    #[test]
    fn other_texts_are_no_urls() {
        for (text, error) in [
            ("example.org", ServerUrlError::Scheme),
            ("http://example.org", ServerUrlError::Scheme),
            ("buri://", ServerUrlError::Host),
            ("buri://a b", ServerUrlError::Host),
            ("buri://[::1", ServerUrlError::Host),
            ("buri://[example]", ServerUrlError::Host),
            ("buri://a:", ServerUrlError::Port),
            ("buri://a:+1", ServerUrlError::Port),
            ("buri://a:0", ServerUrlError::Port),
            ("buri://a:65536", ServerUrlError::Port),
            ("buri://[::1]99", ServerUrlError::Port),
            ("buri://a#b", ServerUrlError::Fingerprint),
        ] {
            assert_eq!(text.parse::<ServerUrl>(), Err(error), "{text}");
        }
    }
}
