//! What a forwarded datagram costs the whole host, by who forwards it. Sender, forwarder and receiver are threads of this
//! process, and what the kernel does for them is done in their time: the ratios are the ones to trust. By hand:
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

#[test]
#[ignore = "a measurement, not a rule"]
fn what_a_datagram_costs_by_who_forwards_it() {
    let mut costs: [Vec<f64>; 4] = Default::default();
    for _ in 0..ROUNDS {
        costs[0].push(naive());
        costs[1].push(relayed(Path::Workers));
        costs[2].push(relayed(Path::Learning));
        costs[3].push(relayed(Path::Routing));
    }
    let medians = costs.map(|mut rounds| {
        rounds.sort_by(f64::total_cmp);
        rounds[ROUNDS / 2]
    });
    for (name, cost) in ["recvfrom / sendto", "workers", "kernel, learning", "kernel, routing"].iter().zip(medians) {
        println!("{name:20} {cost:6.2} us a datagram, {:4.2} x", cost / medians[0]);
    }
}

fn relayed(path: Path) -> f64 {
    let mut lab = Lab::new(path);
    let pairs: Vec<_> = (0..PAIRS).map(|_| lab.pair(Bandwidth::UNLIMITED)).collect();
    let legs = pairs.iter().map(|Pair { legs: [from, to], .. }| (from, to)).collect();
    let datagrams: Vec<_> = pairs.iter().map(|pair| pair.data(PAYLOAD)).collect();
    cost(legs, &datagrams)
}

/// A forwarder without rules: a socket per pair would only make it faster, so there is one for all.
fn naive() -> f64 {
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
    let cost = cost(legs.iter().map(|(from, to)| (from, to)).collect(), &datagrams);
    ends.store(true, Ordering::Relaxed);
    forwarder.join().unwrap();
    cost
}

/// Microseconds of all threads for a datagram that arrived. A pair sends a burst when the last one has arrived or is late.
fn cost(legs: Vec<(&UdpSocket, &UdpSocket)>, datagrams: &[Vec<u8>]) -> f64 {
    let mut buffer = [0; 2_048];
    for (_, to) in &legs {
        to.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    }
    let (started, before, mut arrived) = (Instant::now(), used(), 0_u32);
    while started.elapsed() < LASTS {
        for ((from, _), datagram) in legs.iter().zip(datagrams) {
            for _ in 0..BURST {
                from.send(datagram).unwrap();
            }
        }
        for (_, to) in &legs {
            for _ in 0..BURST {
                if to.recv(&mut buffer).is_err() {
                    break;
                }
                arrived += 1;
            }
        }
    }
    (used() - before) / f64::from(arrived)
}

/// Microseconds of processor time of this process.
fn used() -> f64 {
    let usage = getrusage(UsageWho::RUSAGE_SELF).unwrap();
    (usage.user_time().num_microseconds() + usage.system_time().num_microseconds()) as f64
}
