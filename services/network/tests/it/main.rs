//! The role on the in-process bus and presence, SQLite, and a client that speaks the real password protocol.
#![expect(clippy::unwrap_used, reason = "tests")]

mod announcing;
mod asking;
mod gateways;
mod governing;
mod joining;
mod kinds;
mod lab;
mod membership;
mod seats;
