//! More arrives than the worker can look at.

use std::{
    net::UdpSocket,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use domain::Bandwidth;
use nix::sys::socket::{setsockopt, sockopt};
use relay::{Config, core::DropReason, guard::Reason};
use wire::relay::{Message, Slot};

use crate::lab::{Lab, Pair, Path, join, receive};

/// Datagrams that a proven leg sends while others crowd in, one a millisecond.
const SENT: usize = 1_500;

/// How many of them may get lost, on two cores of which the crowd takes all it can. Without the filter 13 to 60 % are.
const LOST: usize = SENT / 20;

/// Datagrams of a stranger, at once: more than pass in a window while the worker is pressed.
const BURST: usize = 200;

/// Datagrams that the kernel carries as one.
const PIECES: usize = 64;

#[test]
fn what_strangers_send_takes_no_room_from_proven_legs() {
    for path in [Path::Workers, Path::Routing] {
        let mut lab = crowded(path);
        let pair = lab.pair(Bandwidth::UNLIMITED);
        let unknown =
            |nth: u32| Message::Data { slot: Slot(nth.wrapping_mul(0x9e37_79b9)), payload: &[0; 64] }.to_vec();
        let known = Message::Data { slot: pair.slot, payload: &[0; 64] }.to_vec();
        let question = [&[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42][..], &[7; 12]].concat();
        let join = [&[0xb3, 0, 0, 0][..], &[9; 116]].concat();
        let crowds: [(Reason, Vec<Vec<u8>>); 5] = [
            (Reason::Stranger, (0..64).map(unknown).collect()),
            (Reason::Stranger, vec![known]),
            (Reason::Stranger, vec![vec![0xff; 64], vec![0xb0], Vec::new()]),
            (Reason::Question, vec![question]),
            (Reason::Join, vec![join]),
        ];
        for (reason, datagrams) in crowds {
            let flood = Flood::start(&lab, &datagrams);
            wait_until(|| lab.metrics.guarded(reason).get() > 0);
            let arrived = exchange(&pair);
            drop(flood);
            assert!(arrived >= SENT - LOST, "{path:?}, {reason:?}: {arrived} of {SENT}");
        }
    }
}

#[test]
fn what_comes_as_one_piece_counts_as_what_it_is() {
    let mut lab = crowded(Path::Workers);
    let pair = lab.pair(Bandwidth::UNLIMITED);
    let sockets = vec![lab.one_of_the_crowd(), lab.one_of_the_crowd()];
    let guess = Message::Data { slot: Slot(0x00ff_ff01), payload: &[0; 64] }.to_vec();
    for socket in &sockets {
        setsockopt(socket, sockopt::UdpGsoSegment, &i32::try_from(guess.len()).unwrap()).unwrap();
    }
    let flood = Flood::by(sockets, vec![guess.repeat(PIECES)]);
    wait_until(|| lab.metrics.guarded(Reason::Stranger).get() > 0);
    let passed = || lab.metrics.dropped(DropReason::NotALeg).get() + lab.metrics.dropped(DropReason::NoSlot).get();
    let (began, before) = (Instant::now(), passed());
    let arrived = exchange(&pair);
    let per_second = (passed() - before) as f64 / began.elapsed().as_secs_f64();
    drop(flood);
    assert!(arrived >= SENT - LOST, "{arrived} of {SENT}");
    // 128 in a window of 134 ms; as pieces they would be 61,000.
    assert!(per_second < 4_000.0, "{per_second}");
}

#[test]
fn a_pair_that_floods_past_its_rate_takes_no_room_from_others() {
    let mut lab = crowded(Path::Workers);
    let pair = lab.pair(Bandwidth::UNLIMITED);
    let loud = lab.pair_of_the_crowd(Bandwidth::from_bytes_per_second(1_000));
    let datagram = loud.data(64);
    let floods: Vec<_> = (0..2)
        .map(|side: usize| Flood::by(vec![loud.legs[side].try_clone().unwrap()], vec![datagram.clone()]))
        .collect();
    wait_until(|| lab.metrics.guarded(Reason::OverRate).get() > 0);
    let arrived = exchange(&pair);
    drop(floods);
    assert!(arrived >= SENT - LOST, "{arrived} of {SENT}");
    // It has lost nothing but what was too much.
    wait_until(|| {
        loud.legs[0].send(&datagram).unwrap();
        loud.legs[1].set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        receive(&loud.legs[1]).is_some()
    });
}

#[test]
fn one_source_of_joins_does_not_keep_others_from_joining() {
    let mut lab = crowded(Path::Workers);
    let flood = Flood::start(&lab, &[[&[0xb3, 0, 0, 0][..], &[9; 116]].concat()]);
    wait_until(|| lab.metrics.guarded(Reason::Join).get() > 0);
    for _ in 0..10 {
        lab.pair(Bandwidth::UNLIMITED).exchange(0, 64);
    }
    drop(flood);
}

#[test]
fn nothing_is_dropped_before_and_after_a_crowd() {
    let mut lab = crowded(Path::Workers);
    let pair = lab.pair(Bandwidth::UNLIMITED);
    let stranger = lab.leg();
    let looked_at = |times: usize| {
        let before = lab.metrics.dropped(DropReason::NotALeg).get();
        for _ in 0..times {
            stranger.send(&pair.data(10)).unwrap();
        }
        let enough = || lab.metrics.dropped(DropReason::NotALeg).get() - before == times as u64;
        // Longer than the kernel goes on dropping after it dropped something.
        let until = Instant::now() + Duration::from_secs(3);
        while !enough() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
        enough()
    };
    assert!(looked_at(BURST));
    let flood = Flood::start(&lab, &[pair.data(64)]);
    wait_until(|| lab.metrics.guarded(Reason::Stranger).get() > 0);
    drop(flood);
    wait_until(|| looked_at(BURST));
}

#[test]
fn a_leg_that_moves_is_known_where_it_is_and_not_where_it_was() {
    let mut lab = crowded(Path::Workers);
    let mut pair = lab.pair_of_the_crowd(Bandwidth::UNLIMITED);
    let former = lab.leg();
    let former = std::mem::replace(&mut pair.legs[0], former);
    // A leg moves at most once a second.
    std::thread::sleep(Duration::from_millis(1_100));
    assert_eq!(join(&pair.legs[0], &pair.tickets[0]), pair.slot);
    let flood = Flood::by(vec![former], vec![pair.data(64)]);
    wait_until(|| lab.metrics.guarded(Reason::Stranger).get() > 0);
    let arrived = exchange(&pair);
    drop(flood);
    assert!(arrived >= SENT - LOST, "{arrived} of {SENT}");
}

fn crowded(path: Path) -> Lab {
    Lab::with(path, Config { workers: 1, ..Config::default() })
}

/// Sends one datagram a millisecond from the first leg, and returns how many the second got. The crowd has come before, but of
/// what it had queued until the kernel dropped it nothing is left.
fn exchange(pair: &Pair) -> usize {
    let [from, to] = &pair.legs;
    let (first, datagram) = (pair.data(100), pair.data(200));
    to.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    wait_until(|| {
        from.send(&first).unwrap();
        receive(to).is_some()
    });
    to.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    std::thread::scope(|scope| {
        let receiving = scope.spawn(|| {
            let mut arrived = 0;
            while arrived < SENT
                && let Some(received) = receive(to)
            {
                arrived += usize::from(received == datagram);
            }
            arrived
        });
        for _ in 0..SENT {
            from.send(&datagram).unwrap();
            std::thread::sleep(Duration::from_millis(1));
        }
        receiving.join().unwrap()
    })
}

fn wait_until(done: impl Fn() -> bool) {
    let until = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < until, "it does not happen");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Sends all it can until it is dropped.
struct Flood {
    stops: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Flood {
    /// From two addresses of no leg.
    fn start(lab: &Lab, datagrams: &[Vec<u8>]) -> Self {
        Self::by(vec![lab.one_of_the_crowd(), lab.one_of_the_crowd()], datagrams.to_vec())
    }

    fn by(sockets: Vec<UdpSocket>, datagrams: Vec<Vec<u8>>) -> Self {
        let stops = Arc::new(AtomicBool::new(false));
        let threads = sockets.into_iter().map(|socket| {
            let (stops, datagrams) = (Arc::clone(&stops), datagrams.clone());
            std::thread::spawn(move || {
                while !stops.load(Ordering::Relaxed) {
                    datagrams.iter().for_each(|datagram| drop(socket.send(datagram)));
                }
            })
        });
        Self { threads: threads.collect(), stops }
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stops.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| thread.join().unwrap());
    }
}
