//! The API over real HTTP, on an in-process bus and a database of its own.
#![expect(clippy::unwrap_used, reason = "tests")]

mod audit;
mod canaries;
mod clients;
mod lab;
mod matrix;
mod networks;
mod openapi;
mod plans;
mod protocol;
mod repeats;
mod resources;
mod sessions;
mod tokens;
mod whole;
