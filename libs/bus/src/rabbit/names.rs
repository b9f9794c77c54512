//! What queues and exchanges are called and how they are made.

use lapin::types::{AMQPValue, FieldTable};

/// Calls that wait for a server. When full the broker rejects the call, and its caller hears that nobody can answer.
const CALLS_WAITING: i64 = 1_000;
/// A call queue that nobody served or declared for this long is gone.
const CALLS_UNUSED_MS: i64 = 600_000;
/// Work that waits for a subscriber. When full the broker rejects it, and the publisher is told.
const WORK_WAITING: i64 = 100_000;
/// Work that was given up, kept for a person to look at. When full the oldest one is dropped.
const PARKED: i64 = 10_000;
/// Events that wait for one subscription to Everyone. When full the oldest one is dropped: they are hints.
const HINTS_WAITING: i64 = 10_000;
/// Events that wait for one addressed subscription. When full the broker rejects it, and the publisher is told.
const ADDRESSED_WAITING: i64 = 10_000;
/// Answers that wait for a caller. When full the oldest one is dropped: its caller has likely given up.
const ANSWERS_WAITING: i64 = 10_000;
/// Failed deliveries after which work is parked by the next failure: four deliveries in all.
const DELIVERY_LIMIT: i64 = crate::served::MAX_DELIVERIES as i64 - 1;

/// The names of one deployment on a broker.
#[derive(Clone, Debug)]
pub(super) struct Names {
    namespace: String,
}

impl Names {
    /// The names of the deployment that `url` mentions.
    pub(super) fn of(url: &str) -> Self {
        let query = url.split_once('?').map_or("", |(_, query)| query);
        let namespace = query.split('&').find_map(|pair| pair.strip_prefix("namespace=")).unwrap_or("buri");
        Self { namespace: namespace.to_owned() }
    }

    /// A direct exchange: topic to every subscription.
    pub(super) fn everyone(&self) -> String {
        format!("{}.everyone", self.namespace)
    }

    /// A direct exchange: topic and instance to one subscription.
    pub(super) fn addressed(&self) -> String {
        format!("{}.addressed", self.namespace)
    }

    pub(super) fn calls(&self, subject: &str) -> String {
        format!("{}.call.{subject}", self.namespace)
    }

    pub(super) fn work(&self, topic: &str) -> String {
        format!("{}.work.{topic}", self.namespace)
    }

    pub(super) fn parked(&self, topic: &str) -> String {
        format!("{}.parked.{topic}", self.namespace)
    }

    /// A queue of one process on one connection. Never the same twice: a broker that has not noticed the end of the last
    /// connection still guards its queues.
    pub(super) fn own(&self, purpose: &str, instance: &str) -> String {
        format!("{}.{purpose}.{instance}.{:016x}", self.namespace, rand::random::<u64>())
    }
}

/// Calls are worthless after a restart of the broker, but their queue stays, so that a caller waits for a server that is
/// about to return.
pub(super) fn call_queue() -> FieldTable {
    table([
        ("x-expires", AMQPValue::LongLongInt(CALLS_UNUSED_MS)),
        ("x-max-length", AMQPValue::LongLongInt(CALLS_WAITING)),
        ("x-overflow", text("reject-publish")),
    ])
}

pub(super) fn work_queue(parked: &str) -> FieldTable {
    table([
        ("x-queue-type", text("quorum")),
        ("x-delivery-limit", AMQPValue::LongLongInt(DELIVERY_LIMIT)),
        ("x-dead-letter-exchange", text("")),
        ("x-dead-letter-routing-key", text(parked)),
        ("x-dead-letter-strategy", text("at-least-once")),
        ("x-max-length", AMQPValue::LongLongInt(WORK_WAITING)),
        ("x-overflow", text("reject-publish")),
    ])
}

pub(super) fn parked_queue() -> FieldTable {
    table([
        ("x-queue-type", text("quorum")),
        ("x-max-length", AMQPValue::LongLongInt(PARKED)),
        ("x-overflow", text("drop-head")),
    ])
}

pub(super) fn everyone_queue() -> FieldTable {
    table([("x-max-length", AMQPValue::LongLongInt(HINTS_WAITING)), ("x-overflow", text("drop-head"))])
}

pub(super) fn addressed_queue() -> FieldTable {
    table([("x-max-length", AMQPValue::LongLongInt(ADDRESSED_WAITING)), ("x-overflow", text("reject-publish"))])
}

pub(super) fn answer_queue() -> FieldTable {
    table([("x-max-length", AMQPValue::LongLongInt(ANSWERS_WAITING)), ("x-overflow", text("drop-head"))])
}

fn table<const N: usize>(entries: [(&str, AMQPValue); N]) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in entries {
        table.insert(name.into(), value);
    }
    table
}

fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(value.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_namespace_comes_from_the_url() {
        let named = Names::of("amqp://guest:guest@localhost/%2f?heartbeat=5&namespace=staging");
        assert_eq!(named.calls("auth.login"), "staging.call.auth.login");
        assert_eq!(Names::of("amqp://localhost").work("a.b"), "buri.work.a.b");
    }
}
