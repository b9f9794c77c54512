//! What members may do to their network and to one another: the one table.

use minicbor::{Decode, Encode};

/// What a member is in its network.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Encode, Decode, serde::Serialize, serde::Deserialize,
)]
#[cbor(index_only)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    #[default]
    #[n(0)]
    Member,
    #[n(1)]
    Admin,
    /// One of each network.
    #[n(2)]
    Owner,
}

/// What can be done to a network or to somebody in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Remove a member, who may come back.
    Evict,
    /// Remove a client for good, or keep it from joining at all.
    Ban,
    Unban,
    /// Let an applicant in, or not.
    Admit,
    /// Close the network for everybody who is not in it, or open it; ask for approval, or not.
    Lock,
    /// Make or revoke an invite.
    Invite,
    Rename,
    /// Say which members meet.
    SetKind,
    /// Make a member a hub, or a spoke.
    SetHub,
    /// Say where a member leads the others.
    SetRoutes,
    /// Lead the others where an owner or admin said, on one's own machine.
    Agree,
    /// Change the password, or make a newer secret for those who are still in.
    Rekey,
    /// Make a member an admin, or an admin a member.
    SetRole,
    /// Say who stays seated when the plan allows fewer members.
    Keep,
    /// Make somebody else the owner.
    Transfer,
    Delete,
    /// See who waits, who is banned, what invites there are.
    SeeAdmissions,
}

impl Action {
    /// Every action.
    pub const ALL: [Self; 17] = [
        Self::Evict,
        Self::Ban,
        Self::Unban,
        Self::Admit,
        Self::Lock,
        Self::Invite,
        Self::Rename,
        Self::SetKind,
        Self::SetHub,
        Self::SetRoutes,
        Self::Agree,
        Self::Rekey,
        Self::SetRole,
        Self::Keep,
        Self::Transfer,
        Self::Delete,
        Self::SeeAdmissions,
    ];

    /// The least role that may do it, and to whom.
    const fn rule(self) -> (Role, Reach) {
        match self {
            Self::Evict | Self::Ban => (Role::Admin, Reach::Below),
            Self::Unban
            | Self::Admit
            | Self::Lock
            | Self::Invite
            | Self::Rekey
            | Self::SetHub
            | Self::SetRoutes
            | Self::SeeAdmissions => (Role::Admin, Reach::Anybody),
            Self::Agree => (Role::Member, Reach::Anybody),
            Self::SetRole | Self::Transfer => (Role::Owner, Reach::Below),
            Self::Rename | Self::SetKind | Self::Keep | Self::Delete => (Role::Owner, Reach::Anybody),
        }
    }
}

#[derive(Clone, Copy)]
pub(crate) enum Reach {
    /// The network itself, or people who are not in it.
    Anybody,
    /// Members with a lesser role than one's own, so never oneself, and people who are not in it.
    Below,
}

/// Whether a member with the role `actor` may do `action` to somebody with the role `target`; `None` is somebody who is no
/// member, or the network itself.
#[must_use]
pub fn may(actor: Role, action: Action, target: Option<Role>) -> bool {
    permits(action.rule(), actor, target)
}

/// Whether a rule (the least role, and to whom) lets `actor` do it to `target`.
pub(crate) fn permits((least, reach): (Role, Reach), actor: Role, target: Option<Role>) -> bool {
    let reached = match reach {
        Reach::Anybody => true,
        Reach::Below => target.is_none_or(|target| target < actor),
    };
    actor >= least && reached
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Actor by actor: may do it to nobody in particular, a member, an admin, the owner.
    const TABLE: &[(Action, Role, [bool; 4])] = &[
        (Action::Evict, Role::Member, [false, false, false, false]),
        (Action::Evict, Role::Admin, [true, true, false, false]),
        (Action::Evict, Role::Owner, [true, true, true, false]),
        (Action::Ban, Role::Member, [false, false, false, false]),
        (Action::Ban, Role::Admin, [true, true, false, false]),
        (Action::Ban, Role::Owner, [true, true, true, false]),
        (Action::Unban, Role::Member, [false, false, false, false]),
        (Action::Unban, Role::Admin, [true, true, true, true]),
        (Action::Unban, Role::Owner, [true, true, true, true]),
        (Action::Admit, Role::Member, [false, false, false, false]),
        (Action::Admit, Role::Admin, [true, true, true, true]),
        (Action::Admit, Role::Owner, [true, true, true, true]),
        (Action::Lock, Role::Member, [false, false, false, false]),
        (Action::Lock, Role::Admin, [true, true, true, true]),
        (Action::Lock, Role::Owner, [true, true, true, true]),
        (Action::Invite, Role::Member, [false, false, false, false]),
        (Action::Invite, Role::Admin, [true, true, true, true]),
        (Action::Invite, Role::Owner, [true, true, true, true]),
        (Action::Rename, Role::Member, [false, false, false, false]),
        (Action::Rename, Role::Admin, [false, false, false, false]),
        (Action::Rename, Role::Owner, [true, true, true, true]),
        (Action::SetKind, Role::Member, [false, false, false, false]),
        (Action::SetKind, Role::Admin, [false, false, false, false]),
        (Action::SetKind, Role::Owner, [true, true, true, true]),
        (Action::SetHub, Role::Member, [false, false, false, false]),
        (Action::SetHub, Role::Admin, [true, true, true, true]),
        (Action::SetHub, Role::Owner, [true, true, true, true]),
        (Action::SetRoutes, Role::Member, [false, false, false, false]),
        (Action::SetRoutes, Role::Admin, [true, true, true, true]),
        (Action::SetRoutes, Role::Owner, [true, true, true, true]),
        (Action::Agree, Role::Member, [true, true, true, true]),
        (Action::Agree, Role::Admin, [true, true, true, true]),
        (Action::Agree, Role::Owner, [true, true, true, true]),
        (Action::Rekey, Role::Member, [false, false, false, false]),
        (Action::Rekey, Role::Admin, [true, true, true, true]),
        (Action::Rekey, Role::Owner, [true, true, true, true]),
        (Action::SetRole, Role::Member, [false, false, false, false]),
        (Action::SetRole, Role::Admin, [false, false, false, false]),
        (Action::SetRole, Role::Owner, [true, true, true, false]),
        (Action::Keep, Role::Member, [false, false, false, false]),
        (Action::Keep, Role::Admin, [false, false, false, false]),
        (Action::Keep, Role::Owner, [true, true, true, true]),
        (Action::Transfer, Role::Member, [false, false, false, false]),
        (Action::Transfer, Role::Admin, [false, false, false, false]),
        (Action::Transfer, Role::Owner, [true, true, true, false]),
        (Action::Delete, Role::Member, [false, false, false, false]),
        (Action::Delete, Role::Admin, [false, false, false, false]),
        (Action::Delete, Role::Owner, [true, true, true, true]),
        (Action::SeeAdmissions, Role::Member, [false, false, false, false]),
        (Action::SeeAdmissions, Role::Admin, [true, true, true, true]),
        (Action::SeeAdmissions, Role::Owner, [true, true, true, true]),
    ];

    #[test]
    fn who_may_do_what_to_whom() {
        for &(action, actor, expected) in TABLE {
            let targets = [None, Some(Role::Member), Some(Role::Admin), Some(Role::Owner)];
            assert_eq!(targets.map(|target| may(actor, action, target)), expected, "{actor:?} {action:?}");
        }
    }

    #[test]
    fn the_table_has_every_role_and_action() {
        for action in Action::ALL {
            for role in [Role::Member, Role::Admin, Role::Owner] {
                let rows = TABLE.iter().filter(|(a, r, _)| (*a, *r) == (action, role)).count();
                assert_eq!(rows, 1, "{role:?} {action:?}");
            }
        }
    }
}
