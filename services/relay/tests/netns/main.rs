//! The same rules over the workers and over the kernel's fast path, on a cable between two network namespaces. Root only.
#![expect(clippy::unwrap_used, reason = "tests")]

mod crowded;
mod lab;
mod measure;
mod quota;

use std::time::{Duration, Instant};

use domain::Bandwidth;
use relay::{
    Config,
    core::{DropReason, Event},
};
use wire::{
    Code,
    fanout::{self, Shared, SharedKeyId},
    relay::{MAX_DATAGRAM, Message, Slot},
};

use crate::lab::{Lab, Pair, Path, join, join_bringing, receive};

const PATHS: [Path; 3] = [Path::Workers, Path::Routing, Path::Learning];

#[test]
fn proven_legs_exchange_datagrams_unchanged() {
    for path in PATHS {
        let mut lab = Lab::new(path);
        let pair = lab.pair(Bandwidth::UNLIMITED);
        for size in [0, 1, 63, 512, 1_400] {
            for _ in 0..20 {
                pair.exchange(0, size);
                pair.exchange(1, size);
            }
        }
        let (forwarded, in_kernel) = lab.forwarded();
        assert_eq!(forwarded, 204, "{path:?}");
        match path {
            Path::Workers => assert_eq!(in_kernel, 0),
            // The first ones looked for their next hop.
            Path::Routing | Path::Learning => assert!(in_kernel >= 200, "{path:?}: {in_kernel}"),
        }
        assert_eq!(lab.metrics.forwarded_bytes.get(), 4 * 72 + 40 * (5 * 8 + 1 + 63 + 512 + 1_400));
    }
}

#[test]
fn what_is_not_a_proven_legs_datagram_is_the_workers_matter() {
    for path in PATHS {
        let mut lab = Lab::new(path);
        let pair = lab.pair(Bandwidth::UNLIMITED);
        let stranger = lab.leg();
        stranger.send(&pair.data(100)).unwrap();
        for other in [pair.slot.0 ^ 1 << 24, pair.slot.0 ^ 1 << 8, u32::MAX] {
            pair.legs[0].send(&Message::Data { slot: Slot(other), payload: &[0; 100] }.to_vec()).unwrap();
        }
        let mut odd = pair.data(100);
        odd[2] = 1;
        pair.legs[0].send(&odd).unwrap();
        pair.legs[0].send(&pair.data(2_048 - 8 + 1)).unwrap();
        pair.legs[0].send(&Message::Ping { slot: pair.slot, nonce: 5 }.to_vec()).unwrap();
        let pong = receive(&pair.legs[0]).unwrap();
        assert_eq!(Message::parse(&pong), Some(Message::Pong { slot: pair.slot, nonce: 5 }));

        pair.exchange(0, 9);
        assert_eq!(lab.forwarded().0, 5, "{path:?}");
        let dropped = |reason| lab.metrics.dropped(reason).get();
        assert_eq!(
            [DropReason::NotALeg, DropReason::NoSlot, DropReason::Malformed].map(dropped),
            [1, 3, 2],
            "{path:?}"
        );
    }
}

#[test]
fn a_datagram_of_two_fragments_is_forwarded_too() {
    for path in PATHS {
        let mut lab = Lab::new(path);
        let pair = lab.pair(Bandwidth::UNLIMITED);
        pair.exchange(0, 2_040);
        assert_eq!(lab.forwarded().0, 5, "{path:?}");
    }
}

/// A path that is narrower than the interface: the kernel takes no rows for it, and everything arrives in its order all the same.
#[test]
fn rows_that_the_kernel_refuses_go_one_by_one() {
    let mut lab = Lab::new(Path::Workers);
    let pair = lab.pair(Bandwidth::UNLIMITED);
    lab.narrow("10.9.0.0/24", 1_000);
    let payload = |nth: u8| Message::Data { slot: pair.slot, payload: &[nth; 1_200] }.to_vec();
    let mut turns = 0;
    while lab.metrics.refused_rows.get() == 0 {
        turns += 1;
        (0..16).for_each(|nth| assert!(pair.legs[0].send(&payload(nth)).is_ok()));
        for nth in 0..16 {
            assert_eq!(receive(&pair.legs[1]), Some(payload(nth)));
        }
    }
    assert_eq!((lab.forwarded().0, lab.metrics.unsent.get()), (4 + 16 * turns, 0));
}

#[test]
fn a_moved_leg_is_served_where_it_is_and_no_longer_where_it_was() {
    for path in PATHS {
        let mut lab = Lab::new(path);
        let mut pair = lab.pair(Bandwidth::UNLIMITED);
        let moved = lab.leg();
        std::thread::sleep(Duration::from_millis(1_100));
        assert_eq!(join(&moved, &pair.tickets[0]), pair.slot);
        let old = std::mem::replace(&mut pair.legs[0], moved);
        for _ in 0..10 {
            pair.exchange(0, 100);
            pair.exchange(1, 100);
        }
        old.send(&pair.data(100)).unwrap();
        assert_eq!(lab.forwarded().0, 24, "{path:?}");
        assert_eq!(lab.metrics.dropped(DropReason::NotALeg).get(), 1);
        old.set_nonblocking(true).unwrap();
        assert_eq!(receive(&old), None);
    }
}

#[test]
fn a_capped_pair_gets_its_rate_and_is_told_so() {
    for path in PATHS {
        let mut lab = Lab::new(path);
        // A bucket of 50 ms, and one that outlasts what a busy machine keeps a process waiting for: one frame, 0.4 s.
        for (rate, burst, least) in [(100_000, 5_000.0, 0.0), (5_000, MAX_DATAGRAM as f64, 0.9)] {
            let pair = lab.pair(Bandwidth::from_bytes_per_second(rate));
            let (took, passed) = offer_five_times(&lab, &pair, rate);
            let fair = rate as f64 * took;
            assert!(passed > fair * least && passed < fair * 1.01 + burst, "{path:?}: {passed} of {fair}");
            let note = Message::Note { slot: pair.slot, code: Code::RelayCapped.number() }.to_vec();
            assert!(pair.take().iter().all(|received| received.contains(&note)), "{path:?}");
        }
        assert!(lab.metrics.dropped(DropReason::OverCap).get() > 0);
    }
}

/// Above its cap a pair's datagrams go up to the worker, who may find room in the bucket by then. Within it they do not.
#[test]
fn a_capped_pair_is_forwarded_in_the_kernel_whenever_it_is_within_its_rate() {
    for path in PATHS {
        let mut lab = Lab::new(path);
        let pair = lab.pair(Bandwidth::from_bytes_per_second(20_000));
        for _ in 0..2 {
            let before = lab.forwarded();
            for nth in 0..50 {
                pair.exchange(nth % 2, 92);
                std::thread::sleep(Duration::from_millis(5));
            }
            let after = lab.forwarded();
            assert_eq!(after.0 - before.0, 50, "{path:?}");
            let in_kernel = after.1 - before.1;
            // The first ones may look for their next hop.
            assert!(if path == Path::Workers { in_kernel == 0 } else { in_kernel >= 48 }, "{path:?}: {in_kernel}");

            let over = lab.metrics.dropped(DropReason::OverCap).get();
            while lab.metrics.dropped(DropReason::OverCap).get() == over {
                pair.legs[0].send(&pair.data(1_000)).unwrap();
            }
            std::thread::sleep(Duration::from_secs(1));
            pair.take();
        }
    }
}

/// Sends five times the rate (bytes per second) from both legs of a pair, for three seconds: how long it took, and how many bytes
/// were forwarded.
fn offer_five_times(lab: &Lab, pair: &Pair, rate: u64) -> (f64, f64) {
    let before = lab.forwarded().0;
    let datagram = pair.data(492);
    let started = Instant::now();
    let (mut sent, mut offered) = (0, 0);
    while started.elapsed() < Duration::from_secs(3) {
        while offered < started.elapsed().as_micros() as u64 * rate / 1_000_000 * 5 {
            pair.legs[sent % 2].send(&datagram).unwrap();
            sent += 1;
            offered += datagram.len() as u64;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let took = started.elapsed().as_secs_f64();
    (took, ((lab.forwarded().0 - before) * datagram.len() as u64) as f64)
}

/// A first packet is the worker's matter, but the bucket that it is charged to may be the kernel's.
#[test]
fn a_first_packet_is_charged_wherever_the_pair_is_forwarded() {
    for path in PATHS {
        let mut lab = Lab::new(path);
        let pair = lab.pair(Bandwidth::from_bytes_per_second(1_000));
        for nth in 0..6 {
            assert_eq!(join_bringing(&pair.legs[0], &pair.tickets[0], &[nth; 256]), pair.slot);
            let first = Message::Data { slot: pair.slot, payload: &[nth; 256] }.to_vec();
            assert_eq!(receive(&pair.legs[1]), Some(first), "{path:?}");
        }
        // Of 2,048 bytes 176 are left, and a few that came meanwhile.
        pair.legs[0].send(&pair.data(1_500)).unwrap();
        let note = Message::Note { slot: pair.slot, code: Code::RelayCapped.number() }.to_vec();
        assert_eq!(receive(&pair.legs[0]), Some(note), "{path:?}");
    }
}

#[test]
fn a_copy_is_the_workers_matter_and_paid_from_the_pairs_only_bucket() {
    for path in PATHS {
        let mut lab = Lab::new(path);
        let pair = lab.pair(Bandwidth::from_bytes_per_second(10));
        let copy = Shared { counter: 1, key: SharedKeyId([2; 8]), sealed: &[3; 1_000] };
        pair.legs[0].send(&fanout::frame(&[pair.slot], &copy).unwrap()).unwrap();
        assert_eq!(receive(&pair.legs[1]), Some(Message::Copy(copy).to_vec()), "{path:?}");
        // Of 2,048 bytes at once, 288 went before.
        pair.legs[0].send(&pair.data(900)).unwrap();
        let note = Message::Note { slot: pair.slot, code: Code::RelayCapped.number() };
        assert_eq!(receive(&pair.legs[0]), Some(note.to_vec()), "{path:?}");
        pair.exchange(1, 300);
        assert_eq!(lab.forwarded().0, 6, "{path:?}");
        assert_eq!((lab.metrics.fanned_frames.get(), lab.metrics.copies.get()), (1, 1));
    }
}

#[test]
fn a_pair_that_is_used_lives_and_an_idle_one_ends() {
    for path in PATHS {
        let mut lab = Lab::with(path, Config { idle: Duration::from_secs(3), ..Config::default() });
        let pair = lab.pair(Bandwidth::UNLIMITED);
        for _ in 0..35 {
            std::thread::sleep(Duration::from_millis(200));
            pair.exchange(0, 100);
        }
        assert_eq!(lab.metrics.pairs.get(), 1, "{path:?}");
        while lab.metrics.pairs.get() > 0 {
            std::thread::sleep(Duration::from_millis(50));
        }
        assert_eq!(lab.metrics.events(Event::Closed), 1);
        let forwarded = lab.forwarded().0;
        pair.legs[0].send(&pair.data(100)).unwrap();
        while lab.metrics.dropped(DropReason::NoSlot).get() == 0 {
            std::thread::yield_now();
        }
        assert_eq!(lab.forwarded().0, forwarded, "{path:?}");
    }
}

#[test]
fn without_the_interface_the_workers_forward_all() {
    let config = Config { xdp: vec!["none".to_owned()], ..Config::default() };
    let mut lab = Lab::unaccelerated(config);
    lab.pair(Bandwidth::UNLIMITED).exchange(0, 100);
    assert_eq!(lab.forwarded(), (5, 0));
}
