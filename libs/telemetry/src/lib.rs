//! Logs, the metrics registry and the ops endpoint: what every process of every role has.

pub mod incident;
pub mod logs;
pub mod ops;

use prometheus::process_collector::ProcessCollector;

pub use prometheus::Registry;

/// A registry with the figures of this process (memory, CPU, descriptors).
///
/// # Panics
/// Never: the registry is new.
#[must_use]
pub fn registry() -> Registry {
    let registry = Registry::new();
    registry.register(Box::new(ProcessCollector::for_self())).expect("the registry is new");
    registry
}
