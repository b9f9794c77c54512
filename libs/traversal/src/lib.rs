//! Pure NAT traversal: discover, classify, plan, schedule, punch, path and relay choice.

pub mod classify;
pub mod discover;
pub mod path;
pub mod plan;
pub mod punch;
pub mod relay_choice;
pub mod schedule;
pub mod sim;
