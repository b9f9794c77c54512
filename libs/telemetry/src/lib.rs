//! Logs, the metrics registry and the ops endpoint.
