//! The encrypted channel between two clients, without sockets.
