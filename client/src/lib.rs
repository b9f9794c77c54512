//! The reference client: one daemon a user, and the commands that talk to it.
//!
//! `control` keeps the session with the servers, `core` decides what happens to packets and paths, `sockets`, `streams` and
//! `adapter` move bytes, `forwarding` makes a gateway of this machine, `local` takes commands, `home` keeps what must survive a restart, and
//! `backup` takes it to another machine.
//!
//! `buri chat PEER TEXT` says something to a peer, or to everybody in a network, through the tunnels: no server sees it. It is
//! `sent` when it went out and `delivered` when the other daemon has it on its disk; for a peer that is away it is `waiting`, for a
//! week at most. A client that knows of no messages leaves them `sent`. `buri chat` shows the last messages and `--follow` those that
//! come; [`core::chat`] says what is bounded by what. Texts are kept in the home, unsealed, and are no part of a backup.

pub mod adapter;
pub mod backup;
pub mod command;
pub mod control;
pub mod core;
pub mod daemon;
pub mod forwarding;
pub mod home;
pub mod invite;
pub mod local;
pub mod network;
pub mod password;
pub mod portmap;
mod readiness;
pub mod refusal;
pub mod service;
pub mod settings;
pub mod sockets;
pub mod streams;
