//! The answering half: what a reflector says to a binding request, and from which of its sockets.

use std::{net::SocketAddr, time::Duration};

use domain::{SessionTag, UnixMillis, Vantage};

use super::{
    LONGEST_DELAY,
    observation::{ObservationKey, Observed},
    stun::{Attribute, Kind, Message, Writer},
};

/// Room for every answer.
pub const MAX_ANSWER_SIZE: usize = 256;

/// Unknown attributes that an error names; a request with more of them is hostile.
const MAX_UNKNOWN: usize = 8;

/// One of the up to four sockets of a reflector: two addresses by two ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Corner {
    /// First address, first port.
    R1P,
    /// First address, second port.
    R1Q,
    /// Second address, first port.
    R2P,
    /// Second address, second port.
    R2Q,
}

impl Corner {
    /// All corners, in the order of their numbers.
    pub const ALL: [Self; 4] = [Self::R1P, Self::R1Q, Self::R2P, Self::R2Q];

    /// The corner that lies at `vantage` from here.
    #[must_use]
    pub const fn seen_from(self, vantage: Vantage) -> Self {
        let change = match vantage {
            Vantage::Asked => 0,
            Vantage::OtherPort => 1,
            Vantage::OtherAddress => 2,
            Vantage::Opposite => 3,
        };
        Self::ALL[self as usize ^ change]
    }
}

/// The public face of one reflector. The same question has the same answer.
#[derive(Clone, Debug)]
pub struct Mirror {
    corners: [Option<SocketAddr>; 4],
    key: ObservationKey,
}

/// A datagram that arrived at a reflector.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    pub source: SocketAddr,
    /// The socket that it arrived at.
    pub at: Corner,
    /// Hop limit it arrived with; 0 when unknown.
    pub ttl: u8,
    pub now: UnixMillis,
}

/// An answer, left in the caller's buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reflection {
    /// Bytes of the buffer that the answer takes.
    pub length: usize,
    /// The socket to send it from.
    pub from: Corner,
    /// It is larger than the question: to be sent only within a budget per source.
    pub amplifies: bool,
    /// How long the answer waits; never when it amplifies.
    pub delay: Duration,
}

impl Mirror {
    /// A reflector whose sockets have these public endpoints, in the order of [`Corner::ALL`].
    #[must_use]
    pub const fn new(corners: [Option<SocketAddr>; 4], key: ObservationKey) -> Self {
        Self { corners, key }
    }

    /// A reflector with a single socket, as a relay has it.
    #[must_use]
    pub const fn single(endpoint: SocketAddr, key: ObservationKey) -> Self {
        Self::new([Some(endpoint), None, None, None], key)
    }

    /// Names the other address of a reflector that has one only: endpoints of another process, which answers from there on
    /// request. Own endpoints stay.
    pub fn set_other(&mut self, other: [Option<SocketAddr>; 2]) {
        let [first, second, ..] = self.corners;
        self.corners = [first, second, other[0], other[1]];
    }

    /// The endpoint at `corner`.
    #[must_use]
    pub const fn endpoint(&self, corner: Corner) -> Option<SocketAddr> {
        self.corners[corner as usize]
    }

    /// Decides about one message that came over a connection, whose source is no lie: the answer may be larger, but it
    /// comes from where it was asked and at once (RFC 5780, section 7.2). Returns its length.
    pub fn reflect_connected(&self, asked: &Asked, question: &[u8], out: &mut [u8]) -> Option<usize> {
        let request = Message::parse(question).filter(|message| message.kind == Kind::Request)?;
        if request.attribute(Attribute::CHANGE_REQUEST).is_some() {
            let change = Unknown::only(Attribute::CHANGE_REQUEST);
            return refuse(&request, asked.at, question.len(), &change, out).map(|reflection| reflection.length);
        }
        self.answer(asked, question.len(), &request, out).map(|reflection| reflection.length)
    }

    /// Decides about one datagram; the answer goes to its source. `None` is silence: for everything that is no binding
    /// request, for tagged and delayed requests smaller than their answer, and for delays without end.
    pub fn reflect(&self, asked: &Asked, question: &[u8], out: &mut [u8]) -> Option<Reflection> {
        let request = Message::parse(question).filter(|message| message.kind == Kind::Request)?;
        let delay = delay(&request);
        if delay > LONGEST_DELAY {
            return None;
        }
        let reflection = self.answer(asked, question.len(), &request, out)?;
        let padded = !delay.is_zero() || tag(&request).is_some();
        (!padded || !reflection.amplifies).then_some(Reflection { delay, ..reflection })
    }

    fn answer(&self, asked: &Asked, question: usize, request: &Message<'_>, out: &mut [u8]) -> Option<Reflection> {
        let source = SocketAddr::new(asked.source.ip().to_canonical(), asked.source.port());
        let tag = tag(request);
        let unknown = Unknown::of(request)?;
        let from = match self.answering(asked.at, request) {
            Some(corner) if unknown.count == 0 => corner,
            Some(_) => return refuse(request, asked.at, question, &unknown, out),
            None => {
                let change = Unknown::only(Attribute::CHANGE_REQUEST);
                return refuse(request, asked.at, question, &change, out);
            }
        };

        let mut writer = Writer::new(out, Kind::Success, request.transaction)?;
        writer.xor_address(Attribute::XOR_MAPPED_ADDRESS, source)?;
        if tag.is_none() {
            // Other tools compare the two to find routers that rewrite addresses in payloads (RFC 5780, section 3.6).
            writer.address(Attribute::MAPPED_ADDRESS, source)?;
        }
        if let Some(origin) = self.corners[from as usize] {
            writer.address(Attribute::RESPONSE_ORIGIN, origin)?;
        }
        if let Some(other) = self.corners[asked.at.seen_from(Vantage::Opposite) as usize] {
            writer.address(Attribute::OTHER_ADDRESS, other)?;
        }
        if let (Some(tag), Some(reflector)) = (tag, self.corners[asked.at as usize]) {
            let observed = Observed { seen: source, reflector, ttl: asked.ttl, at: asked.now, tag };
            writer.attribute(Attribute::OBSERVATION, &self.key.sealed(&observed))?;
        }
        let length = writer.finish();
        Some(Reflection { length, from, amplifies: length > question, delay: Duration::ZERO })
    }

    /// The corner that the request wants to be answered from; `None` when there is no such socket.
    fn answering(&self, at: Corner, request: &Message<'_>) -> Option<Corner> {
        let vantage = match request.attribute(Attribute::CHANGE_REQUEST) {
            Some(&[_, _, _, flags]) => match flags & 6 {
                2 => Vantage::OtherPort,
                4 => Vantage::OtherAddress,
                6 => Vantage::Opposite,
                _ => Vantage::Asked,
            },
            Some(_) | None => Vantage::Asked,
        };
        let corner = at.seen_from(vantage);
        (corner == at || self.corners[corner as usize].is_some()).then_some(corner)
    }
}

/// The session that wants an observation.
fn tag(request: &Message<'_>) -> Option<SessionTag> {
    request.attribute(Attribute::SESSION_TAG).and_then(|value| value.try_into().ok()).map(SessionTag)
}

/// How long the request wants its answer to wait. One that is malformed asks for nothing, as it may be ignored.
fn delay(request: &Message<'_>) -> Duration {
    let seconds = request.attribute(Attribute::DELAY).and_then(|value| value.try_into().ok()).map(u32::from_be_bytes);
    Duration::from_secs(seconds.unwrap_or(0).into())
}

/// Attributes that a server must understand and does not.
struct Unknown {
    types: [u16; MAX_UNKNOWN],
    count: usize,
}

impl Unknown {
    /// Those of `request`; `None` when there are too many to be polite about.
    fn of(request: &Message<'_>) -> Option<Self> {
        let mut unknown = Self { types: [0; MAX_UNKNOWN], count: 0 };
        for (attribute, _) in request.attributes().filter(|(attribute, _)| !attribute.may_be_ignored()) {
            *unknown.types.get_mut(unknown.count)? = attribute.0;
            unknown.count += 1;
        }
        Some(unknown)
    }

    fn only(attribute: Attribute) -> Self {
        let mut types = [0; MAX_UNKNOWN];
        types[0] = attribute.0;
        Self { types, count: 1 }
    }
}

/// Error 420 (RFC 8489, section 6.3.1); also for a CHANGE-REQUEST that cannot be met (RFC 5780, section 6.1).
fn refuse(
    request: &Message<'_>,
    from: Corner,
    question: usize,
    unknown: &Unknown,
    out: &mut [u8],
) -> Option<Reflection> {
    let mut writer = Writer::new(out, Kind::Error, request.transaction)?;
    writer.attribute(Attribute::ERROR_CODE, b"\0\0\x04\x14Unknown Attribute")?;
    let mut types = [0; MAX_UNKNOWN * 2];
    for (bytes, number) in types.chunks_mut(2).zip(&unknown.types[..unknown.count]) {
        bytes.copy_from_slice(&number.to_be_bytes());
    }
    writer.attribute(Attribute::UNKNOWN_ATTRIBUTES, &types[..unknown.count * 2])?;
    let length = writer.finish();
    Some(Reflection { length, from, amplifies: length > question, delay: Duration::ZERO })
}
