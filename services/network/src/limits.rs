//! How often one may try, counted in the database for all processes together.

use std::time::Duration;

use domain::{ClientId, NetworkName, SourcePrefix};
use ring::digest;
use serde::{Deserialize, Serialize};
use store::{Budget, BudgetKind};

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Attempts in their windows. Joins with the right password do not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Wrong passwords a day for one network (NIST SP 800-63B allows 100).
    pub guesses_per_network: u32,
    /// Wrong passwords an hour by one client.
    pub guesses_per_client: u32,
    /// Wrong passwords an hour from one source prefix (IPv4 /32, IPv6 /56).
    pub guesses_per_source: u32,
    /// Wrong passwords an hour from one source prefix and its neighbours together (IPv4 /24, IPv6 /48).
    pub guesses_per_neighbours: u32,
    /// Networks made an hour by one client.
    pub creations_per_client: u32,
    /// Networks made an hour from one source prefix.
    pub creations_per_source: u32,
    /// Networks made an hour from one source prefix and its neighbours together.
    pub creations_per_neighbours: u32,
    /// Nicknames taken an hour by one client.
    pub renames_per_client: u32,
    /// Orders an hour by one client to networks it owns or administers.
    pub orders_per_client: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            guesses_per_network: 100,
            guesses_per_client: 20,
            guesses_per_source: 60,
            guesses_per_neighbours: 600,
            creations_per_client: 20,
            creations_per_source: 240,
            creations_per_neighbours: 2_400,
            renames_per_client: 60,
            orders_per_client: 600,
        }
    }
}

impl Limits {
    /// What one password tried on a network costs.
    pub(crate) fn guess(&self, name: NameKey, client: ClientId, source: SourcePrefix) -> [Budget; 4] {
        [
            Budget { kind: BudgetKind::Network, key: name.0, limit: self.guesses_per_network, window: DAY },
            Budget { kind: BudgetKind::Client, key: *client.as_bytes(), limit: self.guesses_per_client, window: HOUR },
            Budget { kind: BudgetKind::Source, key: padded(source), limit: self.guesses_per_source, window: HOUR },
            self.guess_of_neighbours(source),
        ]
    }

    /// What one invite tried costs. Invites cannot be guessed; this bounds the work for those who try.
    pub(crate) fn invite(&self, client: ClientId, source: SourcePrefix) -> [Budget; 3] {
        [
            Budget { kind: BudgetKind::Client, key: *client.as_bytes(), limit: self.guesses_per_client, window: HOUR },
            Budget { kind: BudgetKind::Source, key: padded(source), limit: self.guesses_per_source, window: HOUR },
            self.guess_of_neighbours(source),
        ]
    }

    fn guess_of_neighbours(&self, source: SourcePrefix) -> Budget {
        let (key, limit) = (padded(source.neighbours()), self.guesses_per_neighbours);
        Budget { kind: BudgetKind::Neighbours, key, limit, window: HOUR }
    }

    /// What one network to be made costs.
    pub(crate) fn creation(&self, client: ClientId, source: SourcePrefix) -> [Budget; 3] {
        let (key, limit) = (*client.as_bytes(), self.creations_per_client);
        [
            Budget { kind: BudgetKind::Creation, key, limit, window: HOUR },
            Budget {
                kind: BudgetKind::CreationSource,
                key: padded(source),
                limit: self.creations_per_source,
                window: HOUR,
            },
            Budget {
                kind: BudgetKind::CreationNeighbours,
                key: padded(source.neighbours()),
                limit: self.creations_per_neighbours,
                window: HOUR,
            },
        ]
    }

    /// What one new nickname costs.
    pub(crate) fn rename(&self, client: ClientId) -> [Budget; 1] {
        let (key, limit) = (*client.as_bytes(), self.renames_per_client);
        [Budget { kind: BudgetKind::Rename, key, limit, window: HOUR }]
    }

    /// What one order costs.
    pub(crate) fn order(&self, client: ClientId) -> [Budget; 1] {
        let (key, limit) = (*client.as_bytes(), self.orders_per_client);
        [Budget { kind: BudgetKind::Order, key, limit, window: HOUR }]
    }
}

/// A network's budget is found by its name, so that names without a network have one, too.
#[derive(Clone, Copy)]
pub(crate) struct NameKey(pub(crate) [u8; 16]);

impl NameKey {
    pub(crate) fn of(name: &NetworkName) -> Self {
        let hash = digest::digest(&digest::SHA256, name.key().as_bytes());
        let mut key = [0; 16];
        key.copy_from_slice(&hash.as_ref()[..16]);
        Self(key)
    }
}

fn padded(source: SourcePrefix) -> [u8; 16] {
    u128::from(source.bits()).to_be_bytes()
}
