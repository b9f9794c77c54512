//! The encrypted channel between two clients, without sockets.
//!
//! What it decides: which datagrams belong to a peer ([`Local::open`]), what a peer's datagram carries ([`Session`]), which
//! inner packets are accepted from it ([`inner`]), which ones go to every member of a network ([`flood`]), how these are
//! sealed once for many ([`SenderKey`]), and what two clients say to each other inside of the channel ([`Frame`]).
//!
//! The protocol is WireGuard's (Noise IKpsk2), by the Noise core of `gotatun`: its replay window of 8,192 packets covers the
//! reordering of a change of path. A session knows nothing of addresses, so that the same bytes travel
//! directly or through a relay, and a change of path never touches it. Each pair mixes in a [`PairKey`] made of the secret of
//! a network that both are members of: the server, which names the members' public keys, cannot join a tunnel without it.
//!
//! Assumptions: `gotatun` reads the monotonic clock and the wall clock itself (rekeying after 120 s, refusal after 180 s, time
//! stamps of initiations), and takes ephemeral keys from the operating system; everything this crate adds takes `now` as an
//! argument. Retries of initiations are ours, because WireGuard's 5 s are too long for somebody who waits for a path.
//!
//! **Newer secrets.** A network gets a newer secret when its password changes or somebody is removed; each member gets it
//! sealed (`seal.rs`) for itself alone. Pairs move over one by one: a session has the newest key and up to three older ones, tries
//! them all, and forgets the older ones with the first packet under a newer one, so that no tunnel breaks.
//!
//! Both ends may begin at once, and where a relay brings them together they do: each sends under the handshake that it began,
//! and hears under both. The next one only the end with the smaller key begins, unless it has nothing to say.
//!
//! Rejected: packets of the end that answers a handshake before it has heard under the new keys. They would arrive half a round
//! trip sooner, but under keys that nobody may have: whoever repeats an old initiation to a client that has just started has it
//! say them into the void. `boringtun`, whose replay window of 1,024 is less than a change of path reorders; the padding of packets to
//! multiples of 16 bytes, which costs the relay's rate and hides little.

mod echo;
pub mod flood;
mod former;
mod frame;
pub mod inner;
mod keyring;
mod local;
mod message;
mod pair_key;
mod seal;
mod sender_key;
mod session;

pub use echo::{echo_reply, echo_request};
pub use flood::Flood;
pub use frame::{Frame, Route};
pub use inner::InnerPacket;
pub use local::{Claim, Incoming, Local, Opened, is_tunnel_datagram};
pub use message::MessagePart;
pub use pair_key::{NetworkSecret, PairKey};
pub use seal::{Addressee, NumberedSecret, SealError, SealHeader, SealedSecrets, seal};
pub use sender_key::{Handed, HeardKey, KeyId, SenderKey, SenderSecret};
pub use session::{Event, Party, Received, Refusal, Routes, Session};

/// The largest inner packet: the smallest MTU that IPv6 allows, so that it fits everywhere.
pub const INNER_MTU: usize = 1280;

/// What a tunnel adds to an inner packet: header and tag.
pub const OVERHEAD: usize = 32;

/// The largest datagram of a tunnel.
pub const MAX_DATAGRAM: usize = INNER_MTU + OVERHEAD;
