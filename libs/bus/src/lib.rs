//! The bus between roles: calls with deadlines and events, in process or over RabbitMQ.
//!
//! What it promises, on both back-ends:
//! - A call is served at most once, by one of the processes that serve its subject, and never after its deadline. While
//!   the broker is away calls fail at once: callers are on a client's login path and have their own answer to that.
//! - Work is handled at least once. It waits in a durable, replicated queue, is delivered again when its handler fails or
//!   its process dies, and is parked after four deliveries.
//! - Other events are hints: they may be lost, come twice or out of order. The database has the truth, and
//!   [`Bus::recovered`] says when to ask it.
//! - Everything is bounded: message size, queues, handlers at a time, calls and confirms in flight. Each bound says what
//!   happens when it is reached.
//!
//! The in-process back-end is as strict as the broker (it encodes every message) and can lose, repeat, delay and reorder
//! with a seed, or be away for a while: see [`memory::Hub`].
//!
//! Over RabbitMQ a supervisor of our own makes a new connection after each failure and everything on it anew: queues,
//! bindings, consumers, prefetch, confirms. The recovery of the client crate was not taken: it replays what it believes was
//! there, while ours has one path for the first connection and all later ones, and can say when the bus is whole again.

mod bus;
mod envelope;
mod error;
pub mod memory;
mod message;
pub mod metrics;
pub mod rabbit;
mod served;
mod trace;

pub use bus::{Bus, PUBLISH_DEADLINE};
pub use envelope::MAX_MESSAGE_BYTES;
pub use error::{CallError, Error};
pub use message::{Call, Delivery, Event};
pub use metrics::Metrics;
pub use served::Served;
pub use trace::{ParseTraceError, Trace};
