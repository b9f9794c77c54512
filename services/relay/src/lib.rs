//! The role that forwards the datagrams of pairs without a direct path.
