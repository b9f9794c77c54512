//! Where a relay takes streams.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

use minicbor::{Decode, Decoder, Encode, Encoder, decode, encode};

/// A host, by name or address, and a port: what a client connects to by TLS, or names to a proxy.
///
/// It is a text and no socket address, because proxies and inspecting middleboxes know hosts by their names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamEndpoint {
    host: String,
    port: u16,
}

/// Why a text names no endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StreamEndpointError {
    #[error("an endpoint is written HOST:PORT, an IPv6 address in brackets")]
    Form,
    #[error("the host is neither a name nor an address")]
    Host,
    #[error("a port is a number from 1 to 65535")]
    Port,
}

impl StreamEndpoint {
    /// The name or address; an IPv6 address without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }
}

impl From<SocketAddr> for StreamEndpoint {
    fn from(address: SocketAddr) -> Self {
        Self { host: address.ip().to_canonical().to_string(), port: address.port() }
    }
}

impl FromStr for StreamEndpoint {
    type Err = StreamEndpointError;

    fn from_str(text: &str) -> Result<Self, StreamEndpointError> {
        let (host, port) = text.rsplit_once(':').ok_or(StreamEndpointError::Form)?;
        let digits = port.bytes().all(|byte| byte.is_ascii_digit());
        let port = port.parse().ok().filter(|port| *port > 0 && digits).ok_or(StreamEndpointError::Port)?;
        let host = match host.strip_prefix('[') {
            Some(rest) => {
                let bare = rest.strip_suffix(']').ok_or(StreamEndpointError::Form)?;
                bare.parse::<Ipv6Addr>().map_err(|_| StreamEndpointError::Host)?;
                bare
            }
            None => host,
        };
        let is_name = (1..=MAX_HOST).contains(&host.len())
            && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'));
        if !is_name && host.parse::<IpAddr>().is_err() {
            return Err(StreamEndpointError::Host);
        }
        Ok(Self { host: host.to_ascii_lowercase(), port })
    }
}

impl fmt::Display for StreamEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl<C> Encode<C> for StreamEndpoint {
    fn encode<W: encode::Write>(&self, e: &mut Encoder<W>, _: &mut C) -> Result<(), encode::Error<W::Error>> {
        e.str(&self.to_string())?.ok()
    }
}

impl<'b, C> Decode<'b, C> for StreamEndpoint {
    fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, decode::Error> {
        d.str()?.parse().map_err(decode::Error::custom)
    }
}

impl serde::Serialize for StreamEndpoint {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for StreamEndpoint {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The longest name of a host (RFC 1035, section 2.3.4).
const MAX_HOST: usize = 253;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_addresses_read_back() {
        for text in ["relay.example:443", "203.0.113.1:443", "[2001:db8::1]:8443", "a:1"] {
            let endpoint: StreamEndpoint = text.parse().unwrap();
            assert_eq!(endpoint.to_string(), text);
            assert_eq!(minicbor::decode::<StreamEndpoint>(&minicbor::to_vec(&endpoint).unwrap()).unwrap(), endpoint);
        }
        let address = SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1], 443));
        assert_eq!(StreamEndpoint::from(address).to_string(), "[2001:db8::1]:443");
        assert_eq!(StreamEndpoint::from(address).host(), "2001:db8::1");
        assert_eq!("Relay.Example:443".parse::<StreamEndpoint>().unwrap().host(), "relay.example");
    }

    #[test]
    fn what_is_no_endpoint_is_refused_wherever_it_comes_from() {
        use StreamEndpointError::{Form, Host, Port};
        let long = format!("{}:1", "a".repeat(254));
        let wrong = [
            ("", Form),
            ("relay", Form),
            ("relay:", Port),
            ("relay:0", Port),
            ("relay:65536", Port),
            ("relay:+1", Port),
            (":443", Host),
            ("re lay:443", Host),
            ("relay/x:443", Host),
            ("a\r\nX:443", Host),
            ("[relay]:443", Host),
            ("[::1:443", Form),
            (&long, Host),
        ];
        for (text, why) in wrong {
            assert_eq!(text.parse::<StreamEndpoint>(), Err(why), "{text}");
            assert!(minicbor::decode::<StreamEndpoint>(&minicbor::to_vec(text).unwrap()).is_err(), "{text}");
        }
    }
}
