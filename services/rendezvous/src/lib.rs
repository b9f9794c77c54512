//! The role that drives NAT traversal and hands out relay tickets.
