//! Pure NAT traversal: discover, classify, plan, schedule, punch, path and relay choice.

pub mod classify;
pub mod discover;
pub mod path;
pub mod punch;
pub mod sim;
