//! The role on the in-process bus and presence, SQLite, and a client that speaks the real password protocol.
#![expect(clippy::unwrap_used, reason = "tests")]

mod announcing;
mod asking;
mod governing;
mod joining;
mod lab;
