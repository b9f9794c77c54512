//! The role with real seams in process: real sockets for the reflectors, a scripted client for every session.
#![expect(clippy::unwrap_used, reason = "tests")]

mod lab;
mod negotiation;
mod reflectors;
mod relays;
