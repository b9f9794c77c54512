//! What always holds of seats, whoever the members are.

use std::collections::BTreeMap;

use domain::{Claim, ClientId, Role, UnixMillis, seated};
use proptest::{collection::btree_map, prelude::*};

proptest! {
    #[test]
    fn the_owner_always_sits(members in members(), seats in 1_u32..40) {
        prop_assert!(seated(&members, seats).contains(&members[0].client));
    }

    #[test]
    fn as_many_sit_as_there_are_seats_and_members(members in members(), seats in 0_u32..40) {
        prop_assert_eq!(seated(&members, seats).len(), members.len().min(seats as usize));
    }

    #[test]
    fn whom_the_owner_keeps_loses_nothing_by_it(members in members(), seats in 0_u32..40, whom in any::<prop::sample::Index>()) {
        let whom = whom.index(members.len());
        let sat = seated(&members, seats).contains(&members[whom].client);
        let mut kept = members;
        kept[whom].kept = true;
        prop_assert!(!sat || seated(&kept, seats).contains(&kept[whom].client));
    }

    #[test]
    fn more_seats_unseat_nobody(members in members(), seats in 0_u32..40) {
        prop_assert!(seated(&members, seats).is_subset(&seated(&members, seats + 1)));
    }

    #[test]
    fn who_leaves_unseats_nobody(members in members(), seats in 0_u32..40, whom in any::<prop::sample::Index>()) {
        let mut rest = members.clone();
        let gone = rest.remove(whom.index(members.len())).client;
        let mut before = seated(&members, seats);
        before.remove(&gone);
        prop_assert!(before.is_subset(&seated(&rest, seats)));
    }

    #[test]
    fn the_order_of_the_list_does_not_matter(members in members(), seats in 0_u32..40) {
        let reversed: Vec<_> = members.iter().rev().copied().collect();
        prop_assert_eq!(seated(&members, seats), seated(&reversed, seats));
    }
}

/// The owner, and up to thirty others.
fn members() -> impl Strategy<Value = Vec<Claim>> {
    let other = (any::<bool>(), any::<bool>(), 0_u64..5);
    (0_u64..5, btree_map(1_u8..=255, other, 0..30)).prop_map(|(joined, others): (u64, BTreeMap<u8, _>)| {
        let claim = |number, role, kept, joined| Claim {
            client: ClientId::from_bytes([number; 16]),
            role,
            kept,
            joined: UnixMillis(joined),
        };
        let owner = claim(0, Role::Owner, false, joined);
        let others = others.into_iter().map(|(number, (admin, kept, joined))| {
            claim(number, if admin { Role::Admin } else { Role::Member }, kept, joined)
        });
        std::iter::once(owner).chain(others).collect()
    })
}
