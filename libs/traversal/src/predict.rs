//! Where a NAT's next ports will be: the formulas behind PREDICT, SWEEP and BIRTHDAY.
//!
//! A *sequential* NAT gives each new flow the port of the one before plus `step`. Between the measurement and the punch
//! `dt` passes, in which others open `lambda * dt` flows, give or take the square root of that (they arrive like a Poisson
//! process). So the port of our own next flow lies in a window that grows with `dt`: measuring last and serialising the
//! punches behind one NAT keep it small.
//!
//! A *random* NAT gives any port. When one side holds `K` of 64,512 ports and the other tries `N` different ones, they miss
//! each other with the chance `prod (1 - K / (64512 - i))`, `i < N`: 256 against 980 meet in 98 % of all attempts. The
//! order in which ports are tried does not matter for that, as long as none is tried twice. Ours is a Weyl sequence by the
//! golden ratio, which leaves no large gap at any time: should the ports be neighbours after all, it hits them within
//! `2 * 64512 / K` probes.

use std::time::Duration;

use domain::{Allocation, Spray};

use crate::discover::BETWEEN_BURSTS;

/// The lowest port that NATs give out.
pub const LOWEST_PORT: u16 = 1_024;
/// Ports in the window of one prediction, at first; the second attempt may have twice as many.
pub const MAX_WINDOW: u16 = 128;
/// Sockets of one side of a sweep: an opener and two packets of each are 450, less than a second may have.
pub const MAX_SWEEP: u16 = 150;
/// Sockets that the hard side of a birthday punches from; each takes a session of its NAT.
pub const BIRTHDAY_SOCKETS: u16 = 256;
/// The same behind a carrier, which gives a subscriber few ports.
pub const CARRIER_SOCKETS: u16 = 64;
/// Ports that the easy side of a birthday tries; each takes a session of its NAT for 30 s. Of the 1,024 that an address may
/// get in that time, 44 are for what else a client does: its discovery, and what it sends to observed addresses.
pub const BIRTHDAY_PROBES: u16 = 980;

/// The last port of a sequential NAT, and what happened since.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Trend {
    /// Of the measured flow.
    pub last: u16,
    /// Not 0.
    pub step: i16,
    /// Flows that others opened since, on average.
    pub drift: f64,
    /// The standard deviation of that.
    pub spread: f64,
}

impl Trend {
    /// The trend of a NAT that was seen using port `last` this long before the punch.
    #[must_use]
    pub fn new(last: u16, step: i16, foreign_rate: u16, dt: Duration) -> Self {
        let drift = f64::from(foreign_rate) * dt.as_secs_f64();
        // Flows come by chance since the measurement, and so they did while the rate was measured.
        let spread = (drift * (1.0 + dt.as_secs_f64() / BETWEEN_BURSTS.as_secs_f64())).sqrt();
        Self { last, step, drift, spread }
    }

    /// The port of the `nth` flow from now on, counted from 1, foreign ones included.
    #[must_use]
    pub fn port(self, nth: u16) -> u16 {
        wrapped(self.last, i32::from(self.step) * i32::from(nth))
    }

    /// PREDICT: ports of which the next flow of ours takes one. `widen` multiplies their number.
    #[must_use]
    pub fn window(self, widen: u16) -> Spray {
        let count = round(8.0 + 2.0 * self.drift + 4.0 * self.drift.sqrt()).min(MAX_WINDOW).saturating_mul(widen);
        Spray::Window { first: self.port(1), step: self.step, count }
    }

    /// SWEEP: how far ahead the one port lies that a burst of `sockets` is to pass over. It may begin beyond that port when
    /// too many others came, and end before it when too few did. The former is the likelier mistake, because messages that
    /// are repeated make a start late and never early; so what the latter leaves is for the former.
    #[must_use]
    pub fn ahead(self, sockets: u16) -> u16 {
        let sockets = f64::from(sockets);
        round(self.drift + (sockets - 3.0 * self.spread - 3.0).max(sockets / 2.0))
    }
}

/// SWEEP: sockets that a side needs so that its burst passes over [`Trend::ahead`].
#[must_use]
pub fn sweep_sockets(foreign_rate: u16, dt: Duration) -> u16 {
    let Trend { drift, spread, .. } = Trend::new(0, 1, foreign_rate, dt);
    round(drift + 6.0 * spread + 12.0).min(MAX_SWEEP)
}

/// BIRTHDAY: sockets of the hard side. A pool is a carrier's; when its ports are known to come from more than a small block,
/// it bears as many as any other.
#[must_use]
pub const fn birthday_sockets(allocation: Option<Allocation>, pool: bool) -> u16 {
    match allocation {
        Some(Allocation::Block { size, .. }) if size < 2_048 => CARRIER_SOCKETS,
        None if pool => CARRIER_SOCKETS,
        Some(_) | None => BIRTHDAY_SOCKETS,
    }
}

/// BIRTHDAY: the ports that the easy side tries, without the `skip` that earlier attempts tried. Hard sides use even inner
/// ports only.
#[must_use]
pub fn scatter(allocation: Option<Allocation>, seed: u64, skip: u16) -> Spray {
    let (low, high, step) = match allocation {
        Some(Allocation::Block { first, size }) => (first.max(1), first.saturating_add(size.saturating_sub(1)), 1),
        Some(Allocation::RandomParity) => (LOWEST_PORT, u16::MAX - 1, 2),
        Some(Allocation::Random | Allocation::Sequential { .. }) | None => (LOWEST_PORT, u16::MAX, 1),
    };
    let ports = (high - low) / u16::from(step);
    let skip = if skip.saturating_add(BIRTHDAY_PROBES) > ports { 0 } else { skip };
    Spray::Scatter { low, high, step, seed, skip, count: BIRTHDAY_PROBES.min(ports.saturating_add(1)) }
}

/// The ports of a spray, in the order of sending. Bounded, whatever the order of a broken server says.
#[must_use]
pub fn ports(spray: &Spray) -> Vec<u16> {
    match *spray {
        Spray::Window { first, step, count } => {
            let nth = |nth: u16| wrapped(first, i32::from(step) * i32::from(nth));
            (0..count.min(2 * MAX_WINDOW)).map(nth).collect()
        }
        Spray::Scatter { low, high, step, seed, skip, count } => {
            let (low, step) = (u64::from(low.max(1)), u64::from(step.max(1)));
            let Some(span) = u64::from(high).checked_sub(low) else { return Vec::new() };
            let size = span / step + 1;
            let stride = stride(size);
            let left = size.saturating_sub(skip.into()).min(count.min(BIRTHDAY_PROBES).into());
            let nth = |nth: u64| low + step * ((seed % size + stride * (u64::from(skip) + nth)) % size);
            (0..left).filter_map(|place| u16::try_from(nth(place)).ok()).collect()
        }
    }
}

/// The number next to `size` divided by the golden ratio that visits all places before it repeats one.
fn stride(size: u64) -> u64 {
    let golden = size * 618 / 1_000;
    (golden..).find(|&stride| gcd(stride, size) == 1).unwrap_or(1)
}

const fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// `port + offset` among the ports that NATs give out.
fn wrapped(port: u16, offset: i32) -> u16 {
    let low = i32::from(LOWEST_PORT);
    let size = i32::from(u16::MAX) + 1 - low;
    let place = (i32::from(port) - low + offset).rem_euclid(size);
    u16::try_from(place + low).unwrap_or(LOWEST_PORT)
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to the range before")]
fn round(number: f64) -> u16 {
    number.ceil().clamp(0.0, f64::from(u16::MAX)) as u16
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_quiet_nat_is_predicted_by_eight_ports() {
        let trend = Trend::new(40_000, 1, 0, Duration::from_millis(100));
        assert_eq!(ports(&trend.window(1)), (40_001..=40_008).collect::<Vec<_>>());
        assert_eq!(ports(&trend.window(2)).len(), 16);
        let down = Trend { step: -2, ..trend };
        assert_eq!(ports(&down.window(1))[..3], [39_998, 39_996, 39_994]);
    }

    #[test]
    fn a_busy_nat_gets_a_wider_window_up_to_a_bound() {
        let busy = |dt| ports(&Trend::new(40_000, 1, 300, Duration::from_millis(dt)).window(1)).len();
        assert_eq!((busy(100), busy(10_000)), (90, usize::from(MAX_WINDOW)));
    }

    #[test]
    fn ports_wrap_among_those_that_nats_give_out() {
        assert_eq!(at(65_535, 1).port(1), 1_024);
        assert_eq!(at(1_025, -2).port(1), 65_535);
        assert_eq!(at(0, 1).port(1), 64_513);
    }

    #[test]
    fn a_burst_passes_over_the_port_that_the_other_side_sends_to() {
        for rate in [0, 10, 50, 100, 300] {
            let dt = Duration::from_millis(150);
            let trend = Trend::new(40_000, 1, rate, dt);
            let (few, many) = (trend.drift - 3.0 * trend.spread, trend.drift + 3.0 * trend.spread);
            let sockets = sweep_sockets(rate, dt);
            let (ahead, sockets) = (f64::from(trend.ahead(sockets)), f64::from(sockets));
            assert!(many < ahead && ahead <= few.max(0.0) + sockets, "{rate}: {ahead} of {sockets}");
        }
    }

    const fn at(last: u16, step: i16) -> Trend {
        Trend { last, step, drift: 0.0, spread: 0.0 }
    }

    #[test]
    fn a_scatter_tries_no_port_twice_and_goes_on_where_it_ended() {
        let first = ports(&scatter(None, 7, 0));
        let second = ports(&scatter(None, 7, BIRTHDAY_PROBES));
        let all: BTreeSet<_> = first.iter().chain(&second).collect();
        assert_eq!((first.len(), all.len()), (980, 1_960));
        assert!(all.into_iter().all(|&port| port >= LOWEST_PORT));
    }

    #[test]
    fn a_scatter_soon_hits_neighbours() {
        for seed in 0..100 {
            let ports = ports(&scatter(None, seed, 0));
            let worst = (1_024..=65_000_u16)
                .step_by(64)
                .map(|first| ports.iter().position(|port| (first..=first.saturating_add(255)).contains(port)).unwrap());
            let worst = worst.max().unwrap();
            assert!(worst < 2 * 64_512 / 256, "{seed}: {worst}");
        }
    }

    #[test]
    fn a_scatter_keeps_to_what_is_known_of_the_ports() {
        assert!(ports(&scatter(Some(Allocation::RandomParity), 7, 0)).iter().all(|port| port % 2 == 0));
        let block = ports(&scatter(Some(Allocation::Block { first: 2_048, size: 512 }), 7, 900));
        assert_eq!(block.iter().collect::<BTreeSet<_>>().len(), 512);
        assert!(block.iter().all(|port| (2_048..2_560).contains(port)));
    }

    #[test]
    fn no_spray_is_larger_than_its_budget() {
        let window = Spray::Window { first: 1, step: 0, count: u16::MAX };
        let scatter = Spray::Scatter { low: 0, high: u16::MAX, step: 0, seed: 1, skip: 0, count: u16::MAX };
        assert_eq!(ports(&window).len(), 2 * usize::from(MAX_WINDOW));
        assert_eq!(ports(&scatter).len(), usize::from(BIRTHDAY_PROBES));
        assert!(ports(&Spray::Scatter { low: 9, high: 3, step: 1, seed: 1, skip: 0, count: 5 }).is_empty());
    }
}
