//! The messages of PCP (RFC 6887, section 7 and 11) and NAT-PMP (RFC 6886, section 3), and which of the two to send.
//!
//! Both live at one port, and a router that knows only the older one answers a question of the newer with a version 0: then
//! the exchange goes on with NAT-PMP, which needs two questions, for the outer address and for the port.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddrV4},
    time::Duration,
};

use super::{Granted, Protocol, Wish};

/// Where routers listen.
pub(super) const PORT: u16 = 5351;
/// RFC 6887, section 7.
pub(super) const MAX_ANSWER: usize = 1100;

/// One request for one mapping.
#[derive(Debug)]
pub(super) struct Exchange {
    wish: Wish,
    local: Ipv4Addr,
    lifetime: Duration,
    step: Step,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Pcp,
    Address,
    Port(Ipv4Addr),
}

/// What an answer means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// Nothing: it is no answer to what was asked.
    Nothing,
    /// There is another question to ask.
    Next,
    Granted(Granted),
    Refused,
}

impl Exchange {
    /// Asks for `wish` on behalf of `local`; a `lifetime` of zero gives the mapping back.
    pub(super) fn new(wish: Wish, local: Ipv4Addr, lifetime: Duration) -> Self {
        let known = wish.earlier.filter(|earlier| earlier.by == Protocol::NatPmp);
        Self { wish, local, lifetime, step: if known.is_some() { Step::Address } else { Step::Pcp } }
    }

    /// What to send now.
    pub(super) fn question(&self) -> Option<Vec<u8>> {
        let lifetime = u32::try_from(self.lifetime.as_secs()).unwrap_or(u32::MAX).to_be_bytes();
        let inner = self.wish.port.to_be_bytes();
        let earlier = self.wish.earlier.map(|granted| granted.external);
        let (address, outer) = earlier.map_or((Ipv4Addr::UNSPECIFIED, self.wish.port), |e| (*e.ip(), e.port()));
        // RFC 6886, section 3.4: a request for deletion names no outer port.
        let outer = if self.lifetime.is_zero() { [0; 2] } else { outer.to_be_bytes() };
        match self.step {
            Step::Pcp => Some(
                [
                    &[PCP, MAP, 0, 0][..],
                    &lifetime,
                    &self.local.to_ipv6_mapped().octets(),
                    &self.wish.nonce,
                    &[UDP, 0, 0, 0],
                    &inner,
                    &outer,
                    &address.to_ipv6_mapped().octets(),
                ]
                .concat(),
            ),
            Step::Address => Some(vec![NAT_PMP, PUBLIC_ADDRESS]),
            Step::Port(_) => Some([&[NAT_PMP, MAP_UDP, 0, 0][..], &inner, &outer, &lifetime].concat()),
        }
    }

    /// Takes what the router says.
    pub(super) fn handle_answer(&mut self, bytes: &[u8]) -> Reply {
        match self.step {
            Step::Pcp => self.handle_pcp(bytes),
            Step::Address => {
                let Some((OK, [a, b, c, d])) = nat_pmp(bytes, PUBLIC_ADDRESS) else {
                    return refused(bytes, PUBLIC_ADDRESS);
                };
                self.step = Step::Port(Ipv4Addr::new(*a, *b, *c, *d));
                Reply::Next
            }
            Step::Port(address) => {
                let Some((OK, [i, j, p, q, lifetime @ ..])) = nat_pmp(bytes, MAP_UDP) else {
                    return refused(bytes, MAP_UDP);
                };
                if u16::from_be_bytes([*i, *j]) != self.wish.port {
                    return Reply::Nothing;
                }
                self.granted(address, u16::from_be_bytes([*p, *q]), lifetime, Protocol::NatPmp)
            }
        }
    }

    fn handle_pcp(&mut self, bytes: &[u8]) -> Reply {
        if let [NAT_PMP, ..] = bytes {
            self.step = Step::Address;
            return Reply::Next;
        }
        let [PCP, ANSWERED_MAP, _, result, l0, l1, l2, l3, rest @ ..] = bytes else { return Reply::Nothing };
        // Sixteen bytes of the header, then twelve of the nonce, protocol, ports, address.
        let Some((nonce, [UDP, _, _, _, i, j, p, q, outer @ ..])) =
            rest.get(16..).and_then(|map| map.split_at_checked(12))
        else {
            return Reply::Nothing;
        };
        if *nonce != self.wish.nonce || u16::from_be_bytes([*i, *j]) != self.wish.port {
            return Reply::Nothing;
        }
        let address = outer.first_chunk::<16>().and_then(|octets| Ipv6Addr::from(*octets).to_ipv4_mapped());
        match (result, address) {
            (0, Some(address)) => {
                self.granted(address, u16::from_be_bytes([*p, *q]), &[*l0, *l1, *l2, *l3], Protocol::Pcp)
            }
            _ => Reply::Refused,
        }
    }

    fn granted(&self, address: Ipv4Addr, port: u16, lifetime: &[u8], by: Protocol) -> Reply {
        let seconds = lifetime.first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes));
        if port == 0 || seconds == 0 || self.lifetime.is_zero() {
            return Reply::Refused;
        }
        // A router that promises more is not believed.
        let lifetime = Duration::from_secs(seconds.into()).min(self.lifetime);
        Reply::Granted(Granted { external: SocketAddrV4::new(address, port), lifetime, by })
    }
}

/// Result code and fields of an answer to `operation`.
fn nat_pmp(bytes: &[u8], operation: u8) -> Option<(u16, &[u8])> {
    let [NAT_PMP, answered, high, low, _, _, _, _, fields @ ..] = bytes else { return None };
    (*answered == operation | ANSWER).then_some((u16::from_be_bytes([*high, *low]), fields))
}

fn refused(bytes: &[u8], operation: u8) -> Reply {
    match nat_pmp(bytes, operation) {
        Some((1.., _)) => Reply::Refused,
        Some((0, _)) | None => Reply::Nothing,
    }
}

const PCP: u8 = 2;
const NAT_PMP: u8 = 0;
const MAP: u8 = 1;
const ANSWER: u8 = 0x80;
const ANSWERED_MAP: u8 = ANSWER | MAP;
const PUBLIC_ADDRESS: u8 = 0;
const MAP_UDP: u8 = 1;
const UDP: u8 = 17;
const OK: u16 = 0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapping_by_pcp() {
        let mut exchange = exchange(None);
        let question = exchange.question().unwrap();
        assert_eq!((question.len(), &question[..4]), (60, &[2, 1, 0, 0][..]));
        assert_eq!(question[4..8], 7_200_u32.to_be_bytes());
        let mut answer = pcp_answer(&question, "203.0.113.9:4001");
        assert_eq!(exchange.handle_answer(&answer), granted("203.0.113.9:4001", Protocol::Pcp));

        answer[3] = 2;
        assert_eq!(exchange.handle_answer(&answer), Reply::Refused);
        answer[24] ^= 1;
        assert_eq!(exchange.handle_answer(&answer), Reply::Nothing, "somebody else's nonce");
    }

    #[test]
    fn a_router_of_the_older_kind_is_asked_in_its_own_words() {
        let mut exchange = exchange(None);
        assert_eq!(exchange.handle_answer(&[0, 0x81, 0, 1, 0, 0, 0, 0]), Reply::Next);
        assert_eq!(exchange.question().unwrap(), [0, 0]);
        assert_eq!(exchange.handle_answer(&[0, 0x80, 0, 0, 0, 0, 0, 9, 203, 0, 113, 9]), Reply::Next);
        assert_eq!(exchange.question().unwrap(), [0, 1, 0, 0, 0x0f, 0xa0, 0x0f, 0xa0, 0, 0, 0x1c, 0x20]);
        let answer = [0, 0x81, 0, 0, 0, 0, 0, 9, 0x0f, 0xa0, 0x0f, 0xa1, 0, 0, 0x1c, 0x20];
        assert_eq!(exchange.handle_answer(&answer), granted("203.0.113.9:4001", Protocol::NatPmp));
        assert_eq!(exchange.handle_answer(&[0, 0x81, 0, 2, 0, 0, 0, 0]), Reply::Refused);
    }

    #[test]
    fn a_renewal_asks_for_what_was_granted() {
        let Reply::Granted(earlier) = granted("203.0.113.9:4001", Protocol::Pcp) else { return };
        let question = exchange(Some(earlier)).question().unwrap();
        assert_eq!(question[42..44], 4_001_u16.to_be_bytes());
        assert_eq!(question[56..60], [203, 0, 113, 9]);
    }

    proptest::proptest! {
        #[test]
        fn no_answer_panics(
            first in 0_u8..3,
            second in proptest::sample::select(vec![0_u8, 1, 0x80, 0x81]),
            rest in proptest::collection::vec(proptest::num::u8::ANY, 0..80),
            steps in 0..3,
        ) {
            let mut exchange = exchange(None);
            for step in 0..steps {
                exchange.handle_answer(if step == 0 { &[0] } else { &[0, 0x80, 0, 0, 0, 0, 0, 9, 1, 2, 3, 4] });
            }
            exchange.handle_answer(&[&[first, second][..], &rest].concat());
        }
    }

    fn exchange(earlier: Option<Granted>) -> Exchange {
        let wish = Wish { router: Ipv4Addr::new(192, 168, 1, 1), port: 4_000, nonce: [7; 12], earlier };
        Exchange::new(wish, Ipv4Addr::new(192, 168, 1, 5), Duration::from_secs(7_200))
    }

    fn granted(external: &str, by: Protocol) -> Reply {
        Reply::Granted(Granted { external: external.parse().unwrap(), lifetime: Duration::from_secs(7_200), by })
    }

    fn pcp_answer(question: &[u8], external: &str) -> Vec<u8> {
        let external: SocketAddrV4 = external.parse().unwrap();
        let mut answer = question.to_vec();
        answer[1] |= ANSWER;
        answer[42..44].copy_from_slice(&external.port().to_be_bytes());
        answer[44..60].copy_from_slice(&external.ip().to_ipv6_mapped().octets());
        answer
    }
}
