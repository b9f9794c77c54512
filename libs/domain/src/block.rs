//! What operators hold against somebody: whom, how much, why, and until when.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use minicbor::{Decode, Encode};

use crate::{AccountId, BlockId, ClientId, NetworkId, UnixMillis, name::text_value};

/// Part of the address space, no wider than a block may be: an IPv4 /16 to /32, or an IPv6 /32 to /64.
///
/// Nobody can be told apart below an IPv6 /64, so what lies there is not kept.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AddressPrefix(Inner);

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Inner {
    V4(u32, u8),
    /// The first half of the address.
    V6(u64, u8),
}

/// Why something is no prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PrefixError {
    #[error("not a prefix: an address with a length after a slash is, like 192.0.2.0/24 or 2001:db8::/48")]
    Text,
    #[error("a prefix is an IPv4 /16 to /32 or an IPv6 /32 to /64: wider ones would hit everybody")]
    Width,
}

impl AddressPrefix {
    /// The narrowest prefix that `address` lies in: an IPv4 /32 or an IPv6 /64.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => Self(Inner::V4(v4.to_bits(), 32)),
            IpAddr::V6(v6) => Self(Inner::V6((v6.to_bits() >> 64) as u64, 64)),
        }
    }

    /// The prefix of this length around `address`.
    ///
    /// # Errors
    /// [`PrefixError::Width`].
    pub fn around(address: IpAddr, length: u8) -> Result<Self, PrefixError> {
        let whole = Self::of(address);
        let (narrowest, widest) = whole.bounds();
        if !(widest..=narrowest).contains(&length) { Err(PrefixError::Width) } else { Ok(whole.widened(length)) }
    }

    /// This prefix, or the one of `length` around it where that is wider.
    #[must_use]
    pub fn widened(self, length: u8) -> Self {
        match self.0 {
            Inner::V4(bits, own) if length < own => Self(Inner::V4(bits & mask(32, length) as u32, length)),
            Inner::V6(bits, own) if length < own => Self(Inner::V6(bits & mask(64, length), length)),
            Inner::V4(..) | Inner::V6(..) => self,
        }
    }

    /// Whether everything in `other` lies here.
    #[must_use]
    pub fn contains(self, other: Self) -> bool {
        other.length() >= self.length() && other.widened(self.length()) == self
    }

    /// How many bits it fixes.
    #[must_use]
    pub const fn length(self) -> u8 {
        match self.0 {
            Inner::V4(_, length) | Inner::V6(_, length) => length,
        }
    }

    #[must_use]
    pub const fn is_v4(self) -> bool {
        matches!(self.0, Inner::V4(..))
    }

    /// The bytes that stand for it in tables and messages: the length, then the address.
    #[must_use]
    pub fn to_bytes(self) -> Vec<u8> {
        let mut bytes = vec![self.length()];
        match self.0 {
            Inner::V4(bits, _) => bytes.extend(bits.to_be_bytes()),
            Inner::V6(bits, _) => bytes.extend(bits.to_be_bytes()),
        }
        bytes
    }

    /// The narrowest and the widest length of its family.
    const fn bounds(self) -> (u8, u8) {
        if self.is_v4() { (32, 16) } else { (64, 32) }
    }

    fn address(self) -> IpAddr {
        match self.0 {
            Inner::V4(bits, _) => Ipv4Addr::from_bits(bits).into(),
            Inner::V6(bits, _) => Ipv6Addr::from_bits(u128::from(bits) << 64).into(),
        }
    }
}

/// The first `length` of the last `width` bits.
const fn mask(width: u8, length: u8) -> u64 {
    let all = if width == 64 { u64::MAX } else { (1 << width) - 1 };
    if length == 0 { 0 } else { all & (u64::MAX << (width - length)) }
}

impl TryFrom<&[u8]> for AddressPrefix {
    type Error = PrefixError;

    fn try_from(bytes: &[u8]) -> Result<Self, PrefixError> {
        let (&length, address) = bytes.split_first().ok_or(PrefixError::Text)?;
        let address: IpAddr = if let Ok(v4) = <[u8; 4]>::try_from(address) {
            Ipv4Addr::from(v4).into()
        } else if let Ok(half) = <[u8; 8]>::try_from(address) {
            Ipv6Addr::from_bits(u128::from(u64::from_be_bytes(half)) << 64).into()
        } else {
            return Err(PrefixError::Text);
        };
        Self::around(address, length)
    }
}

impl FromStr for AddressPrefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let Some((address, length)) = text.split_once('/') else {
            return text.parse().map(Self::of).map_err(|_| PrefixError::Text);
        };
        let address: IpAddr = address.parse().map_err(|_| PrefixError::Text)?;
        let plain = length.bytes().all(|byte| byte.is_ascii_digit()) && length.len() <= 3;
        let length: u8 = length.parse().ok().filter(|_| plain).ok_or(PrefixError::Text)?;
        Self::around(address, length)
    }
}

impl fmt::Display for AddressPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address(), self.length())
    }
}

impl fmt::Debug for AddressPrefix {
    /// A log gets no address of a user.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AddressPrefix(../{})", self.length())
    }
}

impl<C> Encode<C> for AddressPrefix {
    fn encode<W: minicbor::encode::Write>(
        &self,
        e: &mut minicbor::Encoder<W>,
        _: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        e.bytes(&self.to_bytes())?.ok()
    }
}

impl<'b, C> Decode<'b, C> for AddressPrefix {
    fn decode(d: &mut minicbor::Decoder<'b>, _: &mut C) -> Result<Self, minicbor::decode::Error> {
        Self::try_from(d.bytes()?).map_err(minicbor::decode::Error::custom)
    }
}

/// How much is held against somebody.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode, serde::Serialize, serde::Deserialize,
)]
#[cbor(index_only)]
#[serde(rename_all = "lowercase")]
pub enum Degree {
    /// It takes longer: every refusal names when to come back.
    #[n(0)]
    Slow,
    /// It takes work, which costs people a second and programs that come in thousands a fortune.
    #[n(1)]
    Challenge,
    /// It is not possible.
    #[n(2)]
    Refuse,
}

impl Degree {
    /// Every degree, the mildest first.
    pub const ALL: [Self; 3] = [Self::Slow, Self::Challenge, Self::Refuse];

    /// The word that people write.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Slow => "slow",
            Self::Challenge => "challenge",
            Self::Refuse => "refuse",
        }
    }
}

/// Whom a block is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub enum BlockSubject {
    /// New clients from these addresses. Those who are known come and go as ever.
    #[n(0)]
    Prefix(#[n(0)] AddressPrefix),
    /// One client.
    #[n(1)]
    Client(#[n(0)] ClientId),
    /// All clients of an account.
    #[n(2)]
    Account(#[n(0)] AccountId),
    /// Whoever wants to become a member of a network.
    #[n(3)]
    Network(#[n(0)] NetworkId),
}

/// Why something is held against somebody, in words that the affected may read: 1 to 200 bytes in one line.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockReason(String);

impl BlockReason {
    /// The longest, in bytes of UTF-8.
    pub const MAX_BYTES: usize = 200;

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A text that is no reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a reason has 1 to 200 bytes in one line: the affected clients are shown it")]
pub struct ReasonError;

fn reason(text: &str) -> Result<String, ReasonError> {
    let text = text.trim();
    // What turns the direction of text around could make a reason read as something else.
    let odd = |c: char| c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let fits = !text.is_empty() && text.len() <= BlockReason::MAX_BYTES && !text.chars().any(odd);
    fits.then(|| text.to_owned()).ok_or(ReasonError)
}

text_value!(BlockReason, ReasonError, reason);

/// What is held against somebody.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Block {
    #[n(0)]
    pub id: BlockId,
    #[n(1)]
    pub subject: BlockSubject,
    #[n(2)]
    pub degree: Degree,
    #[n(3)]
    pub reason: BlockReason,
    /// Who made it, in the words of the audit log.
    #[n(4)]
    pub maker: String,
    #[n(5)]
    pub made: UnixMillis,
    /// It ends by itself.
    #[n(6)]
    pub expires: UnixMillis,
    /// Raised by every change.
    #[n(7)]
    pub revision: u64,
}

impl Block {
    /// What the affected are told.
    #[must_use]
    pub fn notice(&self) -> BlockNotice {
        BlockNotice { degree: self.degree, reason: self.reason.clone(), until: self.expires }
    }
}

/// What somebody is told of what is held against it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct BlockNotice {
    #[n(0)]
    pub degree: Degree,
    #[n(1)]
    pub reason: BlockReason,
    #[n(2)]
    pub until: UnixMillis,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_reads_back_from_its_text_and_its_bytes() {
        for text in ["192.0.2.0/24", "192.0.2.7/32", "10.1.0.0/16", "2001:db8::/32", "2001:db8:1:2::/64"] {
            let prefix: AddressPrefix = text.parse().unwrap();
            assert_eq!(prefix.to_string(), text);
            assert_eq!(AddressPrefix::try_from(prefix.to_bytes().as_slice()), Ok(prefix));
            let cbor = minicbor::to_vec(prefix).unwrap();
            assert_eq!(minicbor::decode::<AddressPrefix>(&cbor).unwrap(), prefix);
        }
        assert_eq!("192.0.2.77/24".parse::<AddressPrefix>().unwrap().to_string(), "192.0.2.0/24");
        assert_eq!("192.0.2.77".parse::<AddressPrefix>().unwrap().to_string(), "192.0.2.77/32");
        assert_eq!("::ffff:192.0.2.77".parse::<AddressPrefix>().unwrap().to_string(), "192.0.2.77/32");
        assert_eq!("2001:db8::1".parse::<AddressPrefix>().unwrap().to_string(), "2001:db8::/64");
    }

    #[test]
    fn nobody_blocks_half_the_internet() {
        for text in ["10.0.0.0/15", "0.0.0.0/0", "2001::/31", "::/0", "2001:db8::/65", "2001:db8::1/128"] {
            assert_eq!(text.parse::<AddressPrefix>(), Err(PrefixError::Width), "{text}");
        }
        for text in ["", "/24", "192.0.2.0/", "192.0.2.0/+24", "192.0.2.0/033333", "192.0.2/24", "x/24"] {
            assert_eq!(text.parse::<AddressPrefix>(), Err(PrefixError::Text), "{text}");
        }
        assert!(AddressPrefix::try_from(&[15, 10, 0, 0, 0][..]).is_err());
        assert!(AddressPrefix::try_from(&[24, 10, 0, 0][..]).is_err());
        assert!(AddressPrefix::try_from(&[][..]).is_err());
    }

    #[test]
    fn a_prefix_holds_what_lies_in_it() {
        let prefix = |text: &str| text.parse::<AddressPrefix>().unwrap();
        assert!(prefix("192.0.2.0/24").contains(prefix("192.0.2.255")));
        assert!(prefix("192.0.2.0/24").contains(prefix("192.0.2.0/24")));
        assert!(!prefix("192.0.2.0/24").contains(prefix("192.0.3.0")));
        assert!(!prefix("192.0.2.0/24").contains(prefix("192.0.0.0/16")));
        assert!(prefix("2001:db8::/48").contains(prefix("2001:db8:0:ffff::1")));
        assert!(!prefix("2001:db8::/48").contains(prefix("192.0.2.1")));
        assert!(!prefix("192.0.0.0/16").contains(prefix("c000::/32")));
    }

    #[test]
    fn a_reason_is_one_line_of_bounded_length() {
        assert_eq!("  scripted sign-ups ".parse::<BlockReason>().unwrap().as_str(), "scripted sign-ups");
        assert!("x".repeat(200).parse::<BlockReason>().is_ok());
        for text in ["", "  ", "a\nb", "a\u{202e}b", &"x".repeat(201)] {
            assert!(text.parse::<BlockReason>().is_err(), "{text:?}");
        }
    }
}
