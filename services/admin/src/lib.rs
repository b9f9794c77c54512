//! The role that serves the HTTP API for operators.
