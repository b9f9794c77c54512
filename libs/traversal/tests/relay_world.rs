//! The choice of a relay by both legs, against the choices that look at one leg or at a map, in a drawn world.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::{f64::consts::PI, time::Duration};

use domain::{ClientId, RelayId, RelayVerdict, RelayWhy};
use proptest::prelude::*;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use traversal::relay_choice::{Relay, choose};

const RELAYS: usize = 8;
const CLIENTS: usize = 300;

/// Other ways to choose, and the share of all pairs that the sum of both legs is strictly better for, at least.
const RIVALS: [(&str, f64); 3] =
    [("the home relay of each", 0.75), ("the better of both homes", 0.15), ("the map", 0.2)];

#[test]
fn the_sum_of_both_legs_beats_home_relays_and_the_map_on_every_pair() {
    for seed in 1..=5 {
        let world = World::draw(seed);
        let mut better = [0_u32; RIVALS.len()];
        let mut saved = [Duration::ZERO; RIVALS.len()];
        for (a, b) in pairs() {
            let sum = world.through(a, b, world.chosen(a, b, |client, relay| world.rtts[client][relay]));
            for (nth, other) in world.rivals(a, b).into_iter().enumerate() {
                // Never worse ...
                assert!(sum <= other, "seed {seed}, pair {a} {b}: {sum:?} against {other:?}");
                better[nth] += u32::from(sum < other);
                saved[nth] += other - sum;
            }
        }
        let all = u32::try_from(pairs().count()).unwrap();
        for (nth, (rival, least)) in RIVALS.into_iter().enumerate() {
            let share = f64::from(better[nth]) / f64::from(all);
            println!(
                "seed {seed}: against {rival} better for {:.0} %, by {:.1?} on average",
                100.0 * share,
                saved[nth] / all
            );
            // ... and better for many.
            assert!(share >= least, "seed {seed}: against {rival} better for {share}");
        }
    }
}

#[test]
fn what_measurements_err_by_costs_no_more_than_that_and_still_beats_the_others_on_average() {
    for seed in 1..=5 {
        let world = World::draw(seed);
        let mut random = StdRng::seed_from_u64(seed);
        // The smallest of four round trips, each of which waits in queues.
        let mut error = || {
            let waits = (0..4).map(|_| -6.0 * (1.0 - random.random::<f64>()).ln());
            Duration::from_secs_f64(waits.fold(f64::INFINITY, f64::min) / 1_000.0)
        };
        let errors: Vec<Vec<_>> = (0..CLIENTS).map(|_| (0..RELAYS).map(|_| error()).collect()).collect();
        let mut sums = [Duration::ZERO; 1 + RIVALS.len()];
        for (a, b) in pairs() {
            let chosen = world.chosen(a, b, |client, relay| world.rtts[client][relay] + errors[client][relay]);
            let best = world.chosen(a, b, |client, relay| world.rtts[client][relay]);
            let (sum, least) = (world.through(a, b, chosen), world.through(a, b, best));
            assert!(sum <= least + errors[a][best] + errors[b][best], "seed {seed}, pair {a} {b}");
            sums[0] += sum;
            for (nth, other) in world.rivals(a, b).into_iter().enumerate() {
                sums[nth + 1] += other;
            }
        }
        assert!(sums[1..].iter().all(|other| sums[0] < *other), "seed {seed}: {sums:?}");
    }
}

proptest! {
    #[test]
    fn the_choice_depends_on_no_order_and_takes_nobody_who_cannot(
        mut relays in proptest::collection::vec(relays(), 0..12),
        current in 0_u8..12,
        turn in 0_usize..12,
    ) {
        for (number, relay) in (0..).zip(&mut relays) {
            relay.id = RelayId::from_bytes([number; 16]);
        }
        let pair = [ClientId::from_bytes([1; 16]), ClientId::from_bytes([2; 16])];
        let current = Some(RelayId::from_bytes([current; 16]));
        let choice = choose(&relays, pair, current);

        let mut turned = relays.clone();
        turned.rotate_left(turn.min(relays.len()));
        for relay in &mut turned {
            relay.rtts.reverse();
        }
        prop_assert_eq!(choose(&turned, [pair[1], pair[0]], current).relay, choice.relay);

        prop_assert_eq!(choice.ranking.len(), relays.len());
        let chosen = relays.iter().find(|relay| Some(relay.id) == choice.relay);
        let has_room = |relay: &Relay| {
            !relay.draining && (relay.slots < 90 || Some(relay.id) == current && !relay.unanswered)
        };
        prop_assert_eq!(chosen.is_some(), relays.iter().any(has_room));
        let refused = matches!(choice.why, RelayWhy::NoRoom | RelayWhy::NoneLives);
        prop_assert_eq!(chosen.is_none(), refused);
        let Some(chosen) = chosen else { return Ok(()) };
        prop_assert_eq!(choice.ranking[0].1, RelayVerdict::Chosen);
        prop_assert!(has_room(chosen));
        let healthy = |relay: &&Relay| has_room(relay) && !relay.unanswered && !relay.silent;
        prop_assert!(healthy(&chosen) || !relays.iter().any(|relay| healthy(&relay)));
        // Of the healthy and measured ones none is nearer by more than a move is worth.
        let sum = |relay: &Relay| Some(relay.rtts[0]? + relay.rtts[1]?);
        if let Some(best) = relays.iter().filter(healthy).filter_map(sum).min() {
            let slack = if Some(chosen.id) == current { Duration::from_millis(20) } else { Duration::ZERO };
            prop_assert!(sum(chosen).is_none_or(|sum| sum <= best + slack));
            prop_assert!(Some(chosen.id) == current || sum(chosen).is_some());
        }
    }
}

fn relays() -> impl Strategy<Value = Relay> {
    let rtt = || proptest::option::weighted(0.8, (0_u64..300).prop_map(Duration::from_millis));
    (0_u32..=100, 0_u8..100, [rtt(), rtt()]).prop_map(|(slots, dice, rtts)| Relay {
        id: RelayId::from_bytes([0; 16]),
        slots,
        max_slots: 100,
        draining: dice % 7 == 0,
        silent: dice % 5 == 0,
        unanswered: dice % 6 == 0,
        rtts,
    })
}

/// Every two clients.
fn pairs() -> impl Iterator<Item = (usize, usize)> {
    (0..CLIENTS).flat_map(|a| (a + 1..CLIENTS).map(move |b| (a, b)))
}

/// Relays and clients on a sphere. A round trip is light in fibre along the great circle, longer by how the cables run
/// between the two, and the client's access.
struct World {
    relays: Vec<[f64; 3]>,
    clients: Vec<[f64; 3]>,
    /// By client, then relay.
    rtts: Vec<Vec<Duration>>,
}

impl World {
    fn draw(seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let point = |random: &mut StdRng| {
            let (z, angle): (f64, f64) = (random.random_range(-0.8..0.9), random.random_range(0.0..2.0 * PI));
            let flat = (1.0 - z * z).sqrt();
            [flat * angle.cos(), flat * angle.sin(), z]
        };
        let relays: Vec<_> = (0..RELAYS).map(|_| point(&mut random)).collect();
        let clients: Vec<_> = (0..CLIENTS).map(|_| point(&mut random)).collect();
        let rtts = clients.iter().map(|client| {
            let access: f64 = random.random_range(2.0..40.0);
            let to = |relay: &[f64; 3]| {
                let detour: f64 = random.random_range(1.2..2.2);
                Duration::from_secs_f64((access + angle(*client, *relay) * 6_371.0 / 100.0 * detour) / 1_000.0)
            };
            relays.iter().map(to).collect()
        });
        let rtts = rtts.collect();
        Self { relays, clients, rtts }
    }

    fn through(&self, a: usize, b: usize, relay: usize) -> Duration {
        self.rtts[a][relay] + self.rtts[b][relay]
    }

    /// What pairs would get by each of [`RIVALS`].
    fn rivals(&self, a: usize, b: usize) -> [Duration; RIVALS.len()] {
        let homes = [a, b].map(|client| self.through(a, b, self.home(client)));
        // Everybody receives at its home: there and back are different ways.
        let each = (homes[0] + homes[1]) / 2;
        [each, homes[0].min(homes[1]), self.through(a, b, self.on_the_map(a, b))]
    }

    /// The product's rule, with what both measured.
    fn chosen(&self, a: usize, b: usize, measured: impl Fn(usize, usize) -> Duration) -> usize {
        let id = |number: usize| [u8::try_from(number % 251).unwrap(), u8::try_from(number / 251).unwrap()].repeat(8);
        let client = |number| ClientId::from_bytes(id(number).try_into().unwrap());
        let relay = |number: usize| Relay {
            id: RelayId::from_bytes(id(number).try_into().unwrap()),
            slots: 0,
            max_slots: 1_000,
            draining: false,
            silent: false,
            unanswered: false,
            rtts: [Some(measured(a, number)), Some(measured(b, number))],
        };
        let relays: Vec<_> = (0..RELAYS).map(relay).collect();
        choose(&relays, [client(a), client(b)], None).ranking[0].0
    }

    /// The relay that is nearest to a client.
    fn home(&self, client: usize) -> usize {
        (0..RELAYS).min_by_key(|relay| self.rtts[client][*relay]).unwrap()
    }

    /// The relay with the shortest way over the map.
    fn on_the_map(&self, a: usize, b: usize) -> usize {
        let length =
            |relay: usize| angle(self.clients[a], self.relays[relay]) + angle(self.clients[b], self.relays[relay]);
        (0..RELAYS).min_by(|one, other| length(*one).total_cmp(&length(*other))).unwrap()
    }
}

fn angle(one: [f64; 3], other: [f64; 3]) -> f64 {
    one.iter().zip(other).map(|(one, other)| one * other).sum::<f64>().clamp(-1.0, 1.0).acos()
}
