//! Pure NAT traversal: discover, classify, plan, schedule, punch, path and relay choice.
