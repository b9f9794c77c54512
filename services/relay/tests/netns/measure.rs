//! What forwarding adds to the cost of a datagram on the whole host, and to its way, by who forwards it. Sender, forwarder and
//! receiver are threads of this process, and what the kernel does for them is done in their time; what the same datagram costs
//! over a cable from sender to receiver is taken off. The ratios are the ones to trust. By hand:
//! `cargo test --release -p relay --test netns -- --ignored --nocapture`

use std::{
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use domain::Bandwidth;
use nix::sys::{
    resource::{UsageWho, getrusage},
    time::TimeValLike as _,
};

use crate::lab::{Lab, Pair, Path};

const PAIRS: usize = 20;
const PAYLOAD: usize = 512;
const BURST: usize = 8;
const LASTS: Duration = Duration::from_secs(2);
const ROUNDS: usize = 5;

const SINGLES: usize = 4_000;

/// What was measured once.
#[derive(Clone, Copy)]
struct Figures {
    /// Microseconds of processor time for a datagram of a burst.
    cost: f64,
    /// Microseconds from sending to receiving one alone, the median.
    way: f64,
}

#[test]
#[ignore = "a measurement, not a rule"]
fn what_a_datagram_costs_by_who_forwards_it() {
    let mut rounds: [Vec<Figures>; 5] = Default::default();
    for _ in 0..ROUNDS {
        rounds[0].push(cable());
        rounds[1].push(naive());
        rounds[2].push(relayed(Path::Workers));
        rounds[3].push(relayed(Path::Learning));
        rounds[4].push(relayed(Path::Routing));
    }
    let [cable, forwarders @ ..] = rounds.map(|rounds| Figures {
        cost: median(rounds.iter().map(|round| round.cost)),
        way: median(rounds.iter().map(|round| round.way)),
    });
    println!("no forwarder          {:6.2} us a datagram, {:6.1} us on the way", cable.cost, cable.way);
    let added = |figures: Figures| Figures { cost: figures.cost - cable.cost, way: figures.way };
    let naive = added(forwarders[0]);
    for (name, forwarder) in
        ["recvfrom / sendto", "workers", "kernel, learning", "kernel, routing"].iter().zip(forwarders)
    {
        let Figures { cost, way } = added(forwarder);
        let (costs, ways) = (cost / naive.cost, way / naive.way);
        println!("{name:20} +{cost:6.2} us a datagram, {costs:4.2} x; {way:6.1} us on the way, {ways:4.2} x");
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// From the sender right to the receiver.
fn cable() -> Figures {
    let lab = Lab::new(Path::Workers);
    let legs: Vec<_> = (0..PAIRS).map(|_| (lab.stranger(), lab.beside_the_relay())).collect();
    for (from, to) in &legs {
        from.connect(to.local_addr().unwrap()).unwrap();
    }
    let datagrams = vec![vec![7; PAYLOAD + 8]; PAIRS];
    figures(&legs.iter().map(|(from, to)| (from, to)).collect::<Vec<_>>(), &datagrams)
}

fn relayed(path: Path) -> Figures {
    let mut lab = Lab::new(path);
    let pairs: Vec<_> = (0..PAIRS).map(|_| lab.pair(Bandwidth::UNLIMITED)).collect();
    let legs: Vec<_> = pairs.iter().map(|Pair { legs: [from, to], .. }| (from, to)).collect();
    let datagrams: Vec<_> = pairs.iter().map(|pair| pair.data(PAYLOAD)).collect();
    figures(&legs, &datagrams)
}

/// A forwarder without rules: a socket per pair would only make it faster, so there is one for all.
fn naive() -> Figures {
    let lab = Lab::new(Path::Workers);
    let socket = lab.beside_the_relay();
    let to = socket.local_addr().unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let legs: Vec<_> = (0..PAIRS).map(|_| (lab.stranger(), lab.stranger())).collect();
    for leg in legs.iter().flat_map(|(from, to)| [from, to]) {
        leg.connect(to).unwrap();
    }
    let ways: std::collections::HashMap<SocketAddr, SocketAddr> =
        legs.iter().map(|(from, to)| (from.local_addr().unwrap(), to.local_addr().unwrap())).collect();
    let ends = Arc::new(AtomicBool::new(false));
    let ended = Arc::clone(&ends);
    let forwarder = std::thread::spawn(move || {
        let mut buffer = [0; 2_048];
        while !ended.load(Ordering::Relaxed) {
            if let Ok((length, from)) = socket.recv_from(&mut buffer)
                && let Some(to) = ways.get(&from)
            {
                let _ = socket.send_to(&buffer[..length], to);
            }
        }
    });
    let datagrams = vec![vec![7; PAYLOAD + 8]; PAIRS];
    let figures = figures(&legs.iter().map(|(from, to)| (from, to)).collect::<Vec<_>>(), &datagrams);
    ends.store(true, Ordering::Relaxed);
    forwarder.join().unwrap();
    figures
}

/// A pair sends a burst when the last one has arrived or is late; then single datagrams go, each when the last has arrived.
fn figures(legs: &[(&UdpSocket, &UdpSocket)], datagrams: &[Vec<u8>]) -> Figures {
    let mut buffer = [0; 2_048];
    for (_, to) in legs {
        to.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    }
    let (started, before, mut arrived) = (Instant::now(), used(), 0_u32);
    while started.elapsed() < LASTS {
        for ((from, _), datagram) in legs.iter().zip(datagrams) {
            for _ in 0..BURST {
                from.send(datagram).unwrap();
            }
        }
        for (_, to) in legs {
            for _ in 0..BURST {
                if to.recv(&mut buffer).is_err() {
                    break;
                }
                arrived += 1;
            }
        }
    }
    let cost = (used() - before) / f64::from(arrived);
    // What came late is no answer to what follows.
    while legs.iter().any(|(_, to)| to.recv(&mut buffer).is_ok()) {}
    let ways = legs.iter().zip(datagrams).cycle().take(SINGLES).filter_map(|((from, to), datagram)| {
        let sent = Instant::now();
        from.send(datagram).unwrap();
        to.recv(&mut buffer).ok().map(|_| sent.elapsed().as_secs_f64() * 1e6)
    });
    Figures { cost, way: median(ways) }
}

/// Microseconds of processor time of this process.
fn used() -> f64 {
    let usage = getrusage(UsageWho::RUSAGE_SELF).unwrap();
    (usage.user_time().num_microseconds() + usage.system_time().num_microseconds()) as f64
}
