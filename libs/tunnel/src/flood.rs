//! Which packets go to every peer: broadcast and multicast, as on one Ethernet.
//!
//! A flood is sent once to each peer, however many networks are shared with it. Two rules keep it from growing: what came in
//! as a flood does not go out again (a reflector or a bridge on this host must not close a loop), and one client has a
//! budget of [`Flood::RATE`] packets a second for the floods that it starts.
//!
//! Packets for routers only (IGMP, MLD and router solicitations) stay here: there is no router in the virtual LAN.

use std::{
    collections::VecDeque,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::{Duration, Instant},
};

use ring::digest;

use crate::InnerPacket;

/// Decides about the floods of one client.
#[derive(Debug)]
pub struct Flood {
    /// The broadcast address of the pool (RFC 919), when it is known.
    broadcast: Option<Ipv4Addr>,
    /// In packets.
    budget: f64,
    refilled: Instant,
    /// What came in, oldest first.
    seen: VecDeque<(Instant, u64)>,
}

/// Where a packet of the adapter goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// To the owner of the destination address.
    Unicast,
    /// To every peer.
    Everyone,
    Dropped(DropReason),
}

/// Why a flood went no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropReason {
    /// For routers only.
    NotForMembers,
    /// It came in shortly before.
    Echo,
    OverBudget,
}

impl Flood {
    /// Packets a second that a client may flood with. A busy mDNS host sends a few; a LAN game's search a few dozen.
    pub const RATE: u32 = 100;

    /// Floods on a LAN without a known broadcast address.
    #[must_use]
    pub const fn new(now: Instant) -> Self {
        Self { broadcast: None, budget: BURST, refilled: now, seen: VecDeque::new() }
    }

    /// The LAN is the one of `address` with this prefix length.
    pub fn set_lan(&mut self, address: Ipv4Addr, prefix: u8) {
        let host = u32::MAX.checked_shr(prefix.into()).unwrap_or(0);
        self.broadcast = (prefix < 31).then(|| Ipv4Addr::from_bits(address.to_bits() | host));
    }

    /// Decides about a packet that the adapter gave.
    pub fn handle_outgoing(&mut self, now: Instant, packet: &InnerPacket<'_>) -> Verdict {
        if !self.is_flood(packet.destination) {
            return Verdict::Unicast;
        }
        if is_for_routers(packet) {
            return Verdict::Dropped(DropReason::NotForMembers);
        }
        self.forget(now);
        let print = fingerprint(packet.bytes);
        if self.seen.iter().any(|(_, seen)| *seen == print) {
            return Verdict::Dropped(DropReason::Echo);
        }
        let refill = now.saturating_duration_since(self.refilled).as_secs_f64() * f64::from(Self::RATE);
        self.budget = (self.budget + refill).min(BURST);
        self.refilled = now;
        if self.budget < 1.0 {
            return Verdict::Dropped(DropReason::OverBudget);
        }
        self.budget -= 1.0;
        Verdict::Everyone
    }

    /// Decides whether a packet that a peer sent is for this client, whose own addresses the caller has checked already.
    pub fn handle_incoming(&mut self, now: Instant, packet: &InnerPacket<'_>) -> bool {
        if !self.is_flood(packet.destination) {
            return false;
        }
        self.forget(now);
        if self.seen.len() == MAX_SEEN {
            self.seen.pop_front();
        }
        self.seen.push_back((now, fingerprint(packet.bytes)));
        true
    }

    fn is_flood(&self, destination: IpAddr) -> bool {
        match destination {
            IpAddr::V4(v4) => v4.is_broadcast() || v4.is_multicast() || Some(v4) == self.broadcast,
            IpAddr::V6(v6) => v6.is_multicast(),
        }
    }

    fn forget(&mut self, now: Instant) {
        while self.seen.front().is_some_and(|(at, _)| now.saturating_duration_since(*at) > MEMORY) {
            self.seen.pop_front();
        }
    }
}

fn is_for_routers(packet: &InnerPacket<'_>) -> bool {
    match packet.destination {
        IpAddr::V4(v4) => v4 == ALL_ROUTERS4 || v4 == IGMP_ROUTERS || packet.protocol == IGMP,
        IpAddr::V6(v6) => v6 == ALL_ROUTERS6 || v6 == MLD_ROUTERS,
    }
}

/// What makes a packet the same as another one, whichever router counted down its hop limit.
fn fingerprint(packet: &[u8]) -> u64 {
    let mut context = digest::Context::new(&digest::SHA256);
    let hops = match packet.first() {
        Some(first) if first >> 4 == 4 => HOPS4,
        _ => HOPS6,
    };
    let (head, tail) = packet.split_at(hops.min(packet.len()));
    context.update(head);
    // The IPv4 header checksum changes along with the hop limit.
    let skipped = if hops == HOPS4 { tail.get(4..) } else { tail.get(1..) };
    context.update(skipped.unwrap_or_default());
    context.finish().as_ref().first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

/// Offset of the time to live; protocol and checksum follow.
const HOPS4: usize = 8;
const HOPS6: usize = 7;
const IGMP: u8 = 2;
const ALL_ROUTERS4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 2);
const IGMP_ROUTERS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 22);
const ALL_ROUTERS6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
const MLD_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x16);
const BURST: f64 = 200.0;
/// A loop through a reflector on the same host closes within milliseconds.
const MEMORY: Duration = Duration::from_millis(500);
const MAX_SEEN: usize = 256;

#[cfg(test)]
mod tests {
    use domain::VirtualAddresses;

    use super::*;
    use crate::echo_request;

    #[test]
    fn broadcast_and_multicast_go_to_everyone_and_the_rest_to_one() {
        let mut lab = Lab::new();
        for to in ["255.255.255.255", "100.127.255.255", "224.0.0.251", "239.255.255.250", "ff02::fb"] {
            assert_eq!(lab.sends(to), Verdict::Everyone, "{to}");
        }
        for to in ["100.64.0.9", "100.64.255.255", "fd00::2", "8.8.8.8"] {
            assert_eq!(lab.sends(to), Verdict::Unicast, "{to}");
        }
        for to in ["224.0.0.2", "224.0.0.22", "ff02::2", "ff02::16"] {
            assert_eq!(lab.sends(to), Verdict::Dropped(DropReason::NotForMembers), "{to}");
        }
    }

    #[test]
    fn a_flood_that_came_in_does_not_go_out_again() {
        let mut lab = Lab::new();
        let packet = request("224.0.0.251");
        assert!(lab.flood.handle_incoming(lab.now, &InnerPacket::parse(&packet).unwrap()));
        let mut forwarded = packet.clone();
        forwarded[HOPS4] -= 1;
        forwarded[10] ^= 1;
        assert_eq!(lab.decides(&forwarded), Verdict::Dropped(DropReason::Echo));

        lab.now += MEMORY * 2;
        assert_eq!(lab.decides(&packet), Verdict::Everyone);
    }

    #[test]
    fn a_client_floods_within_its_budget() {
        let mut lab = Lab::new();
        let sent = (0..1_000).filter(|_| lab.sends("255.255.255.255") == Verdict::Everyone).count();
        assert_eq!(sent, 200);
        lab.now += Duration::from_secs(1);
        let sent = (0..1_000).filter(|_| lab.sends("255.255.255.255") == Verdict::Everyone).count();
        assert_eq!(sent, 100);
    }

    #[test]
    fn what_is_for_somebody_else_is_no_flood() {
        let mut lab = Lab::new();
        let packet = request("100.64.0.9");
        assert!(!lab.flood.handle_incoming(lab.now, &InnerPacket::parse(&packet).unwrap()));
    }

    struct Lab {
        now: Instant,
        flood: Flood,
    }

    impl Lab {
        #[expect(clippy::disallowed_methods, reason = "a test needs some instant to count from")]
        fn new() -> Self {
            let now = Instant::now();
            let mut flood = Flood::new(now);
            flood.set_lan(Ipv4Addr::new(100, 64, 0, 1), 10);
            Self { now, flood }
        }

        fn sends(&mut self, to: &str) -> Verdict {
            self.decides(&request(to))
        }

        fn decides(&mut self, packet: &[u8]) -> Verdict {
            self.flood.handle_outgoing(self.now, &InnerPacket::parse(packet).unwrap())
        }
    }

    fn request(to: &str) -> Vec<u8> {
        let alice = VirtualAddresses { v4: Some(Ipv4Addr::new(100, 64, 0, 1)), v6: "fd00::1".parse().unwrap() };
        echo_request(&alice, to.parse().unwrap(), 1, 1, b"").unwrap()
    }
}
