//! What an order has a client send without being asked: where to, when, and how much at most.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use domain::{Candidate, PunchOrder, Scope, Spray, Strategy, scope};

use crate::{
    dial::{DIALLING, MOST_TRIES, dialled},
    discover::{MAX_PUNCHING_SOCKETS, Socket},
    predict,
};

/// How long after the last round an answer may still arrive.
const LAST_ANSWER: Duration = Duration::from_millis(1_000);

/// A socket of ours and an endpoint where the peer may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Aim {
    pub(super) socket: Socket,
    pub(super) endpoint: SocketAddr,
    /// On the same LAN.
    pub(super) local: bool,
    /// A guess among many, pointless as soon as the peer shows itself anywhere.
    pub(super) guess: bool,
}

/// From the common start of `order` until it is given up.
#[must_use]
pub fn duration(order: &PunchOrder) -> Duration {
    let gap = Duration::from_micros(order.gap_us).min(MAX_WAIT);
    let last =
        if order.strategy == Strategy::Tcp { DIALLING } else { rounds(order).last().copied().unwrap_or_default() };
    gap + last.max(PACE * u32::from(scattered(order))).max(SECOND * paced(order) / MOST_A_SECOND) + LAST_ANSWER
}

/// Ports that get a single packet.
pub(super) fn scattered(order: &PunchOrder) -> u16 {
    match order.spray {
        Some(Spray::Scatter { count, .. }) => count.min(predict::BIRTHDAY_PROBES),
        Some(Spray::Window { .. }) | None => 0,
    }
}

/// The most packets that this side may send for `order`, answers and validation included.
#[must_use]
pub fn most_packets(order: &PunchOrder) -> u32 {
    let aims = u32::try_from(aims(order).len()).unwrap_or(u32::MAX);
    let openers = u32::from(order.opener_ttl > 0) + u32::from(opens_again(order).is_some());
    let rounds = u32::try_from(rounds(order).len()).unwrap_or(u32::MAX);
    let tries = match order.strategy {
        Strategy::Tcp => u32::try_from(dialled(order).count()).unwrap_or(0).saturating_mul(MOST_TRIES),
        Strategy::Direct
        | Strategy::Reveal
        | Strategy::Predict
        | Strategy::Sweep
        | Strategy::Birthday
        | Strategy::Relay => aims.saturating_mul(rounds + openers),
    };
    tries.saturating_add(scattered(order).into()).saturating_add(TALK)
}

/// What an order sends without being asked: openers, rounds, and single packets.
pub(super) fn paced(order: &PunchOrder) -> u32 {
    most_packets(order) - TALK
}

/// How long `order` takes what a public address may send.
#[must_use]
pub fn airtime(order: &PunchOrder) -> Duration {
    SECOND * paced(order) / MOST_A_SECOND
}

/// The candidates that may be sent to. Addresses that no host has are left out.
pub(super) fn targets(order: &PunchOrder) -> impl Iterator<Item = &Candidate> {
    let first = order.candidates.iter().take(MAX_CANDIDATES);
    first.filter(|candidate| candidate.endpoint.port() != 0 && scope(candidate.endpoint.ip()) != Scope::Unusable)
}

/// Where an order sends single packets, the last one first. Several addresses of the peer take turns, and each gets its
/// share of the ports in the same order: when the next attempt goes on in the list, so does every address.
pub(super) fn scatter(order: &PunchOrder) -> Vec<SocketAddr> {
    let Some(Spray::Scatter { low, high, step, seed, skip, count }) = order.spray else { return Vec::new() };
    let mut addresses: Vec<IpAddr> = Vec::new();
    for candidate in targets(order).filter(|candidate| !candidate.local && !candidate.main) {
        if !addresses.contains(&candidate.endpoint.ip()) {
            addresses.push(candidate.endpoint.ip());
        }
    }
    let sharing = u16::try_from(addresses.len()).unwrap_or(u16::MAX).max(1);
    let share = Spray::Scatter { low, high, step, seed, skip: skip / sharing, count: count.div_ceil(sharing) };
    let turns = predict::ports(&share).into_iter().flat_map(|port| {
        let at = move |address: &IpAddr| SocketAddr::new(*address, port);
        addresses.iter().map(at)
    });
    let mut scatter: Vec<_> = turns.take(scattered(order).into()).collect();
    scatter.reverse();
    scatter
}

/// Where an order sends its openers and rounds.
pub(super) fn aims(order: &PunchOrder) -> Vec<Aim> {
    let mut aims: Vec<Aim> = Vec::new();
    if order.strategy == Strategy::Tcp {
        return aims;
    }
    let sockets = order.sockets.min(MAX_PUNCHING_SOCKETS);
    for candidate in targets(order) {
        let endpoint = candidate.endpoint;
        let aim = |socket, guess| Aim { socket, endpoint, local: candidate.local, guess };
        if candidate.local || candidate.main {
            aims.push(aim(Socket::Main, false));
            continue;
        }
        match sockets {
            0 => aims.push(aim(Socket::Main, false)),
            1 => aims.push(aim(Socket::Punching(0), false)),
            _ => aims.extend((0..sockets).map(|socket| aim(Socket::Punching(socket), true))),
        }
        if let Some(spray @ Spray::Window { .. }) = &order.spray {
            let socket = own_socket(order);
            let window = predict::ports(spray).into_iter().map(|port| SocketAddr::new(endpoint.ip(), port));
            let others = window.filter(|other| *other != endpoint);
            aims.extend(others.map(|endpoint| Aim { socket, endpoint, local: false, guess: true }));
        }
    }
    aims.truncate(MAX_AIMS);
    aims
}

/// The one socket that sprays.
pub(super) const fn own_socket(order: &PunchOrder) -> Socket {
    if order.sockets == 0 { Socket::Main } else { Socket::Punching(0) }
}

/// Whether a packet of the scatter may have gone there.
pub(super) fn is_scattered(order: &PunchOrder, socket: Socket, endpoint: SocketAddr) -> bool {
    matches!(order.spray, Some(Spray::Scatter { .. }))
        && socket == own_socket(order)
        && order.candidates.iter().any(|candidate| !candidate.main && candidate.endpoint.ip() == endpoint.ip())
}

/// The open side of a revealing pair sends nothing else until the other side's packet shows where to.
pub(super) fn only_opens(order: &PunchOrder) -> bool {
    order.strategy == Strategy::Reveal && order.opener_ttl > 0
}

/// When openers leave for the second time, counted from the end of the gap.
pub(super) fn opens_again(order: &PunchOrder) -> Option<Duration> {
    match order.strategy {
        Strategy::Reveal if only_opens(order) => Some(ms(150)),
        // Some get lost. Those that arrived would take ports of the easy side's router before its probes do.
        Strategy::Birthday if order.spray.is_none() && order.opener_ttl > 0 => Some(ms(1_100)),
        Strategy::Direct
        | Strategy::Reveal
        | Strategy::Predict
        | Strategy::Sweep
        | Strategy::Birthday
        | Strategy::Tcp
        | Strategy::Relay => None,
    }
}

/// When packets that are meant to arrive leave, counted from the end of the gap.
pub(super) fn rounds(order: &PunchOrder) -> &'static [Duration] {
    match order.strategy {
        Strategy::Reveal if only_opens(order) => &[],
        Strategy::Tcp => &[],
        Strategy::Predict if order.spray.is_some() => &PREDICT_ROUNDS,
        Strategy::Sweep => {
            let most = SWEEP_PACKETS / order.sockets.max(1);
            &SWEEP_ROUNDS[..SWEEP_ROUNDS.len().min(usize::from(most))]
        }
        Strategy::Birthday if order.spray.is_none() => &BIRTHDAY_ROUNDS,
        Strategy::Direct | Strategy::Reveal | Strategy::Predict | Strategy::Birthday | Strategy::Relay => &ROUNDS,
    }
}

pub(super) const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

pub(super) const ROUNDS: [Duration; 6] = [ms(0), ms(50), ms(150), ms(350), ms(750), ms(1_200)];
pub(super) const PREDICT_ROUNDS: [Duration; 3] = [ms(0), ms(200), ms(600)];
pub(super) const SWEEP_ROUNDS: [Duration; 5] = [ms(0), ms(100), ms(200), ms(300), ms(400)];
/// After the last packet of the scatter.
pub(super) const BIRTHDAY_ROUNDS: [Duration; 1] = [ms(2_200)];
/// Of one side in all rounds of a sweep.
pub(super) const SWEEP_PACKETS: u16 = 480;
/// Between two packets of a scatter: 500 a second.
pub(super) const PACE: Duration = ms(2);
pub(super) const SECOND: Duration = Duration::from_secs(1);
/// Packets that leave in any second without being asked. What is left of 500 is for answers and for questions to reflectors.
pub(super) const MOST_A_SECOND: u32 = 470;
/// Candidates that an order may name.
pub(super) const MAX_CANDIDATES: usize = 8;
/// The most sockets, or the largest window, and the other candidates.
pub(super) const MAX_AIMS: usize = MAX_PUNCHING_SOCKETS as usize + MAX_CANDIDATES;
/// Answers and validation: an honest peer needs about 30.
pub(super) const TALK: u32 = 200;
/// The longest wait or gap that makes sense.
pub(super) const MAX_WAIT: Duration = Duration::from_secs(5);
