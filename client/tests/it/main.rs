//! Daemons with memory adapters and real sockets, and a server that says what it is told to.
#![expect(clippy::unwrap_used, reason = "tests")]

mod control;
mod daemon;
mod portmap;
mod server;
