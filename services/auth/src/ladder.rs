//! How hard it is to become a client just now. Pure: the clock is an argument.
//!
//! New keys are counted by where they come from, in prefixes of growing width, and altogether. As long as that is what people
//! do, nothing happens. Beyond it a new key costs work, twice as much each time the rate doubles; only the narrowest prefix
//! (one address) is ever made to wait, because a wider one holds people who have nothing to do with whoever that is. Keys that
//! are known are never looked at here.
//!
//! What is measured is a bucket that leaks: as many a minute as are free, and a minute's worth at once. So everything here is
//! over by itself some minutes after the last new key, and nothing has to be lifted by anybody.
//!
//! Counted at each process: with several of them as many times the numbers are free, which changes little, because whoever has
//! thousands of keys made is over any of them. Rejected: counting in the database, which is what is to be protected.

use std::{
    collections::BTreeMap,
    num::NonZeroU32,
    time::{Duration, Instant},
};

use domain::{AddressPrefix, ClientId, Degree};
use serde::{Deserialize, Serialize};

/// The least time that somebody is told to wait.
const LEAST_WAIT: Duration = Duration::from_secs(1);

/// The longest: whoever comes back later finds out again.
const LONGEST_WAIT: Duration = Duration::from_secs(600);

/// Between two new keys from a prefix that an operator slowed down.
const SLOW_REGISTRATIONS: u32 = 6;

/// Logins a minute of a client that an operator slowed down.
const SLOW_LOGINS: u32 = 1;

/// Minutes' worth that a bucket holds at most: as long until an attack is forgotten.
const DEEPEST: f64 = 16.0;

/// Prefixes, or keys, that are remembered of one width. Beyond them new ones are not: the sum of all is counted in any case.
const MOST: usize = 65_536;

/// What is usual, and what is asked beyond it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct LadderConfig {
    /// New keys a minute from one address (IPv4 /32, IPv6 /64), beyond which each is asked for work.
    pub free_per_address: NonZeroU32,
    /// The same of its neighbours together (IPv4 /24, IPv6 /56).
    pub free_per_neighbours: NonZeroU32,
    /// The same of an IPv6 /48.
    pub free_per_site: NonZeroU32,
    /// The same of all at this process.
    pub free: NonZeroU32,
    /// The work at first: so many bits of a hash, of which each one more doubles it. 19 take a core about 0.1 s.
    pub work_bits: u8,
    /// The work at most: 22 take a core about 1 s.
    pub most_work_bits: u8,
    /// Logins a minute of one key.
    pub logins_per_key: NonZeroU32,
}

impl Default for LadderConfig {
    fn default() -> Self {
        Self {
            free_per_address: const { NonZeroU32::new(10).unwrap() },
            free_per_neighbours: const { NonZeroU32::new(60).unwrap() },
            free_per_site: const { NonZeroU32::new(120).unwrap() },
            free: const { NonZeroU32::new(600).unwrap() },
            work_bits: 19,
            most_work_bits: 22,
            logins_per_key: const { NonZeroU32::new(60).unwrap() },
        }
    }
}

/// What a new key, or a login, meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing. It is counted.
    Admit,
    /// It is to solve a puzzle of so many bits first.
    Work { bits: u8 },
    /// It is to come back after this.
    Wait(Duration),
}

/// The counts.
#[derive(Debug)]
pub struct Ladder {
    config: LadderConfig,
    /// New keys at once of one address, however much they work.
    per_address: f64,
    /// New keys a minute, however much they work.
    in_total: f64,
    addresses: Meters<AddressPrefix>,
    neighbours: Meters<AddressPrefix>,
    sites: Meters<AddressPrefix>,
    /// All new keys, by what is free.
    total: Meter,
    /// The same, by what can be served.
    load: Meter,
    /// Puzzles that were asked for, by address.
    asked: Meters<AddressPrefix>,
    /// New keys from prefixes that operators slowed down.
    slowed: Meters<AddressPrefix>,
    logins: Meters<ClientId>,
    slow_logins: Meters<ClientId>,
}

impl Ladder {
    /// A ladder on which nobody stands. However much it works, one address gets `per_address` new keys at once, and then as
    /// many a minute as are free; all together get `in_total` a second.
    #[must_use]
    pub fn new(now: Instant, config: LadderConfig, per_address: NonZeroU32, in_total: NonZeroU32) -> Self {
        let meters = |per_minute: NonZeroU32| Meters::new(per_minute.get());
        Self {
            per_address: per_address.get().into(),
            in_total: f64::from(in_total.get()) * 60.0,
            addresses: meters(config.free_per_address),
            neighbours: meters(config.free_per_neighbours),
            sites: meters(config.free_per_site),
            total: Meter { level: 0.0, at: now },
            load: Meter { level: 0.0, at: now },
            asked: meters(per_address),
            slowed: Meters::new(SLOW_REGISTRATIONS),
            logins: Meters::new(config.logins_per_key.get()),
            slow_logins: Meters::new(SLOW_LOGINS),
            config,
        }
    }

    /// A key never seen before, from this address (an IPv4 /32 or an IPv6 /64), that did so many bits of work. `held` is what
    /// an operator holds against new keys from there.
    pub fn registration(
        &mut self,
        now: Instant,
        from: AddressPrefix,
        worked: Option<u8>,
        held: Option<(AddressPrefix, Degree)>,
    ) -> Verdict {
        if let Some(wait) = self.wait(now, from) {
            return Verdict::Wait(wait);
        }
        // Whoever has to wait is not made to work before.
        let slowed = held.and_then(|(prefix, degree)| (degree == Degree::Slow).then_some(prefix));
        if let Some(wait) = slowed.and_then(|prefix| self.slowed.spacing(now, prefix)) {
            return Verdict::Wait(wait);
        }
        let challenged = held.is_some_and(|(_, degree)| degree >= Degree::Challenge);
        if let Some(bits) =
            self.bits(now, from, challenged).filter(|_| worked.is_none_or(|bits| bits < self.config.work_bits))
        {
            return match self.asked.take(now, from) {
                Ok(()) => Verdict::Work { bits },
                Err(wait) => Verdict::Wait(wait),
            };
        }
        if let Some((prefix, Degree::Slow)) = held
            && let Err(wait) = self.slowed.take_spaced(now, prefix)
        {
            return Verdict::Wait(wait);
        }
        self.count(now, from);
        Verdict::Admit
    }

    /// A client that is known, or that an operator holds something against, logs in.
    pub fn login(&mut self, now: Instant, client: ClientId, held: Option<Degree>, worked: Option<u8>) -> Verdict {
        match held {
            Some(Degree::Slow) => {
                if let Err(wait) = self.slow_logins.take_spaced(now, client) {
                    return Verdict::Wait(wait);
                }
            }
            Some(Degree::Challenge) if worked.is_none_or(|bits| bits < self.config.work_bits) => {
                return Verdict::Work { bits: self.config.most_work_bits };
            }
            Some(Degree::Challenge | Degree::Refuse) | None => {}
        }
        match self.logins.take(now, client) {
            Ok(()) => Verdict::Admit,
            Err(wait) => Verdict::Wait(wait),
        }
    }

    /// Whether new keys come in such numbers that all of them are asked for work.
    #[must_use]
    pub fn is_under_attack(&self, now: Instant) -> bool {
        let free = f64::from(self.config.free.get());
        self.total.now(now, free) + 1.0 > free
    }

    /// Forgets what leaked away. To be called now and then.
    pub fn forget(&mut self, now: Instant) {
        for meters in [&mut self.addresses, &mut self.neighbours, &mut self.sites, &mut self.asked, &mut self.slowed] {
            meters.forget(now);
        }
        self.logins.forget(now);
        self.slow_logins.forget(now);
    }

    /// Prefixes and keys that are remembered.
    #[must_use]
    pub fn remembered(&self) -> usize {
        let of_prefixes = [&self.addresses, &self.neighbours, &self.sites, &self.asked, &self.slowed];
        let of_keys = [&self.logins, &self.slow_logins];
        of_prefixes.iter().map(|meters| meters.known.len()).sum::<usize>()
            + of_keys.iter().map(|meters| meters.known.len()).sum::<usize>()
    }

    /// How long an address, or everybody, has to wait, however much it works.
    fn wait(&self, now: Instant, from: AddressPrefix) -> Option<Duration> {
        let addresses = &self.addresses;
        let address = over(addresses.level(now, &from) + 1.0, self.per_address, addresses.per_minute);
        let load = over(self.load.now(now, self.in_total) + 1.0, self.in_total / 60.0, self.in_total);
        address.max(load).map(|wait| wait.clamp(LEAST_WAIT, LONGEST_WAIT))
    }

    /// How much work is asked of a new key from there, if any.
    fn bits(&self, now: Instant, from: AddressPrefix, challenged: bool) -> Option<u8> {
        let total = self.total.now(now, f64::from(self.config.free.get()));
        let ratio = self
            .around(from)
            .map(|(meters, prefix)| (meters.level(now, &prefix) + 1.0) / meters.per_minute)
            .fold((total + 1.0) / f64::from(self.config.free.get()), f64::max);
        if ratio <= 1.0 && !challenged {
            return None;
        }
        // One more for each doubling of the rate.
        let more = (1..u8::MAX).find(|&more| ratio <= f64::from(1_u32 << more.min(30))).unwrap_or(u8::MAX) - 1;
        Some(self.config.work_bits.saturating_add(more).min(self.config.most_work_bits.max(self.config.work_bits)))
    }

    fn count(&mut self, now: Instant, from: AddressPrefix) {
        let free = f64::from(self.config.free.get());
        self.total = Meter { level: (self.total.now(now, free) + 1.0).min(free * DEEPEST), at: now };
        self.load = Meter { level: self.load.now(now, self.in_total) + 1.0, at: now };
        self.addresses.add(now, from);
        self.neighbours.add(now, neighbours(from));
        if !from.is_v4() {
            self.sites.add(now, from.widened(48));
        }
    }

    fn around(&self, from: AddressPrefix) -> impl Iterator<Item = (&Meters<AddressPrefix>, AddressPrefix)> {
        let site = (!from.is_v4()).then(|| (&self.sites, from.widened(48)));
        [(&self.addresses, from), (&self.neighbours, neighbours(from))].into_iter().chain(site)
    }
}

fn neighbours(from: AddressPrefix) -> AddressPrefix {
    from.widened(if from.is_v4() { 24 } else { 56 })
}

/// How long it takes until `level` has leaked down to `most`, if it is above.
fn over(level: f64, most: f64, per_minute: f64) -> Option<Duration> {
    (level > most).then(|| Duration::from_secs_f64((level - most) / per_minute * 60.0))
}

/// A bucket that leaks.
#[derive(Clone, Copy, Debug)]
struct Meter {
    level: f64,
    at: Instant,
}

impl Meter {
    fn now(&self, now: Instant, per_minute: f64) -> f64 {
        (self.level - now.saturating_duration_since(self.at).as_secs_f64() * per_minute / 60.0).max(0.0)
    }
}

/// Buckets of one kind.
#[derive(Debug)]
struct Meters<K> {
    per_minute: f64,
    known: BTreeMap<K, Meter>,
}

impl<K: Copy + Ord> Meters<K> {
    fn new(per_minute: u32) -> Self {
        Self { per_minute: per_minute.into(), known: BTreeMap::new() }
    }

    fn level(&self, now: Instant, key: &K) -> f64 {
        self.known.get(key).map_or(0.0, |meter| meter.now(now, self.per_minute))
    }

    fn add(&mut self, now: Instant, key: K) {
        let level = (self.level(now, &key) + 1.0).min(self.per_minute.max(1.0) * DEEPEST);
        if self.known.len() >= MOST && !self.known.contains_key(&key) {
            self.forget(now);
            if self.known.len() >= MOST {
                return;
            }
        }
        self.known.insert(key, Meter { level, at: now });
    }

    /// One more, of a minute's worth at once; or how long until there is room.
    fn take(&mut self, now: Instant, key: K) -> Result<(), Duration> {
        self.take_of(now, key, self.per_minute)
    }

    /// How long the next one has to wait, of one at once.
    fn spacing(&self, now: Instant, key: K) -> Option<Duration> {
        over(self.level(now, &key) + 1.0, 1.0, self.per_minute).map(|wait| wait.clamp(LEAST_WAIT, LONGEST_WAIT))
    }

    /// One more, of one at once.
    fn take_spaced(&mut self, now: Instant, key: K) -> Result<(), Duration> {
        self.take_of(now, key, 1.0)
    }

    fn take_of(&mut self, now: Instant, key: K, most: f64) -> Result<(), Duration> {
        match over(self.level(now, &key) + 1.0, most, self.per_minute) {
            Some(wait) => Err(wait.clamp(LEAST_WAIT, LONGEST_WAIT)),
            None => {
                self.add(now, key);
                Ok(())
            }
        }
    }

    fn forget(&mut self, now: Instant) {
        let per_minute = self.per_minute;
        self.known.retain(|_, meter| meter.now(now, per_minute) > 0.0);
    }
}

#[cfg(test)]
mod tests;
