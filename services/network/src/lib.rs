//! The role that owns networks, members, addresses and announcements.
