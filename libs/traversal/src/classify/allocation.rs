//! How a NAT chooses the next port, from two bursts of fresh sockets (RFC 4787, sections 4.1 and 4.2).
//!
//! Each burst asks from eight sockets with even local ports at once, so hardly any flow of others comes between, and the
//! second burst follows 400 ms after the first.
//!
//! - **Steps** are the differences between neighbours of one burst, in the order of sending, over the end of the range too.
//!   Lost answers leave larger steps, and reordered packets some that go back.
//! - **Sequential**: at least 70 % of the steps are near (up to 512) and go the same way, and at least half of that way is
//!   not undone by the others, as it would be in a small block. The step is the largest number that divides four fifths of
//!   the near steps: flows of others make steps multiples of it, and where a port was taken they are not even that. (The most
//!   frequent step is wrong as soon as there are about as many foreign flows as own ones in a burst.)
//! - **Rate** of others' flows: ports between the last of the first burst and the first of the second, less our own.
//! - **Block**: all ports in one aligned block of 2^k, k at most 15. With 16 answers it is the right k but for one in 30 000.
//! - **Random with parity**: all ports even, as the local ones were.
//! - **Random**: everything else.

use std::{net::IpAddr, time::Duration};

use domain::Allocation;

/// Sockets in a burst.
pub const BURST: usize = 8;

/// What two bursts brought back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bursts {
    /// Where each socket was seen, in the order of sending; `None` without an answer.
    pub seen: [[Option<std::net::SocketAddr>; BURST]; 2],
    /// From the first burst to the second.
    pub apart: Duration,
    /// Flows that this client opened between the two.
    pub own_flows: u16,
}

/// What bursts say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// `None` when too few answers came.
    pub allocation: Option<Allocation>,
    /// Flows a second that others opened; 0 unless the allocation is sequential.
    pub foreign_rate: u16,
    /// More than one public address was seen.
    pub pool: bool,
}

impl Bursts {
    /// What they say about the NAT.
    #[must_use]
    pub fn read(&self) -> Reading {
        let pool = self.is_pooled();
        let ports = self.seen.map(|burst| burst.map(|seen| seen.map(|seen| seen.port())));
        // Each address of a pool has ports of its own, so there is no order.
        if let Some(step) = step(&ports).filter(|_| !pool) {
            let foreign_rate = self.foreign_rate(&ports, step);
            return Reading { allocation: Some(Allocation::Sequential { step }), foreign_rate, pool };
        }
        let ports: Vec<u16> = ports.into_iter().flatten().flatten().collect();
        Reading { allocation: unordered(&ports), foreign_rate: 0, pool }
    }

    /// What the first burst alone says about a NAT whose ports have no order; `None` when they may have one. It may err: a
    /// parity is none once in 128 times, and a block is half of the true one as often. Neither does harm, because as many of
    /// all ports lie in what is left.
    #[must_use]
    pub(crate) fn without_order(&self) -> Option<Allocation> {
        let alone = [self.seen[0].map(|seen| seen.map(|seen| seen.port())), [None; BURST]];
        let ports: Vec<u16> = alone[0].into_iter().flatten().collect();
        if ports.len() <= ENOUGH_STEPS || step(&alone).is_some() && !self.is_pooled() {
            return None;
        }
        let small = |block: &Allocation| matches!(block, Allocation::Block { size, .. } if *size <= SMALL_BLOCK);
        let block = block_of(ports.iter().copied()).filter(small);
        block.or_else(|| unordered(&ports)).or(Some(Allocation::Random))
    }

    fn is_pooled(&self) -> bool {
        let mut addresses = self.seen.iter().flatten().flatten().map(|seen| seen.ip());
        let first: Option<IpAddr> = addresses.next();
        first.is_some_and(|first| addresses.any(|other| other != first))
    }

    /// What is between the bursts and not ours. Members that were not answered are taken for quiet ones.
    fn foreign_rate(&self, ports: &[[Option<u16>; BURST]; 2], step: i16) -> u16 {
        let step = i32::from(step);
        let answered = |burst: &[Option<u16>; BURST]| {
            let members: Vec<_> =
                (0..).zip(burst).filter_map(|(place, port)| Some((place, i32::from((*port)?)))).collect();
            members
        };
        let last = answered(&ports[0]).last().map(|(place, port)| port + step * (LAST - place));
        let first = answered(&ports[1]).first().map(|(place, port)| port - step * place);
        let (Some(last), Some(first)) = (last, first) else { return 0 };
        let way = ((first - last) * step.signum()).rem_euclid(RANGE);
        let foreign = f64::from(way / step.abs() - 1 - i32::from(self.own_flows)).max(0.0);
        let rate = (foreign / self.apart.as_secs_f64()).round();
        // More is a way around in a range that we do not know; then quiet is the likeliest.
        if rate <= f64::from(MAX_RATE) { rate_of(rate) } else { 0 }
    }
}

/// The allocation of a NAT whose ports have no order.
fn unordered(ports: &[u16]) -> Option<Allocation> {
    if ports.len() < ENOUGH {
        return None;
    }
    let block = (ports.len() >= ENOUGH_FOR_A_BLOCK).then(|| block_of(ports.iter().copied())).flatten();
    let even = ports.iter().all(|port| port % 2 == 0);
    Some(match block {
        // Half of all ports, in either way: the parity holds for any block.
        Some(Allocation::Block { size, .. }) if even && size == LARGEST_BLOCK => Allocation::RandomParity,
        Some(block) => block,
        None if even => Allocation::RandomParity,
        None => Allocation::Random,
    })
}

/// The smallest aligned block that holds all `ports`, when it is less than the whole range.
pub(super) fn block_of(ports: impl IntoIterator<Item = u16>) -> Option<Allocation> {
    let mut ports = ports.into_iter();
    let first = ports.next()?;
    let differing = ports.fold(0, |bits, port| bits | (port ^ first));
    let size = 1_u16.checked_shl(u16::BITS - differing.leading_zeros())?;
    Some(Allocation::Block { first: first & !(size - 1), size })
}

/// The step of a sequential NAT; `None` when it is not one, or nobody can tell.
fn step(bursts: &[[Option<u16>; BURST]; 2]) -> Option<i16> {
    let steps: Vec<i32> = bursts.iter().flat_map(steps).collect();
    if steps.len() < ENOUGH_STEPS {
        return None;
    }
    let up = steps.iter().filter(|step| (1..=NEAR).contains(*step)).count();
    let down = steps.iter().filter(|step| (-NEAR..=-1).contains(*step)).count();
    let sign = if up >= down { 1 } else { -1 };
    let near: Vec<i32> = steps.iter().map(|step| step * sign).filter(|step| (1..=NEAR).contains(step)).collect();
    let back: i32 = steps.iter().map(|step| -step * sign).filter(|step| (1..=NEAR).contains(step)).sum();
    let forth: i32 = near.iter().sum();
    if near.len() * 10 < steps.len() * 7 || back * 3 > forth {
        return None;
    }
    let divides = |divisor: &i32| near.iter().filter(|step| *step % divisor == 0).count() * 5 >= near.len() * 4;
    let step = (1..=NEAR).rev().find(divides)?;
    i16::try_from(step * sign).ok()
}

/// The differences between neighbours that were answered.
fn steps(burst: &[Option<u16>; BURST]) -> Vec<i32> {
    let ports: Vec<i32> = burst.iter().flatten().map(|port| i32::from(*port)).collect();
    ports.windows(2).map(|pair| around(pair[1] - pair[0])).collect()
}

/// A difference that is near over the end of the range, as that; any other as it is.
fn around(difference: i32) -> i32 {
    let other = difference - RANGE * difference.signum();
    if other.abs() <= NEAR { other } else { difference }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and MAX_RATE")]
const fn rate_of(rate: f64) -> u16 {
    rate as u16
}

/// Ports from 1024 to 65535.
const RANGE: i32 = 64_512;
/// A larger step is no step.
const NEAR: i32 = 512;
/// The place of a burst's last member.
const LAST: i32 = BURST as i32 - 1;
/// Steps to judge by: one burst with a lost answer or two.
const ENOUGH_STEPS: usize = 5;
/// Ports to judge by: that so many random ones are all even happens once in 256 times.
const ENOUGH: usize = 8;
/// Ports to tell a block from its half: wrong once in 2000 times.
const ENOUGH_FOR_A_BLOCK: usize = 12;
/// That six random ports lie in one such block happens once in a million times.
const SMALL_BLOCK: u16 = 1 << 12;
const LARGEST_BLOCK: u16 = 1 << 15;
/// All ports of an address, each for the 30 s that a NAT keeps one at least: nothing opens flows faster for long.
const MAX_RATE: u16 = 2_150;

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    const APART: Duration = Duration::from_millis(400);

    #[test]
    fn a_quiet_counter_is_read_exactly() {
        for (step, first) in [(1, 2_000), (2, 2_000), (-1, 2_000), (7, 40_000), (-512, 60_000)] {
            let reading = bursts(ports(first, step, [0; 15])).read();
            assert_eq!(reading, sequential(step, 0), "{step}");
        }
    }

    #[test]
    fn one_burst_shows_a_block_a_parity_or_that_there_is_no_order() {
        let first = |ports: [u16; BURST]| {
            let seen = ports.map(|port| Some(SocketAddr::new([203, 0, 113, 1].into(), port)));
            Bursts { seen: [seen, [None; BURST]], ..Bursts::default() }
        };
        let small = first([2_100, 2_401, 2_077, 2_300, 2_555, 2_222, 2_049, 2_418]);
        assert_eq!(small.without_order(), Some(Allocation::Block { first: 2_048, size: 512 }));
        let even = first([40_000, 2_000, 17_312, 60_002, 33_330, 9_998, 51_234, 24_680]);
        assert_eq!(even.without_order(), Some(Allocation::RandomParity));
        let mut odd = even;
        odd.seen[0][2] = None;
        assert_eq!(odd.without_order(), Some(Allocation::Random), "seven ports show no parity");
        odd.seen[0][4..7].fill(None);
        assert_eq!(odd.without_order(), None, "four show nothing");
        assert_eq!(bursts(ports(2_000, 1, [0; 15])).without_order(), None);
    }

    #[test]
    fn a_counter_goes_on_after_the_end_of_the_range() {
        for first in 65_520..=65_535 {
            assert_eq!(bursts(ports(first, 1, [0; 15])).read(), sequential(1, 0), "{first}");
        }
        for first in 1_024..1_040 {
            assert_eq!(bursts(ports(first, -1, [0; 15])).read(), sequential(-1, 0), "{first}");
        }
    }

    #[test]
    fn foreign_flows_between_the_bursts_are_the_rate_and_those_within_do_no_harm() {
        let mut foreign = [0; 15];
        foreign[7] = 120;
        assert_eq!(bursts(ports(2_000, 2, foreign)).read(), sequential(2, 300));
        (foreign[2], foreign[5], foreign[9]) = (1, 3, 2);
        assert_eq!(bursts(ports(2_000, 2, foreign)).read(), sequential(2, 300));
        let own = Bursts { own_flows: 2, ..bursts(ports(2_000, 2, foreign)) };
        assert_eq!(own.read(), sequential(2, 295));
    }

    #[test]
    fn lost_answers_change_neither_step_nor_rate() {
        let mut foreign = [0; 15];
        foreign[7] = 20;
        let mut ports = ports(2_000, 1, foreign);
        for lost in [0, 6, 7, 8, 12] {
            ports[lost] = None;
        }
        assert_eq!(bursts(ports).read(), sequential(1, 50));
    }

    #[test]
    fn packets_that_overtook_each_other_do_not_change_the_step() {
        let mut ports = ports(2_000, 1, [0; 15]);
        ports.swap(1, 2);
        ports.swap(9, 10);
        ports.swap(12, 13);
        assert_eq!(bursts(ports).read(), sequential(1, 0));
    }

    #[test]
    fn one_burst_is_enough_for_a_step() {
        let mut ports = ports(2_000, 3, [0; 15]);
        ports[8..].fill(None);
        assert_eq!(bursts(ports).read(), sequential(3, 0));
        ports[2..].fill(None);
        assert_eq!(bursts(ports).read().allocation, None);
    }

    #[test]
    fn a_rate_that_no_nat_can_have_is_a_range_that_ended_elsewhere() {
        let mut ports = ports(65_528, 1, [0; 15]);
        for (port, place) in ports[8..].iter_mut().zip(0..) {
            *port = Some(32_768 + place);
        }
        assert_eq!(bursts(ports).read(), sequential(1, 0));
    }

    #[test]
    fn ports_without_order_have_a_block_or_a_parity_or_nothing() {
        let scattered =
            [40_962, 41_000, 40_970, 41_400, 41_471, 40_961, 41_100, 41_333, 41_200, 41_010, 41_444, 40_999];
        assert_eq!(unordered(&scattered), Some(Allocation::Block { first: 40_960, size: 512 }));
        let wide = [1_024, 65_534, 30_000, 2_048, 50_000, 44_444, 40_000, 33_332];
        assert_eq!(unordered(&wide), Some(Allocation::RandomParity));
        assert_eq!(unordered(&wide[..7]), None);
        assert_eq!(unordered(&wide.map(|port| port + 1)), Some(Allocation::Random));
    }

    #[test]
    fn up_and_down_in_a_small_block_is_no_counter() {
        let up_and_down = [5, 9, 20, 31, 2, 11, 25, 30, 1, 8, 17, 28, 6, 14, 22, 29].map(|port| Some(40_000 + port));
        let allocation = bursts(up_and_down).read().allocation;
        assert_eq!(allocation, Some(Allocation::Block { first: 40_000, size: 32 }));
    }

    #[test]
    fn a_block_may_be_half_of_everything_but_not_more() {
        assert_eq!(block_of([40_000]), Some(Allocation::Block { first: 40_000, size: 1 }));
        assert_eq!(block_of([32_768, 65_535]), Some(Allocation::Block { first: 32_768, size: 32_768 }));
        assert_eq!(block_of([32_767, 32_768]), None);
        assert_eq!(block_of([]), None);
    }

    /// A counter's ports, with so many foreign flows before each but the first.
    fn ports(first: u16, step: i32, foreign: [i32; 15]) -> [Option<u16>; 16] {
        let mut port = i32::from(first) - 1_024;
        let mut ports = [Some(first); 16];
        for (place, foreign) in ports[1..].iter_mut().zip(foreign) {
            port = (port + step * (foreign + 1)).rem_euclid(RANGE);
            *place = u16::try_from(port + 1_024).ok();
        }
        ports
    }

    fn bursts(ports: [Option<u16>; 16]) -> Bursts {
        let mut seen = [[None; BURST]; 2];
        for (seen, port) in seen.as_flattened_mut().iter_mut().zip(ports) {
            *seen = port.map(|port| SocketAddr::from(([203, 0, 113, 1], port)));
        }
        Bursts { seen, apart: APART, own_flows: 0 }
    }

    fn sequential(step: i32, foreign_rate: u16) -> Reading {
        let step = i16::try_from(step).unwrap();
        Reading { allocation: Some(Allocation::Sequential { step }), foreign_rate, pool: false }
    }
}
