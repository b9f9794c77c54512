//! What an owner may use. Plans are rows, not code: this is one row.

use minicbor::{Decode, Encode};

use crate::{Bandwidth, Quota};

/// The limits of one plan.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, serde::Serialize)]
pub struct Plan {
    /// How the plan is called in the table of plans.
    #[n(0)]
    pub name: String,
    /// Members of one network, its owner included.
    #[n(1)]
    pub members_per_network: u32,
    /// Networks that one client may be a member of.
    #[n(2)]
    pub networks_per_client: u32,
    /// What one pair may send through a relay.
    #[n(3)]
    pub relay_rate: Bandwidth,
    /// What may be relayed in a month for those whom the plan covers, over all relays together.
    #[n(4)]
    pub relay_quota: Quota,
}
