//! What the roles say to one another: one file per role that is spoken to.
//!
//! A call is a type with its subject, deadline, reply and refusal; an event is a type with its topic and delivery. All
//! travel as CBOR (see `domain`). Calls are safe to repeat; events are hints, the database has the truth.

pub mod account;
pub mod admin;
pub mod auth;
pub mod gateway;
pub mod membership;
pub mod network;
pub mod relay;
pub mod rendezvous;
pub mod session;
pub mod token;
