//! A week of quotas over three relays: what pairs were forwarded, by the relays' own verdicts, against what was counted.
//!
//! Pairs move from relay to relay and are still heard at the old one, join again from other ports, fall silent until their
//! slot is gone, and come back. Reports and answers are lost, late, repeated and overtaken. Relays crash. The relays, their
//! accounts and ledgers are the product's; the owner of the count is the product's arithmetic over two maps.

mod world;

use std::time::Duration;

use domain::{PayerId, Quota};

use self::world::{Trouble, WEEK, World};
use super::{LOOK, TRICKLE, ledger::WORTH};

const RELAYS: usize = 3;
const PAYERS: usize = 6;
const MIB: u64 = 1 << 20;
/// Some are used up in a day, some last, some are none.
const QUOTAS: [Quota; PAYERS] = [
    Quota::from_bytes(10 * MIB),
    Quota::from_bytes(40 * MIB),
    Quota::from_bytes(200 * MIB),
    Quota::from_bytes(10_000 * MIB),
    Quota::UNLIMITED,
    Quota::UNLIMITED,
];
/// A small one, for small quotas.
const OVERDRAFT: u64 = 512 * 1024;
/// Of one payer at one relay, at most; and what one of them sends before its account is told.
const LEGS: u64 = 6;
const UNLOOKED: u64 = LOOK as u64 + 2_048;

#[test]
fn a_week_adds_up_exactly_however_messages_travel_and_pairs_move() {
    for seed in 0..2 {
        let mut world = World::new(seed, Trouble { lost: 10, repeated: 10, crashes: 0 }, 1);
        world.run(WEEK);
        world.end();
        for payer in 0..PAYERS {
            assert_eq!(world.counted(payer), world.sent[payer], "seed {seed}, payer {payer}");
            assert!(world.sent[payer] > 100 * MIB || world.held_back[payer] > 0, "seed {seed}: {:?}", world.sent);
        }
        assert!(world.moves > 500 && world.returns > 500, "{} moves, {} returns", world.moves, world.returns);
        no_month_is_overspent(&world, seed);
    }
}

#[test]
fn a_crash_costs_the_operator_at_most_what_was_not_reported_and_the_payer_nothing() {
    for seed in 100..102 {
        let mut world = World::new(seed, Trouble { lost: 20, repeated: 20, crashes: 5_000 }, 1);
        world.run(WEEK);
        world.end();
        assert!(world.crashes > 10, "seed {seed}: {}", world.crashes);
        let mut lost = 0;
        for (payer, quota) in QUOTAS.into_iter().enumerate() {
            let (counted, sent) = (world.counted(payer), world.sent[payer]);
            assert!(counted <= sent, "seed {seed}, payer {payer}: never more than was forwarded");
            let open = if quota.is_unlimited() {
                // What was not worth a report, or came in the minutes that one takes when answers are lost.
                WORTH + world.fastest * 180
            } else {
                // The lease and the overdraft, and what trickled since.
                quota.block(quota.bytes()) + OVERDRAFT + TRICKLE.bytes_per_second() * 180
            };
            let bound = world.crashes * (open + LEGS * UNLOOKED);
            assert!(sent - counted <= bound, "seed {seed}: {} lost, {bound} allowed", sent - counted);
            lost += sent - counted;
        }
        assert!(lost > 0, "seed {seed}: the crashes met nobody");
        no_month_is_overspent(&world, seed);
    }
}

#[test]
fn cut_off_relays_go_on_for_a_while_then_trickle_and_report_when_they_are_back() {
    let mut world = World::new(7, Trouble { lost: 0, repeated: 0, crashes: 0 }, 15);
    world.run(Duration::from_secs(3_600));
    world.trouble.lost = 100;
    world.run(Duration::from_secs(6 * 3_600));
    let before = world.sent;
    world.run(Duration::from_secs(3_600));
    for (payer, before) in before.into_iter().enumerate() {
        let hour = world.sent[payer] - before;
        if QUOTAS[payer].bytes() <= 200 * MIB {
            // A frame of each relay's trickle was saved up.
            let most = RELAYS as u64 * (3_600 * TRICKLE.bytes_per_second() + 2_048);
            assert!(hour <= most, "payer {payer}: {hour}");
        }
        assert!(hour > 0, "payer {payer}");
    }
    world.trouble.lost = 0;
    world.run(Duration::from_secs(600));
    world.end();
    for payer in 0..PAYERS {
        assert_eq!(world.counted(payer), world.sent[payer]);
    }
}

#[test]
fn a_week_of_machines_that_join_and_leave_an_account_adds_up_for_each_and_for_the_account() {
    for seed in 200..202 {
        let mut world = World::new(seed, Trouble { lost: 10, repeated: 10, crashes: 0 }, 1);
        let account = PayerId::from_bytes([0xa0; 16]);
        let quota = Quota::from_bytes(300 * MIB);
        // Payers 0 to 3 come and go; one is in all the time, one is in while the month ends, one comes back.
        let days: [&[(usize, bool)]; 7] = [
            &[(0, true)],
            &[(1, true)],
            &[(2, true), (1, false)],
            &[(3, true)],
            &[(1, true), (2, false)],
            &[],
            &[(3, false)],
        ];
        let mut moved = [0; PAYERS];
        for changes in days {
            for &(payer, joins) in changes {
                world.owner.belong(payer, joins.then_some((account, quota)));
                moved[payer] += 1;
            }
            world.run(WEEK / 7);
        }
        world.end();
        let mut counted = 0;
        for payer in 0..PAYERS {
            assert_eq!(world.counted(payer), world.sent[payer], "seed {seed}, payer {payer}: once, whoever paid");
            counted += world.counted(payer);
        }
        assert_eq!(world.owner.usage.values().sum::<u64>(), counted, "seed {seed}: each byte on one quota");

        // The account shares one quota: what goes beyond is bounded as for one payer, by what its machines bring and take.
        let members = 0..4;
        let told: u64 = members.clone().map(|payer| world.owner.told[payer] * (OVERDRAFT + LEGS * UNLOOKED)).sum();
        let late: u64 = members.clone().map(|payer| world.late[payer]).sum();
        let brought: u64 = members
            .map(|payer| {
                let block = QUOTAS[payer].block(QUOTAS[payer].bytes()).max(quota.block(quota.bytes()));
                moved[payer] * RELAYS as u64 * (block + OVERDRAFT + LEGS * UNLOOKED)
            })
            .sum();
        let months: Vec<_> = world.owner.usage.iter().filter(|((purse, _), _)| *purse == account).collect();
        assert_eq!(months.len(), 2, "seed {seed}: the week goes over the end of a month");
        for (_, &used) in months {
            assert!(used > MIB, "seed {seed}: {used}");
            assert!(used <= quota.bytes() + told + late + brought, "seed {seed}: {used}");
        }
        assert!(world.held_back[0] > 0, "seed {seed}: the account ran out");
    }
}

/// Beyond a quota there is what trickled, and for each time a relay had to be told that nothing is left, at most the overdraft
/// and what its legs had not told their account.
fn no_month_is_overspent(world: &World, seed: u64) {
    for ((payer, month), &used) in &world.owner.usage {
        let payer = world::number(*payer);
        let told = world.owner.told[payer] * (OVERDRAFT + LEGS * UNLOOKED);
        let most = QUOTAS[payer].bytes().saturating_add(world.late[payer] + told);
        assert!(used <= most, "seed {seed}, payer {payer} in {month}: {used}, {most} allowed");
    }
}
