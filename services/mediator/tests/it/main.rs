//! The whole product on one machine: the real executables, all roles in one process, clients with the in-memory adapter.
#![expect(clippy::unwrap_used, reason = "tests")]

mod accounts;
mod blocking;
mod browser;
mod chatting;
mod deployment;
mod device;
mod gateways;
mod governing;
mod held_back;
mod journeys;
mod keys;
mod kinds;
mod leaks;
mod membership;
mod needles;
mod operating;
mod operators;
mod quota;
mod refusals;
mod renewal;
mod seams;
mod seats;
mod telling;
mod tools;
