//! Room for proven legs while more arrives than a worker can look at: a filter in the kernel (eBPF, `SO_ATTACH_BPF`).
//!
//! Without it everything that arrives at a port waits in one queue, and a flood of datagrams that the worker would drop takes
//! the places of those that it would forward. `bpf/guard.bpf.c` decides before the queue, and only while the worker is
//! pressed: it never got to the end of its queue for 20 ms. Then what proven legs send passes, up to twice the
//! pair's rate, and of all else what the worker can spare. What passes is judged as ever; what is not there (no privilege,
//! an older kernel) is missed only under a flood.
//!
//! The worker tells the program where a leg is by a keyed mark at the slot's place: 32 bytes of the kernel's for each slot
//! that there may be, one system call for a join, a move or an end. It writes no secret but the key of the marks, which
//! prove nothing.
//!
//! Rejected: classic BPF (it cannot know who is proven), a table by address in the kernel (memory for each leg, and a search
//! for each datagram), to drop always (a thousand clients that come from another relay at once are no flood).

use std::{
    error::Error as _,
    fmt,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, MapData},
    programs::SocketFilter,
};
use ring::rand::{SecureRandom as _, SystemRandom};
use wire::{relay::Slot, stream::StreamId};

use crate::{
    core::{Reach, Relay},
    door::Door,
    metrics::Metrics,
    slab::PLACES,
    steer::Workers,
    xdp::Error,
};

/// The program, built by `bpf/build`.
static OBJECT: &[u8] = aya::include_bytes_aligned!("../bpf/guard.bpf.o");

/// A worker that did not get to the end of its queue for this long is pressed: a fraction of what the queue holds.
const PRESSED_AFTER: Duration = Duration::from_millis(20);

/// A worker stays pressed until nothing was dropped for this long.
const RELIEVED_AFTER: Duration = Duration::from_secs(1);

/// The program's window, and what a pair may send in one: so often its rate and burst.
const WINDOW: u64 = 1 << 27;
const ALLOWANCE: u64 = 2;

/// Why the kernel dropped a datagram, in the order of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It names a slot, but comes from none of its legs, or is nothing at all.
    Stranger,
    /// One of more joins than the worker can spare time for.
    Join,
    /// One of more questions of STUN.
    Question,
    /// The pair sends more than twice its rate.
    OverRate,
}

impl Reason {
    /// Every reason, for metrics.
    pub const ALL: [Self; 4] = [Self::Stranger, Self::Join, Self::Question, Self::OverRate];

    /// The word for metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stranger => "stranger",
            Self::Join => "join",
            Self::Question => "question",
            Self::OverRate => "over-rate",
        }
    }
}

/// Datagrams by why they were dropped.
pub(crate) type Dropped = [u64; Reason::ALL.len()];

/// The filter at the sockets of one worker. It goes with them.
pub(crate) struct Guard {
    /// Holds the program's parts that no map of ours does.
    _program: Ebpf,
    rules: Array<MapData, [u64; 4]>,
    places: Array<MapData, [u64; 4]>,
    dropped: Array<MapData, u64>,
    secret: [u64; 2],
    workers: Workers,
    pressure: Pressure,
    before: Dropped,
}

impl Guard {
    /// Puts the filter at the sockets of `doors`, for at most `most` pairs. `secret` keys its marks.
    pub(crate) fn start(doors: &[Door], most: u32, workers: Workers, secret: [u64; 2]) -> Result<Self, Error> {
        let most = most.clamp(1, PLACES);
        let mut program = EbpfLoader::new().map_max_entries("places", most).load(OBJECT)?;
        let mut taken = |name| program.take_map(name).ok_or(Error::Missing(name));
        let mut guard = Self {
            rules: Array::try_from(taken("rules")?)?,
            places: Array::try_from(taken("places")?)?,
            dropped: Array::try_from(taken("dropped")?)?,
            _program: program,
            secret,
            workers,
            pressure: Pressure::default(),
            before: Dropped::default(),
        };
        guard.rule(false)?;
        let part = guard._program.program_mut("guard").ok_or(Error::Missing("guard"))?;
        let filter: &mut SocketFilter = part.try_into()?;
        filter.load()?;
        for door in doors {
            filter.attach(&door.socket)?;
        }
        Ok(guard)
    }

    /// Tells the kernel where the legs of a pair are now.
    pub(crate) fn follow(&mut self, relay: &mut Relay, slot: Slot) {
        let place = (slot.0 % PLACES) >> self.workers.bits();
        // A place that cannot be written is one that only spare time is left for.
        let _ = self.places.set(place, self.place(slot, relay.reach(slot)), 0);
    }

    fn place(&self, slot: Slot, reach: Option<Reach>) -> [u64; 4] {
        let Some(reach) = reach else { return [0; 4] };
        let marks = reach.legs.map(|leg| {
            let address = leg.filter(|address| StreamId::of(address).is_none());
            address.map_or(0, |address| mark(self.secret, address, slot))
        });
        [marks[0], marks[1], 0, allowed(reach.pace, reach.depth)]
    }

    /// A turn of the worker, which left nothing in its queue, or something.
    pub(crate) fn handle_turn(&mut self, now: Instant, emptied: bool, metrics: &Metrics) {
        let (dropped, before) = (&self.dropped, &mut self.before);
        let looks = || {
            let total = count(dropped);
            for ((reason, now), before) in Reason::ALL.into_iter().zip(total).zip(*before) {
                metrics.guarded(reason).inc_by(now.saturating_sub(before));
            }
            *before = total;
            total.iter().sum()
        };
        if let Some(pressed) = self.pressure.handle_turn(now, emptied, looks)
            && self.rule(pressed).is_ok()
        {
            tracing::debug!(pressed, "the kernel keeps room for proven legs");
        }
    }

    fn rule(&mut self, pressed: bool) -> Result<(), Error> {
        let [first, second] = self.secret;
        let bits = u64::from(self.workers.bits());
        // The last two numbers of `struct rules` are of four bytes.
        let bits = if cfg!(target_endian = "little") { bits } else { bits << 32 };
        Ok(self.rules.set(0, [u64::from(pressed), first, second, bits], 0)?)
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard").field("pressure", &self.pressure).finish_non_exhaustive()
    }
}

fn count(dropped: &Array<MapData, u64>) -> Dropped {
    std::array::from_fn(|nth| u32::try_from(nth).ok().and_then(|nth| dropped.get(&nth, 0).ok()).unwrap_or(0))
}

/// Whether a worker is pressed.
#[derive(Debug, Default)]
struct Pressure {
    /// Since when there was always more in the queue.
    behind: Option<Instant>,
    /// When it is looked at whether the filter still drops, and what it had dropped the last time.
    pressed: Option<(Instant, u64)>,
}

impl Pressure {
    /// Whether the worker is pressed, when that has changed. `dropped` counts what the filter dropped, ever.
    fn handle_turn(&mut self, now: Instant, emptied: bool, dropped: impl FnOnce() -> u64) -> Option<bool> {
        if emptied {
            self.behind = None;
        }
        let behind = (!emptied).then(|| *self.behind.get_or_insert(now));
        let is_late = behind.is_some_and(|since| now.saturating_duration_since(since) >= PRESSED_AFTER);
        match self.pressed {
            None if is_late => {
                self.pressed = Some((now + RELIEVED_AFTER, dropped()));
                Some(true)
            }
            Some((looks, before)) if now >= looks => {
                let dropped = dropped();
                let relieved = dropped == before && !is_late;
                self.pressed = (!relieved).then_some((now + RELIEVED_AFTER, dropped));
                relieved.then_some(false)
            }
            None | Some(_) => None,
        }
    }
}

/// What the program compares a datagram's source with, as it computes it. Never 0.
fn mark(secret: [u64; 2], address: SocketAddr, slot: Slot) -> u64 {
    let ip = match address.ip() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    };
    let (high, low) = ((ip >> 64) as u64, ip as u64);
    let end = u64::from(slot.0) << 16 | u64::from(address.port());
    let mixed = |value: u64| {
        let value = value.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        value ^ value >> 32
    };
    mixed(mixed(mixed(secret[0] ^ high) ^ low) ^ secret[1] ^ end) | 1
}

/// Bytes that a pair with this bucket may send in one window, headers of UDP included.
fn allowed(pace: u64, depth: u64) -> u64 {
    if pace == 0 {
        return u32::MAX.into();
    }
    let bytes = |nanos: u64| nanos.saturating_mul(1024) / pace;
    ALLOWANCE.saturating_mul(bytes(depth).saturating_add(bytes(WINDOW))).min(u32::MAX.into())
}

/// The filter for `doors`, if this host can have it.
pub(crate) fn guard(doors: &[Door], most: u32, workers: Workers) -> Option<Guard> {
    let mut secret = [[0; 8]; 2];
    let drawn = SystemRandom::new().fill(secret.as_flattened_mut()).map_err(|_| Error::Random);
    match drawn.and_then(|()| Guard::start(doors, most, workers, secret.map(u64::from_ne_bytes))) {
        Ok(guard) => Some(guard),
        Err(error) => {
            let reason = error.source().map(ToString::to_string);
            tracing::info!(%error, reason, "the kernel keeps no room for proven legs: a flood can crowd them out");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLIS: Duration = Duration::from_millis(1);

    #[test]
    fn a_worker_is_pressed_when_it_stays_behind_and_relieved_when_nothing_was_dropped() {
        let start = Instant::now();
        let mut pressure = Pressure::default();
        let mut turn = |at: u32, emptied, dropped: u64| pressure.handle_turn(start + at * MILLIS, emptied, || dropped);
        assert_eq!(turn(0, false, 0), None);
        assert_eq!(turn(19, false, 0), None);
        assert_eq!(turn(19, true, 0), None);
        assert_eq!(turn(20, false, 0), None, "it caught up in between");
        assert_eq!(turn(39, false, 0), None);
        assert_eq!(turn(40, false, 0), Some(true));
        // The filter works: the queue is empty, and it must not be opened for that.
        assert_eq!(turn(500, true, 1_000), None);
        assert_eq!(turn(1_040, true, 2_000), None);
        assert_eq!(turn(2_040, true, 2_000), Some(false));
        assert_eq!(turn(2_041, true, 2_000), None);
    }

    #[test]
    fn a_worker_that_is_behind_by_itself_stays_pressed() {
        let start = Instant::now();
        let mut pressure = Pressure::default();
        let mut turn = |at: u32, emptied| pressure.handle_turn(start + at * MILLIS, emptied, || 7);
        turn(0, false);
        assert_eq!(turn(20, false), Some(true));
        assert_eq!(turn(1_020, false), None);
        assert_eq!(turn(2_020, true), Some(false));
    }

    #[test]
    fn a_pair_may_send_twice_its_rate_and_never_less_than_its_bucket_gives() {
        assert_eq!(allowed(0, 5), u64::from(u32::MAX));
        // 1,000 bytes a second, and a burst of 2,048.
        let (pace, depth) = (1_000_000 * 1024, 2_048_000_000);
        assert_eq!(allowed(pace, depth), 2 * (2_048 + 134));
        assert_eq!(allowed(1, u64::MAX), u64::from(u32::MAX));
    }

    #[test]
    fn a_mark_is_of_one_address_and_one_slot() {
        let mark = |address: &str, slot| mark([1, 2], address.parse().unwrap(), Slot(slot));
        let mine = mark("192.0.2.1:7", 9);
        assert_eq!(mine, mark("[::ffff:192.0.2.1]:7", 9));
        for other in
            [mark("192.0.2.2:7", 9), mark("192.0.2.1:8", 9), mark("192.0.2.1:7", 10), mark("[2001:db8::1]:7", 9)]
        {
            assert_ne!(mine, other);
        }
    }
}
