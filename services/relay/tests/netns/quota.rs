//! What legs send is counted to who pays whoever forwards it, and stops in the kernel, too.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use bus::{Bus, Served};
use contract::auth::{SettleRefusal, SettleRelay};
use domain::{Bandwidth, LeaseId, PayerId, Quota, RelayGrant, RelayLease, RelayReport};
use wire::{Code, relay::Message};

use crate::{
    PATHS,
    lab::{Lab, Path, join, receive},
};

const MIB: u64 = 1 << 20;
const PAYERS: [PayerId; 2] = [PayerId::from_bytes([1; 16]), PayerId::from_bytes([2; 16])];

/// Keeps the count, as auth does.
#[derive(Clone)]
pub(crate) struct Owner {
    quota: Quota,
    leases: Arc<Mutex<BTreeMap<LeaseId, (PayerId, RelayLease)>>>,
}

#[test]
fn every_byte_is_counted_to_who_sent_it() {
    for path in PATHS {
        let owner = Owner::new(Quota::UNLIMITED);
        let mut lab = Lab::with_owner(path, &owner);
        let mut pair = lab.pair_paid_by(Bandwidth::UNLIMITED, PAYERS);
        // More than the kernel forwards before it is looked at.
        (0..5_000).for_each(|_| pair.exchange(0, 1_192));
        (0..1_000).for_each(|_| pair.exchange(1, 492));
        let moved = lab.leg();
        std::thread::sleep(Duration::from_millis(1_100));
        assert_eq!(join(&moved, &pair.tickets[0]), pair.slot);
        pair.legs[0] = moved;
        (0..100).for_each(|_| pair.exchange(0, 1_192));
        let (forwarded, in_kernel) = lab.forwarded();
        assert!(
            path == Path::Workers || in_kernel * 10 > forwarded * 9,
            "{path:?}: {in_kernel} of {forwarded} in the kernel"
        );
        lab.end();
        assert_eq!(PAYERS.map(|payer| owner.used(payer)), [5_100 * 1_200 + 2 * 72, 1_000 * 500 + 2 * 72], "{path:?}");
    }
}

#[test]
fn a_spent_quota_stops_its_legs_and_both_are_told() {
    for path in PATHS {
        let owner = Owner::new(Quota::from_bytes(8 * MIB));
        let mut lab = Lab::with_owner(path, &owner);
        let pair = lab.pair_paid_by(Bandwidth::UNLIMITED, [PAYERS[0]; 2]);
        let datagram = pair.data(1_192);
        let note = Message::Note { slot: pair.slot, code: Code::RelayQuota.number() }.to_vec();
        let mut passed = 4 * 72;
        while passed < 20 * MIB {
            pair.legs[0].send(&datagram).unwrap();
            let arrived = receive(&pair.legs[1]).unwrap();
            if arrived == note {
                break;
            }
            assert_eq!(arrived, datagram);
            passed += datagram.len() as u64;
        }
        // A look late at most: 4 MiB in the kernel, and what the workers forward before each look.
        assert!((8 * MIB..12 * MIB + 160 * 1_024).contains(&passed), "{path:?}: {passed}");
        assert_eq!(receive(&pair.legs[0]), Some(note));
        let (forwarded, in_kernel) = lab.forwarded();
        assert!(
            path == Path::Workers || in_kernel * 10 > forwarded * 9,
            "{path:?}: {in_kernel} of {forwarded} in the kernel"
        );
        lab.end();
        assert_eq!(owner.used(PAYERS[0]), passed, "{path:?}");
    }
}

impl Owner {
    fn new(quota: Quota) -> Self {
        Self { quota, leases: Arc::default() }
    }

    pub(crate) async fn serve(self, bus: &Bus) -> Served {
        let settle = move |call: SettleRelay| std::future::ready(Ok::<_, SettleRefusal>(self.settle(&call.report)));
        bus.serve::<SettleRelay, _, _>(1, settle).await.unwrap()
    }

    fn settle(&self, report: &RelayReport) -> RelayGrant {
        let mut leases = self.leases.lock().unwrap();
        let others = || leases.iter().filter(|(id, (payer, _))| *payer == report.payer && **id != report.lease);
        let (used, held) =
            others().fold((0, 0), |(used, held), (_, (_, lease))| (used + lease.spent, held + lease.open()));
        let before = leases.get(&report.lease).map_or(RelayLease::default(), |(_, lease)| *lease);
        let (lease, _) = before.settle(report, self.quota, used + before.spent, held);
        leases.insert(report.lease, (report.payer, lease));
        lease.grant()
    }

    fn used(&self, payer: PayerId) -> u64 {
        self.leases.lock().unwrap().values().filter(|(of, _)| *of == payer).map(|(_, lease)| lease.spent).sum()
    }
}
