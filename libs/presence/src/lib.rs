//! Who is online, where and since when, and short leases; in process or in Redis.
//!
//! Presence is a cache of what the gateways know, never the source of authority: it may be emptied at any moment, and is
//! whole again as soon as every gateway has renewed its sessions once. What it promises, on both back-ends:
//! - **One seat a client.** A session has an epoch, and a later one of the same client has the greater epoch. Words about
//!   sessions may come late, twice or never: [`Standing`] is the rule that still gives the right seat, and `tests/model.rs`
//!   tries it against every order.
//! - **A seat lasts until it is swept.** One that was not renewed in time is taken by exactly one [`Presence::sweep`], so
//!   that losing a seat and announcing that go together. When nobody swept for a while (presence was frozen, or all
//!   sweepers were away), the gateways get [`RESPITE`] to renew before anybody is called lost.
//! - **Leases** exclude others until they are released or run out. They save work; they do not protect data.
//! - Every call ends within [`DEADLINE`]. One that timed out may have been carried out, and all but a sweep are safe to repeat.
//! - Time is counted by the back-end: wall clocks of gateways are for people, and one that is wrong does no harm.
//!
//! Rejected: keys that Redis expires by itself (their loss is not announced, and comes late), one sorted set per gateway
//! (a crashed one leaves its set behind), locks of several Redis servers (no data depends on a lease).

mod error;
mod limits;
pub mod memory;
mod presence;
mod record;
pub mod redis;
mod seat;
mod standing;

pub use error::Error;
pub use limits::{DEADLINE, RESPITE};
pub use presence::Presence;
pub use seat::{Held, Lost, Page, Renewal, Seat, Up};
pub use standing::Standing;
