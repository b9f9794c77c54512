//! Bytes on the network: control, probe, relay, ticket, frame and code.
//!
//! Everything a client and a server, or two clients, send to each other is encoded and decoded here, and nowhere else.
//! No sockets, no clock: bytes in, values or coded errors out. Every decoder is total: hostile bytes yield an error value,
//! never a panic and never an allocation beyond the size of the input.

mod code;
pub mod control;
pub mod fanout;
pub mod probe;
pub mod punch;
pub mod relay;
pub mod secure;
pub mod server_url;
pub mod stream;
pub mod ticket;
pub mod work;

pub use code::Code;
