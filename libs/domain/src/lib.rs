//! What the words mean: ids, names, keys, addresses, plans and NAT profiles.
//!
//! Everything here is a value. No IO, no async, no clock and no randomness: those come in as arguments elsewhere.
//! Types that travel (between roles, or between client and server) derive one CBOR encoding (RFC 8949, by `minicbor`):
//! numbered fields, so that a field can be added without breaking an older reader, and validation happens while decoding,
//! so that a value that exists is a value that is valid.

mod account;
mod address;
mod bandwidth;
mod block;
mod credential;
mod email;
mod event;
pub mod human_duration;
mod id;
mod invite;
mod key;
mod lineage;
mod member;
mod membership;
mod name;
mod nat;
mod operator;
mod order;
mod pair;
mod password;
mod plan;
mod quota;
mod relay;
mod role;
mod route;
mod seat;
mod secret;
mod stream;

pub use account::{
    AccountAction, AccountClient, AccountExport, AccountInvitation, AccountLimits, AccountMonth, AccountNetwork,
    AccountOrder, AccountPerson, AccountRelayed, AccountSession, AccountView, ClientAccount, MAX_ACCOUNT_MONTHS,
    MAX_ACCOUNT_PEOPLE, may_in_account,
};
pub use address::{AddressPool, PoolError, Scope, SourcePrefix, UlaPrefix, VirtualAddresses, pairs_well, scope};
pub use bandwidth::Bandwidth;
pub use block::{AddressPrefix, Block, BlockNotice, BlockReason, BlockSubject, Degree, PrefixError, ReasonError};
pub use credential::{AttachCode, OneTimeToken, Passphrase, PassphraseError, SecretError, SessionToken, TokenHash};
pub use email::{EmailAddress, EmailError};
pub use event::{Event, EventKind, Keeping, ParseEventKindError, Subject};
pub use id::{
    AccountId, BlockId, ClientId, Epoch, EventId, GatewayId, InstanceId, InviteId, LeaseId, MessageId, NetworkId,
    ParseIdError, PayerId, PersonId, RelayId, Revision, TokenId, UnixMillis, WebhookId,
};
pub use invite::{Invite, InviteToken, MAX_INVITES, NewInvite};
pub use key::{IdentityKey, KeyError, MembershipKey, Signature, TUNNEL_KEY_CONTEXT, TunnelKey};
pub use lineage::{KeyRotation, Lineage, LineageError, MAX_SUCCESSIONS, Succession};
pub use member::{KnownNetwork, Member, NetworkChange, NetworkKind, NetworkTerms, PeerPresence};
pub use membership::{
    MAX_MEMBERSHIP_KEYS, MAX_REMOVALS, MembershipTicket, NoStatement, Removal, Removals, Signed, Statement,
    TICKET_LIFETIME,
};
pub use name::{NameError, NetworkName, Nickname};
pub use nat::{Allocation, Filtering, Mapping, NatClass, NatProfile, Probe, Reflected, TransactionId, Vantage, hops};
pub use operator::{ApiScope, ApiScopes, ParseScopeError};
pub use order::{Admissions, MAX_APPLICANTS, MAX_BANS, NetworkOrder, Outsider};
pub use pair::{
    Candidate, Observation, PairOutcome, PairRecord, PunchId, PunchKind, PunchOrder, PunchPacket, PunchPreparation,
    PunchReady, PunchReport, Reflector, RelayOffer, SessionTag, Spray, Strategy, Via,
};
pub use password::{MAX_PASSWORD_BYTES, PASSWORD_CONTEXT, PasswordSuite};
pub use plan::Plan;
pub use quota::{LEASE_LIFETIME, MOST_PER_REPORT, Month, Quota, RelayGrant, RelayLease, RelayReport};
pub use relay::{
    RelayCandidate, RelayChoice, RelayLoss, RelayPlace, RelayTrip, RelayTrips, RelayTripsError, RelayVerdict, RelayWhy,
};
pub use role::{Action, Role, may};
pub use route::{MAX_NETWORK_ROUTES, MAX_ROUTES, ParsePrefixError, Prefix, Route, RouteError, route_prefixes};
pub use seat::{Claim, SeatsLost, seated};
pub use secret::{
    Holder, MAX_HOLDERS, MAX_SEALS, NewPassword, NewSecret, Seal, SecretEpoch, SecretProof, SecretState, Wanted,
};
pub use stream::{StreamEndpoint, StreamEndpointError};
