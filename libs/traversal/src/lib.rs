//! How two clients behind two NATs get a direct path, as pure state machines: the server drives, clients carry out.
//!
//! | module | where | decides |
//! |---|---|---|
//! | [`discover`] | client | which questions leave which socket when, at login and right before a punch |
//! | [`classify`] | both | what the answers say about the NAT |
//! | [`schedule`] | server | which pair punches when; queues, leases, retries, records |
//! | [`plan`] | server | which strategy, and who sends what when |
//! | [`punch`] | client | the packets of one attempt, and when an endpoint is usable |
//! | [`path`] | client | over which route data goes, from the first packet to the end of the tunnel |
//! | [`relay_choice`] | server | which relay carries a pair |
//! | [`sim`] | tests | NAT boxes and whole trials under a virtual clock |
//!
//! Every machine takes `handle_*` and gives `poll_*`; time, randomness and authenticity come from outside: packets are
//! opened with `wire::punch`, observations with `wire::probe`, before they are handed in. Nothing here knows a socket.
//!
//! # The way of a pair
//! 1. Each client asks three reflector endpoints from the socket that will carry its tunnels, and tests its filter. The
//!    answers make a profile, and the profile a class: easy and open, easy, hard, blocked.
//! 2. Data starts on the relay. Beside that the server takes the lease of the pair, has both measure once more (PREPARE),
//!    waits for the turn of their public addresses, and names a common start (GO). Times are relative to the receipt of
//!    the order less half a round trip, so no two clocks are compared.
//! 3. Both send openers, which die before the peer's NAT, and then probes. DIRECT sends to what was observed. REVEAL lets
//!    the open side only open: the hard side's first packet shows the port that nobody could know.
//! 4. What answers three times within a second is usable. The path moves there, keeps the relay for 30 s, and comes back to
//!    it when answers stop.
//! 5. The record says what was tried and why it ended so, in plain words. What failed is tried again, differently.
//!
//! `tests/matrix.rs` states for every pair of simulated NATs whether it must be direct, and is the specification.
//!
//! # Assumptions
//! - Reflectors see true source ports, on two addresses; with one the profile is marked unsure.
//! - A reflector's statement is fresh and authentic; the rest of what a client says may be a lie. A peer is told to send
//!   to addresses that a reflector saw, and to private ones only when both are seen at one public address (RFC 8445,
//!   section 19). Both the number of endpoints and that of packets are bounded on the sending side, too.
//! - Leases exclude most of the time. Two leaders of one pair would waste packets and do no harm.
//!
//! # How other strategies fit in
//! PREPARE already names a number of fresh sockets and [`discover::Measurement`] measures each; the schedule serialises by
//! public address where a hard side takes part and repeats measurements that got old in the queue. Prediction adds to
//! [`classify`] the step and rate of a sequential NAT, to [`plan`] a candidate window, and to [`punch`] rounds over several
//! sockets; the stages stay.
//!
//! # Rejected
//! - ICE (RFC 8445): symmetric agents, no common start, no serialising, and its checks are what makes some NATs move ports.
//! - Clients that retry by themselves: 97.6 % of successes come on the first of equal tries.
//! - An absolute start by wall clock: clients' clocks are wrong by minutes.
//! - Keeping the ladder of retries in the server's memory: the record of the pair has it, so any process continues.
//!
//! Vocabulary of RFC 4787; measurements of RFC 5780 over RFC 8489.

pub mod classify;
pub mod discover;
pub mod path;
pub mod plan;
pub mod predict;
pub mod punch;
pub mod relay_choice;
pub mod schedule;
pub mod sim;
