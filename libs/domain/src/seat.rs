//! Who keeps a seat in a network that has more members than its owner's plan allows.

use std::{cmp::Reverse, collections::BTreeSet};

use minicbor::{Decode, Encode};

use crate::{ClientId, Role, UnixMillis};

/// A member, as far as it matters for its seat. Applicants and those who are banned are no members, and have no claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    pub client: ClientId,
    pub role: Role,
    /// The owner wants it to stay.
    pub kept: bool,
    pub joined: UnixMillis,
}

/// Those of `members` who sit on `seats` seats: the owner, then whom the owner keeps, then admins, then whoever has been in
/// longest. Of two alike the first by id sits.
///
/// Nobody else decides, and nothing but this list counts: the same members always get the same answer.
#[must_use]
pub fn seated(members: &[Claim], seats: u32) -> BTreeSet<ClientId> {
    let mut order: Vec<_> = members.iter().collect();
    order.sort_unstable_by_key(|claim| {
        let owner = claim.role == Role::Owner;
        (Reverse(owner), Reverse(claim.kept), Reverse(claim.role), claim.joined, claim.client)
    });
    let seats = usize::try_from(seats).unwrap_or(usize::MAX);
    order.into_iter().take(seats).map(|claim| claim.client).collect()
}

/// Who would lose its seat by a change of a plan.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode, serde::Serialize)]
pub struct SeatsLost {
    /// Networks where somebody would.
    #[n(0)]
    pub networks: u32,
    /// Members who would, in all these networks together.
    #[n(1)]
    pub members: u32,
    /// There are more networks than were looked at.
    #[n(2)]
    pub more: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owner_then_kept_then_admins_then_the_longest_in() {
        let claim = |number, role, kept, joined| Claim {
            client: ClientId::from_bytes([number; 16]),
            role,
            kept,
            joined: UnixMillis(joined),
        };
        let members = [
            claim(1, Role::Member, false, 9),
            claim(2, Role::Member, false, 3),
            claim(3, Role::Admin, false, 8),
            claim(4, Role::Member, true, 9),
            claim(5, Role::Owner, false, 9),
            claim(6, Role::Member, false, 3),
            claim(7, Role::Admin, true, 9),
        ];
        let order = [5, 7, 4, 3, 2, 6, 1].map(|number| ClientId::from_bytes([number; 16]));
        for seats in 0..=8 {
            let expected = order.iter().take(seats).copied().collect::<BTreeSet<_>>();
            assert_eq!(seated(&members, u32::try_from(seats).unwrap()), expected, "{seats} seats");
        }
    }
}
