//! What the bus promises, tried on both back-ends, and what only one of them can show.

#![expect(clippy::unwrap_used, reason = "tests")]

mod faults;
mod gap;
mod metrics;
mod site;
mod suite;
