//! Pairs that are forwarded in the kernel, where an interface hands packets over (XDP): an accelerator that may be missing.
//!
//! `bpf/forward.bpf.c` does for the DATA of two proven IPv4 legs what [`core`](crate::core) does, with the pair's own bucket;
//! everything else it leaves to the workers. A worker enters a pair once both legs are there, and takes it out when it ends.
//! The bucket then lives in the map: a worker that gets a datagram of a capped pair first reads it from there, and writes
//! back what it charged. A pair is asked whether it was used in the kernel before it ends for being idle.
//!
//! What each leg sent is counted in the kernel for who pays, and goes on there only so far (see [`crate::quota`]): then a
//! datagram comes up, and the worker that gets it counts, and allows more or takes the pair out. The counts are in a map of
//! their own that only the kernel writes, so that none is lost when a pair moves or ends.
//!
//! Only legs at doors that are bound to an address, not to all of them, and behind the interface that their partner comes
//! in by; packets so forwarded pass no firewall of this host. Rejected: memory shared with the program (unsafe for a slow
//! path), a program per worker (the map has a lock per pair, and one interface one program).

use std::{
    collections::BTreeMap,
    fmt,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    os::fd::AsFd as _,
    time::{Duration, Instant},
};

use aya::{
    Ebpf, EbpfError, EbpfLoader,
    maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray},
    programs::{Program, ProgramError, Xdp, XdpMode, socket_filter::SocketFilterError},
};
use nix::time::{ClockId, clock_gettime};
use wire::{relay::Slot, ticket::LegSide};

use crate::{
    core::{Hop, Relay, Sight},
    slab::PLACES,
    steer::Workers,
};

/// The program, built by `bpf/build`.
static OBJECT: &[u8] = aya::include_bytes_aligned!("../bpf/forward.bpf.o");

/// Where the kernel's entry is read and written as a whole (`BPF_F_LOCK`), and only if it is there (`BPF_EXIST`).
const LOCKED: u64 = 4;
const PRESENT: u64 = 2;

/// Why the kernel does not help.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("the kernel does not take the program")]
    Load(#[from] EbpfError),
    #[error("the interface does not take the program")]
    Attach(#[from] ProgramError),
    #[error("the program's maps are not as expected")]
    Map(#[from] MapError),
    #[error("the program has no part {0}")]
    Missing(&'static str),
    #[error("the system refuses")]
    System(#[from] std::io::Error),
    #[error("a socket does not take the program")]
    Filter(#[from] SocketFilterError),
    #[error("the system gives no random bytes")]
    Random,
}

/// The program at its interfaces. It leaves them when this is dropped.
pub(crate) struct Accelerator {
    ebpf: Ebpf,
    totals: PerCpuArray<MapData, [u64; 2]>,
    before: Totals,
}

/// What was forwarded in the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
}

impl Accelerator {
    /// Attaches the program to `interfaces`, natively: where a driver cannot, nothing is gained. Room for `most` pairs of
    /// `workers`.
    pub(crate) fn start(interfaces: &[String], most: u32, workers: Workers) -> Result<Self, Error> {
        let places = u64::from(most.div_ceil(u32::from(workers.count()))) << workers.bits();
        let places = u32::try_from(places).unwrap_or(PLACES).clamp(1, PLACES);
        let mut loader = EbpfLoader::new();
        let mut ebpf = loader.map_max_entries("pairs", most.max(1)).map_max_entries("spent", places).load(OBJECT)?;
        let totals = ebpf.take_map("totals").ok_or(Error::Missing("totals"))?;
        let program = ebpf.program_mut("forward").ok_or(Error::Missing("forward"))?;
        let Program::Xdp(program) = program else { return Err(Error::Missing("forward")) };
        program.load()?;
        for interface in interfaces {
            attach(program, interface)?;
        }
        Ok(Self { totals: PerCpuArray::try_from(totals)?, ebpf, before: Totals::default() })
    }

    /// One worker's access; `doors` are where its sockets are bound.
    pub(crate) fn table(&self, doors: Vec<SocketAddr>) -> Result<Table, Error> {
        let shared = |name| -> Result<MapData, Error> {
            let Some(Map::HashMap(map) | Map::Array(map)) = self.ebpf.map(name) else {
                return Err(Error::Missing(name));
            };
            Ok(MapData::from_fd(map.fd().as_fd().try_clone_to_owned()?)?)
        };
        let monotonic = clock_gettime(ClockId::CLOCK_MONOTONIC).map_err(std::io::Error::from)?;
        Ok(Table {
            pairs: HashMap::try_from(Map::HashMap(shared("pairs")?))?,
            spent: Array::try_from(Map::Array(shared("spent")?))?,
            doors,
            entered: BTreeMap::new(),
            origin: (Instant::now(), u64::try_from(Duration::from(monotonic).as_nanos()).unwrap_or(0)),
        })
    }

    /// What was forwarded since the last time.
    pub(crate) fn count(&mut self) -> Totals {
        let Ok(counted) = self.totals.get(&0, 0) else { return Totals::default() };
        let [packets, bytes] = [0, 1].map(|at| counted.iter().map(|totals| totals[at]).sum());
        let before = std::mem::replace(&mut self.before, Totals { packets, bytes });
        Totals { packets: packets - before.packets, bytes: bytes - before.bytes }
    }
}

impl fmt::Debug for Accelerator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Accelerator").field("before", &self.before).finish_non_exhaustive()
    }
}

fn attach(program: &mut Xdp, interface: &str) -> Result<(), ProgramError> {
    if interface.contains('\0') {
        return Err(ProgramError::UnknownInterface { name: interface.escape_default().to_string() });
    }
    program.attach(interface, XdpMode::Driver).map(drop)
}

/// One worker's pairs in the kernel. A call that fails leaves a pair to the worker: nothing is lost but speed.
pub(crate) struct Table {
    pairs: HashMap<MapData, u32, Entry>,
    spent: Array<MapData, [u64; 2]>,
    doors: Vec<SocketAddr>,
    /// The pairs that are there, and the count of each leg when it was last read.
    entered: BTreeMap<u32, [u64; 2]>,
    /// The same moment on both clocks: the kernel's in nanoseconds.
    origin: (Instant, u64),
}

impl Table {
    /// Brings both sides in line after a change of a pair: what the kernel forwarded is counted, and it forwards what is
    /// allowed now.
    pub(crate) fn follow(&mut self, relay: &mut Relay, slot: Slot) {
        self.count(relay, slot);
        match relay.sight(slot).and_then(|sight| self.entry(&sight)) {
            Some(entry) => self.enter(slot, entry),
            None => self.withdraw(relay, slot),
        }
    }

    /// Counts what the kernel forwarded of a pair, if the pair is there.
    pub(crate) fn count(&mut self, relay: &mut Relay, slot: Slot) -> bool {
        let entry = self.read(slot);
        if let Some(entry) = &entry {
            self.count_as(relay, slot, entry);
        }
        entry.is_some()
    }

    /// Counts all pairs for the last time.
    pub(crate) fn end(&mut self, relay: &mut Relay) {
        while let Some((&slot, _)) = self.entered.first_key_value() {
            self.withdraw(relay, Slot(slot));
        }
    }

    fn enter(&mut self, slot: Slot, mut entry: Entry) {
        let Ok(spent) = self.spent.get(&place(slot), 0) else { return };
        for (side, spent) in spent.into_iter().enumerate() {
            let limit = spent.saturating_add(word(&entry, LIMIT + 8 * side));
            put(&mut entry, LIMIT + 8 * side, &limit.to_ne_bytes());
        }
        let known = self.read(slot);
        // What the pair has used up stays used up.
        if let Some(known) = &known {
            let full_at = word(known, FULL_AT).max(word(&entry, FULL_AT));
            put(&mut entry, FULL_AT, &full_at.to_ne_bytes());
            put(&mut entry, SEEN, &word(known, SEEN).to_ne_bytes());
            // So does the next hop of a leg that is where it was.
            for at in [LEGS, LEGS + LEG] {
                if entry[at..at + WAY] == known[at..at + WAY] {
                    put(&mut entry, at + WAY, &known[at + WAY..at + LEG]);
                }
            }
        }
        if self.pairs.insert(slot.0, entry, LOCKED * u64::from(known.is_some())).is_ok() {
            self.entered.entry(slot.0).or_insert(spent);
        }
    }

    fn withdraw(&mut self, relay: &mut Relay, slot: Slot) {
        if let Some(entry) = self.read(slot) {
            // From then on only a datagram that the kernel has in hand is not counted.
            let _ = self.pairs.remove(&slot.0);
            self.count_as(relay, slot, &entry);
        }
        self.entered.remove(&slot.0);
    }

    fn count_as(&mut self, relay: &mut Relay, slot: Slot, entry: &Entry) {
        let (full_at, seen) = (self.instant(word(entry, FULL_AT)), self.instant(word(entry, SEEN)));
        let (Ok(total), Some(before)) = (self.spent.get(&place(slot), 0), self.entered.get_mut(&slot.0)) else {
            return;
        };
        let before = std::mem::replace(before, total);
        let sent = std::array::from_fn(|side| total[side].saturating_sub(before[side]));
        relay.handle_forwarded(slot, full_at, seen, sent);
    }

    fn read(&self, slot: Slot) -> Option<Entry> {
        self.entered.contains_key(&slot.0).then(|| self.pairs.get(&slot.0, LOCKED).ok())?
    }

    /// Tells the kernel what a worker charged.
    pub(crate) fn charge(&mut self, slot: Slot, full_at: Instant) {
        if let Ok(mut entry) = self.pairs.get(&slot.0, LOCKED) {
            let full_at = self.nanos(full_at).max(word(&entry, FULL_AT));
            put(&mut entry, FULL_AT, &full_at.to_ne_bytes());
            let _ = self.pairs.insert(slot.0, entry, LOCKED | PRESENT);
        }
    }

    /// `None` when a leg is none that the program could serve: over IPv6, or over a stream.
    fn entry(&self, sight: &Sight) -> Option<Entry> {
        let mut entry = [0; ENTRY];
        for side in [LegSide::A, LegSide::B] {
            let Hop { address, door } = sight.legs[side as usize];
            let (SocketAddr::V4(peer), SocketAddr::V4(local)) = (address, *self.doors.get(usize::from(door))?) else {
                return None;
            };
            if *local.ip() == Ipv4Addr::UNSPECIFIED {
                return None;
            }
            let at = LEGS + side as usize * LEG;
            put_address(&mut entry, at, peer, local);
        }
        put(&mut entry, FULL_AT, &self.nanos(sight.full_at).to_ne_bytes());
        put(&mut entry, PACE, &sight.pace.to_ne_bytes());
        put(&mut entry, DEPTH, &sight.depth.to_ne_bytes());
        put(&mut entry, SEEN, &self.nanos(sight.seen).to_ne_bytes());
        for (side, allowed) in sight.allowed.into_iter().enumerate() {
            put(&mut entry, LIMIT + 8 * side, &allowed.to_ne_bytes());
        }
        Some(entry)
    }

    fn nanos(&self, instant: Instant) -> u64 {
        let (here, there) = self.origin;
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX / 2);
        match instant.checked_duration_since(here) {
            Some(since) => there.saturating_add(nanos(since)),
            None => there.saturating_sub(nanos(here.saturating_duration_since(instant))),
        }
    }

    fn instant(&self, nanos: u64) -> Instant {
        let (here, there) = self.origin;
        let at = match nanos.checked_sub(there) {
            Some(since) => here.checked_add(Duration::from_nanos(since)),
            None => here.checked_sub(Duration::from_nanos(there - nanos)),
        };
        at.unwrap_or(here)
    }
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table").field("pairs", &self.entered.len()).finish_non_exhaustive()
    }
}

/// `struct pair` of the program: a lock, two legs (peer 4, local 4, their ports 2 + 2, the next hop 8, its interface 4), and
/// six numbers of the host's byte order.
type Entry = [u8; ENTRY];
const ENTRY: usize = LIMIT + 16;
const LEGS: usize = 8;
const LEG: usize = 24;
/// Of a leg, what the worker says; the rest is learned.
const WAY: usize = 12;
const FULL_AT: usize = LEGS + 2 * LEG;
const PACE: usize = FULL_AT + 8;
const DEPTH: usize = PACE + 8;
const SEEN: usize = DEPTH + 8;
const LIMIT: usize = SEEN + 8;

/// Where a slot's legs are counted.
const fn place(slot: Slot) -> u32 {
    slot.0 % PLACES
}

fn put(entry: &mut Entry, at: usize, bytes: &[u8]) {
    entry[at..at + bytes.len()].copy_from_slice(bytes);
}

fn put_address(entry: &mut Entry, at: usize, peer: SocketAddrV4, local: SocketAddrV4) {
    put(entry, at, &peer.ip().octets());
    put(entry, at + 4, &local.ip().octets());
    put(entry, at + 8, &peer.port().to_be_bytes());
    put(entry, at + 10, &local.port().to_be_bytes());
}

fn word(entry: &Entry, at: usize) -> u64 {
    u64::from_ne_bytes(std::array::from_fn(|nth| entry[at + nth]))
}
