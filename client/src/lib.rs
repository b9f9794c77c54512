//! The reference client: one daemon a user, and the commands that talk to it.
//!
//! `control` keeps the session with the servers, `core` decides what happens to packets and paths, `sockets`, `streams` and
//! `adapter` move bytes, `local` takes commands, `home` keeps what must survive a restart.

pub mod adapter;
pub mod command;
pub mod control;
pub mod core;
pub mod daemon;
pub mod home;
pub mod invite;
pub mod local;
pub mod network;
pub mod password;
pub mod portmap;
mod readiness;
pub mod service;
pub mod settings;
pub mod sockets;
pub mod streams;
