//! What can travel: a call is a type with its subject, an event is a type with its topic.

use std::{fmt::Debug, time::Duration};

use minicbor::{Decode, Encode};

/// A question to whoever serves its subject. At most once: a call that failed may or may not have been served, so that
/// every call is safe to repeat.
pub trait Call: Encode<()> + for<'b> Decode<'b, ()> + Send + Sync + 'static {
    /// Who is asked, and what: `role.verb`.
    const SUBJECT: &'static str;
    /// How long the caller waits. Nobody serves the call afterwards.
    const DEADLINE: Duration;
    /// What the server answers.
    type Reply: Encode<()> + for<'b> Decode<'b, ()> + Send + Sync + 'static;
    /// Why the server does not answer.
    type Refusal: Encode<()> + for<'b> Decode<'b, ()> + Debug + Send + Sync + 'static;
}

/// Something that happened, told to whoever it concerns.
pub trait Event: Encode<()> + for<'b> Decode<'b, ()> + Send + Sync + 'static {
    /// What it is about: `role.subject`.
    const TOPIC: &'static str;
    /// Whom it concerns.
    const DELIVERY: Delivery;
}

/// Whom an event concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// One of the subscribed processes, at least once. Waits in a durable queue while there is none.
    Work,
    /// Every process that is subscribed now. A hint: it may be lost or come twice.
    Everyone,
    /// The one process that is named when the event is published. A hint too, but one that is returned when that process
    /// is not there.
    Addressed,
}
