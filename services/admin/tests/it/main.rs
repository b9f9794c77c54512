//! The API over real HTTP, on an in-process bus and a database of its own.
#![expect(clippy::unwrap_used, reason = "tests")]

mod audit;
mod blocks;
mod canaries;
mod clients;
mod events;
mod lab;
mod matrix;
mod networks;
mod openapi;
mod plans;
mod protocol;
mod receiver;
mod repeats;
mod resources;
mod sessions;
mod tenants;
mod tokens;
mod webhooks;
mod whole;
