//! The role with scripted clients over real sockets, on an in-process bus whose other roles are scripted, too.
#![expect(clippy::unwrap_used, reason = "tests")]

mod client;
mod ending;
mod lab;
mod limits;
mod login;
mod paths;
mod requests;
mod rotation;
mod silence;
mod working;
