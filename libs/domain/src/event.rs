//! What happens, as it is told to programs of operators: the one catalogue of events.
//!
//! An event names its subjects by their ids and nothing else: no names, no addresses, no secrets. To add one: a line here, and
//! whoever decides that it happened says so.

use std::{fmt, str::FromStr};

use minicbor::{Decode, Encode};

use crate::{AccountId, BlockId, BlockSubject, ClientId, EventId, NetworkId, RelayId, UnixMillis};

/// Whether an event can get lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeping {
    /// Written by the transaction that makes it true.
    Kept,
    /// Told on the bus, at most once: a crash between the fact and the telling loses it. What is true now is in the API.
    Hinted,
}

macro_rules! events {
    ($(
        $number:literal $kind:ident $name:literal [$($subject:ident)* $(? $($maybe:ident)*)?] $keeping:ident: $meaning:literal
    )*) => {
        /// What can happen.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
        #[cbor(index_only)]
        pub enum EventKind {
            $(#[doc = $meaning] #[n($number)] $kind,)*
        }

        impl EventKind {
            /// Everything that can happen.
            pub const ALL: [Self; [$($number),*].len()] = [$(Self::$kind),*];

            /// The word for programs, which never changes.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$kind => $name,)* }
            }

            /// What has happened, in a sentence.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$kind => $meaning,)* }
            }

            /// The fields that such an event has, beside its account.
            #[must_use]
            pub const fn subjects(self) -> &'static [Subject] {
                match self { $(Self::$kind => &[$(Subject::$subject),*],)* }
            }

            /// The fields that such an event has where that is whom it is about.
            #[must_use]
            pub const fn possible_subjects(self) -> &'static [Subject] {
                match self { $(Self::$kind => &[$($(Subject::$maybe),*)?],)* }
            }

            /// Whether it can get lost.
            #[must_use]
            pub const fn keeping(self) -> Keeping {
                match self { $(Self::$kind => Keeping::$keeping,)* }
            }
        }
    };
}

events! {
    0 ClientRegistered "client.registered" [Client] Kept: "A client's key was seen for the first time."
    1 ClientOnline "client.online" [Client] Hinted: "A client logged in."
    2 ClientOffline "client.offline" [Client] Hinted: "A client said goodbye."
    3 ClientLost "client.lost" [Client] Hinted: "The connection of a client broke. It may be back soon; its tunnels may go on."
    10 NetworkCreated "network.created" [Network Client] Kept: "A client made a network."
    11 NetworkRenamed "network.renamed" [Network] Kept: "A network has another name."
    12 NetworkDeleted "network.deleted" [Network] Kept: "A network was deleted, or its last member left."
    20 MemberJoined "member.joined" [Network Client] Kept: "A client became a member of a network, by password or by invite."
    21 MemberApplied "member.applied" [Network Client] Kept: "A client waits to be let into a network."
    22 MemberApproved "member.approved" [Network Client] Kept: "A client that waited became a member of a network."
    23 MemberLeft "member.left" [Network Client] Kept: "A member left a network."
    24 MemberRemoved "member.removed" [Network Client] Kept: "A member was removed from a network, and may come back."
    25 MemberBanned "member.banned" [Network Client] Kept: "A client is kept out of a network."
    26 MemberUnbanned "member.unbanned" [Network Client] Kept: "A client is not kept out of a network any more."
    27 MemberUnseated "member.unseated" [Network Client] Kept: "A member has no seat any more: the plan of the network's owner allows fewer members. It stays a member, and meets nobody."
    28 MemberSeated "member.seated" [Network Client] Kept: "A member that had no seat has one again."
    30 PairDirect "pair.direct" [Client Peer] Hinted: "Two clients talk directly, and did not before."
    31 PairRelayed "pair.relayed" [Client Peer] Hinted: "Two clients talk through a relay: a direct path did not open, or was lost."
    32 PairCapped "pair.capped" [Client Peer Relay] Hinted: "What two clients send through a relay is held back: it is more than the rate of their plan, or than what is left of a quota. Told at most once an hour for a pair."
    40 QuotaReached "quota.reached" [Client Percent] Kept: "So many percent of what may be relayed in this month, for a client or for all of its account, are used: 80 or 100."
    50 RelayDraining "relay.draining" [Relay] Hinted: "A relay takes no new pairs, and has those that it carries go elsewhere."
    51 RelayResumed "relay.resumed" [Relay] Hinted: "A relay that was drained takes pairs again."
    52 RelayLost "relay.lost" [Relay] Hinted: "A relay gives no sign of life."
    60 AccountCreated "account.created" [] Kept: "A person has a new account."
    61 AccountSuspended "account.suspended" [] Kept: "An operator suspended an account."
    62 AccountResumed "account.resumed" [] Kept: "An account is not suspended any more."
    63 AccountErased "account.erased" [] Kept: "An account and what was kept of its people was erased."
    70 BlockMade "block.made" [Block ? Client Network] Kept: "An operator holds something against a client, an account, a network or addresses."
    71 BlockChanged "block.changed" [Block ? Client Network] Kept: "A block has another degree, reason or end."
    72 BlockLifted "block.lifted" [Block ? Client Network] Kept: "An operator lifted a block."
    73 BlockExpired "block.expired" [Block ? Client Network] Kept: "The time of a block is over. Told within a minute."
    90 WebhookTest "webhook.test" [] Kept: "An operator tries a webhook. Sent to that one only, and never part of the stream."
}

/// A field of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    Client,
    Peer,
    Network,
    Relay,
    Percent,
    Block,
}

impl Subject {
    /// The name of the field.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Peer => "peer",
            Self::Network => "network",
            Self::Relay => "relay",
            Self::Percent => "percent",
            Self::Block => "block",
        }
    }
}

/// A word that names no kind of event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a kind of event: GET /v1/events/kinds names them")]
pub struct ParseEventKindError;

impl FromStr for EventKind {
    type Err = ParseEventKindError;

    fn from_str(text: &str) -> Result<Self, ParseEventKindError> {
        Self::ALL.into_iter().find(|kind| kind.name() == text).ok_or(ParseEventKindError)
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Something happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Event {
    #[n(0)]
    pub id: EventId,
    #[n(1)]
    pub at: UnixMillis,
    #[n(2)]
    pub kind: EventKind,
    #[n(3)]
    pub client: Option<ClientId>,
    #[n(4)]
    pub peer: Option<ClientId>,
    #[n(5)]
    pub network: Option<NetworkId>,
    /// Whose client or network it is about, if it is somebody's; of a pair only that of `client`.
    #[n(6)]
    pub account: Option<AccountId>,
    #[n(7)]
    pub relay: Option<RelayId>,
    #[n(8)]
    pub percent: Option<u8>,
    #[n(9)]
    pub block: Option<BlockId>,
}

impl Event {
    /// An event without subjects. `drawn` is random.
    #[must_use]
    pub fn new(kind: EventKind, at: UnixMillis, drawn: [u8; 10]) -> Self {
        let id = EventId::drawn(at, drawn);
        Self {
            id,
            at,
            kind,
            client: None,
            peer: None,
            network: None,
            account: None,
            relay: None,
            percent: None,
            block: None,
        }
    }

    /// About this client.
    #[must_use]
    pub fn client(self, client: ClientId) -> Self {
        Self { client: Some(client), ..self }
    }

    /// About a pair, whose ids come in order.
    #[must_use]
    pub fn pair(self, a: ClientId, b: ClientId) -> Self {
        Self { client: Some(a.min(b)), peer: Some(a.max(b)), ..self }
    }

    /// About this network.
    #[must_use]
    pub fn network(self, network: NetworkId) -> Self {
        Self { network: Some(network), ..self }
    }

    /// About this account.
    #[must_use]
    pub fn account(self, account: AccountId) -> Self {
        Self { account: Some(account), ..self }
    }

    /// About this relay.
    #[must_use]
    pub fn relay(self, relay: RelayId) -> Self {
        Self { relay: Some(relay), ..self }
    }

    /// So much of it.
    #[must_use]
    pub fn percent(self, percent: u8) -> Self {
        Self { percent: Some(percent), ..self }
    }

    /// About this block, and whom it is on. Addresses are not told.
    #[must_use]
    pub fn block(self, block: BlockId, on: BlockSubject) -> Self {
        let event = Self { block: Some(block), ..self };
        match on {
            BlockSubject::Prefix(_) => event,
            BlockSubject::Client(client) => event.client(client),
            BlockSubject::Account(account) => event.account(account),
            BlockSubject::Network(network) => event.network(network),
        }
    }

    /// Whether it has the fields that its kind says, and no others.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        let there = [
            (Subject::Client, self.client.is_some()),
            (Subject::Peer, self.peer.is_some()),
            (Subject::Network, self.network.is_some()),
            (Subject::Relay, self.relay.is_some()),
            (Subject::Percent, self.percent.is_some()),
            (Subject::Block, self.block.is_some()),
        ];
        let possible = |subject: &Subject| self.kind.possible_subjects().contains(subject);
        there
            .into_iter()
            .all(|(subject, there)| self.kind.subjects().contains(&subject) == there || (there && possible(&subject)))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_kind_has_a_name_of_its_own_and_reads_back() {
        let names: BTreeSet<_> = EventKind::ALL.iter().map(|kind| kind.name()).collect();
        assert_eq!(names.len(), EventKind::ALL.len());
        for kind in EventKind::ALL {
            assert_eq!(kind.name().parse(), Ok(kind));
            assert!(kind.meaning().ends_with('.'), "{kind}");
        }
        assert_eq!("client.*".parse::<EventKind>(), Err(ParseEventKindError));
    }

    #[test]
    fn later_events_have_greater_ids() {
        let at = |ms| Event::new(EventKind::WebhookTest, UnixMillis(ms), [0xff; 10]).id;
        assert!(at(1) < at(2) && at(255) < at(256) && at(1_800_000_000_000) < at(1_800_000_000_001));
        assert_ne!(EventId::drawn(UnixMillis(1), [1; 10]), EventId::drawn(UnixMillis(1), [2; 10]));
    }

    #[test]
    fn an_event_is_whole_with_its_own_fields_only() {
        let (client, other) = (ClientId::from_bytes([2; 16]), ClientId::from_bytes([1; 16]));
        let event = Event::new(EventKind::PairDirect, UnixMillis(1), [0; 10]);
        assert!(!event.is_whole() && !event.client(client).is_whole());
        let pair = event.pair(client, other);
        assert!(pair.is_whole() && pair.client == Some(other));
        assert!(!pair.percent(80).is_whole());
    }

    #[test]
    fn an_event_of_a_block_names_whom_it_is_on_but_no_addresses() {
        let (block, client) = (BlockId::from_bytes([5; 16]), ClientId::from_bytes([2; 16]));
        let event = Event::new(EventKind::BlockMade, UnixMillis(1), [0; 10]);
        assert!(!event.is_whole() && !event.client(client).is_whole());
        let on_client = event.block(block, BlockSubject::Client(client));
        assert!(on_client.is_whole() && on_client.client == Some(client) && on_client.block == Some(block));
        let on_account = event.block(block, BlockSubject::Account(AccountId::from_bytes([3; 16])));
        assert!(on_account.is_whole() && on_account.account.is_some() && on_account.client.is_none());
        let on_addresses = event.block(block, BlockSubject::Prefix("192.0.2.0/24".parse().unwrap()));
        assert!(on_addresses.is_whole() && on_addresses == Event { block: Some(block), ..event });
        assert!(!on_client.percent(80).is_whole());
    }

    #[test]
    fn events_of_an_older_process_are_about_no_block() {
        let event = Event::new(EventKind::WebhookTest, UnixMillis(7), [3; 10]);
        let mut bytes = minicbor::to_vec(event).unwrap();
        assert!(bytes[0] & 0xe0 == 0x80);
        let decoded: Event = minicbor::decode(&bytes).unwrap();
        assert_eq!(decoded, event);
        // Without the tenth field, however many trailing ones were left out before.
        bytes.splice(0..1, [bytes[0].min(0x89)]);
        assert_eq!(minicbor::decode::<Event>(&bytes).unwrap(), event);
    }

    #[test]
    fn events_travel_whole() {
        let event = Event::new(EventKind::QuotaReached, UnixMillis(7), [3; 10]).client(ClientId::from_bytes([1; 16]));
        let bytes = minicbor::to_vec(event.percent(80)).unwrap();
        assert_eq!(minicbor::decode::<Event>(&bytes).unwrap(), event.percent(80));
    }
}
