//! The role that holds the control connections of clients.
