//! What happens: heard and numbered (`record`), watched for (`relays`), chosen (`filter`) and told (`stream`).
//!
//! Events of networks, members, accounts, clients, quotas and blocks are written by the transaction that makes them true; those of
//! presence, pairs and relays are told on the bus. All of them end in one log in the store, numbered under one lock, which
//! every process reads: a reader goes on after the last number it saw, at whichever process. See [`domain::EventKind`] for
//! what there is and what can get lost.

pub(crate) mod filter;
pub(crate) mod record;
pub(crate) mod relays;
pub(crate) mod stream;

use std::time::Duration;

use domain::{AccountId, BlockId, ClientId, EventId, EventKind, NetworkId, RelayId, UnixMillis};
use serde::{Deserialize, Serialize};
use store::Numbered;
use utoipa::ToSchema;

use crate::schema::Id;

/// How events are told.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct EventsConfig {
    /// Streams that one process tells at a time.
    pub streams: usize,
    /// How often a stream says that it lives, and whether its token still counts.
    #[serde(with = "domain::human_duration")]
    pub heartbeat: Duration,
    /// How long a stream lasts; whoever reads it asks again from where it ended.
    #[serde(with = "domain::human_duration")]
    pub longest: Duration,
    /// How long a reader may take nothing before it is left.
    #[serde(with = "domain::human_duration")]
    pub patience: Duration,
    /// How often what transactions wrote is looked for.
    #[serde(with = "domain::human_duration")]
    pub poll: Duration,
}

impl Default for EventsConfig {
    fn default() -> Self {
        Self {
            streams: 64,
            heartbeat: Duration::from_secs(15),
            longest: Duration::from_secs(3_600),
            patience: Duration::from_secs(20),
            poll: Duration::from_millis(500),
        }
    }
}

/// Something that happened. Which of the subjects are there follows from the kind.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct Event {
    #[schema(value_type = Id)]
    pub(crate) id: EventId,
    /// Orders all events; there are gaps.
    pub(crate) sequence: u64,
    #[schema(value_type = u64)]
    pub(crate) at_ms: UnixMillis,
    /// See `/v1/events/kinds`.
    #[schema(value_type = String)]
    pub(crate) kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Id>)]
    client: Option<ClientId>,
    /// The other client of a pair.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Id>)]
    peer: Option<ClientId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Id>)]
    network: Option<NetworkId>,
    /// Whose client or network it is about, if it is somebody's; of a pair only that of `client`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Id>)]
    account: Option<AccountId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Id>)]
    relay: Option<RelayId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    percent: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Id>)]
    block: Option<BlockId>,
}

impl From<Numbered> for Event {
    fn from(Numbered { sequence, event }: Numbered) -> Self {
        let domain::Event { id, at, kind, client, peer, network, account, relay, percent, block } = event;
        Self { id, sequence, at_ms: at, kind: kind.name(), client, peer, network, account, relay, percent, block }
    }
}

/// An event of now that this role decides, without its subjects.
pub(crate) fn of(kind: EventKind) -> domain::Event {
    let mut drawn = [0; 10];
    drawn[..8].copy_from_slice(&crate::random_number().to_be_bytes());
    drawn[8..].copy_from_slice(&crate::random_number().to_be_bytes()[..2]);
    domain::Event::new(kind, crate::now(), drawn)
}
