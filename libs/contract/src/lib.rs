//! What the roles say to one another: one file per role that is spoken to.
//!
//! A call is a type with its subject, deadline, reply and refusal; an event is a type with its topic and delivery. All
//! travel as CBOR (see `domain`). Calls are safe to repeat; events are hints, the database has the truth.

/// Says of a request what its subject, reply and refusal are. It takes five seconds at most, unless it says otherwise.
macro_rules! call {
    ($call:ty, $subject:literal, $reply:ty, $refusal:ty) => {
        call!($call, $subject, $reply, $refusal, std::time::Duration::from_secs(5));
    };
    ($call:ty, $subject:literal, $reply:ty, $refusal:ty, $deadline:expr) => {
        impl bus::Call for $call {
            const SUBJECT: &'static str = $subject;
            const DEADLINE: std::time::Duration = $deadline;
            type Reply = $reply;
            type Refusal = $refusal;
        }
    };
}

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
