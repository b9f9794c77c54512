//! What presence promises, tried on both back-ends, and what only one of them can show.

#![expect(clippy::unwrap_used, reason = "tests")]

mod faults;
mod gaps;
mod hostile;
mod likeness;
mod site;
mod suite;
