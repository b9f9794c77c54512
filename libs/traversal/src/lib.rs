//! How two clients behind two NATs get a direct path, as pure state machines: the server drives, clients carry out.
//!
//! | module | where | decides |
//! |---|---|---|
//! | [`discover`] | client | which questions leave which socket when, at login and right before a punch |
//! | [`classify`] | both | what the answers say about the NAT |
//! | [`schedule`] | server | which pair punches when; queues, leases, budgets, retries, records |
//! | [`plan`] | server | which strategy, and who sends what when |
//! | [`predict`] | both | where the next ports of a NAT are |
//! | [`punch`] | client | the packets of one attempt, and when an endpoint is usable |
//! | [`dial`] | client | the connections of one attempt over TCP |
//! | [`path`] | client | over which route data goes, from the first packet to the end of the tunnel |
//! | [`relay_choice`] | server | which relay carries a pair |
//! | [`sim`] | tests | NAT boxes and whole trials under a virtual clock |
//!
//! Every machine takes `handle_*` and gives `poll_*`; time, randomness and authenticity come from outside: packets are
//! opened with `wire::punch`, observations with `wire::probe`, before they are handed in. Nothing here knows a socket.
//!
//! # What a NAT does (RFC 4787)
//! A NAT gives a flow from inside an external port. Its *mapping* is endpoint-independent when one inner socket has the same
//! port towards everybody; else it depends on the destination's address, or on address and port. Its *filtering* says whose
//! packets it lets in through that port: everybody's, those of addresses that were sent to, or of addresses and ports that
//! were sent to. When ports differ by destination, its *allocation* matters: some count up or down by a fixed step, with
//! the flows of everybody behind them in between; some keep the parity of the inner port; some draw from a block that a
//! carrier gave to the subscriber; some draw from all ports.
//!
//! That amounts to five classes, and they decide what can work:
//!
//! | class | mapping | the peer must |
//! |---|---|---|
//! | easy, open | endpoint-independent, and the filter lets in other ports of a known address | send to the observed port |
//! | easy | endpoint-independent, strict filter: the home router | be sent to first, at exactly its port |
//! | sequential | depends on the destination, ports count | guess the next port |
//! | random | depends on the destination, ports are drawn | find it by chance, or be shown it |
//! | blocked | no UDP | use TCP or the relay |
//!
//! # The way of a pair
//! 1. **Discovery.** Each client asks three reflector endpoints (RFC 8489) from the socket that will carry its tunnels,
//!    R1:p, R1:q, R2:p: equal answers are an endpoint-independent mapping. A fresh socket asks R1:p to be answered from the
//!    other port and the other address (RFC 5780): what comes in shows the filter. Two bursts of eight fresh sockets,
//!    0.4 s apart, show step and rate of a sequential NAT. Beside that: hops, hairpin, IPv6, TCP, and in the background
//!    how long a mapping lives in silence. A class changes when two of the last three results agree.
//! 2. **Relay first.** Data starts on the relay at once; all of this runs beside it.
//! 3. **PREPARE.** The server takes the lease of the pair and tells both to open the sockets that will punch, and to measure
//!    last: what is measured before opening 190 sockets is 100 ms old.
//! 4. **Turn.** Punches behind one sequential NAT would take each other's ports, so its public address is leased; random
//!    sides are leased by client, because a birthday costs sessions. Who waits stays on the relay, and measures again.
//! 5. **GO** names a common start, `T0 = now + max(RTT A, RTT B) / 2 + 20 ms`. Each side is told how long to wait from the
//!    receipt of the order, `T0 - now - RTT / 2`, so no two clocks are compared.
//! 6. **Openers before packets.** At T0 both send packets with a hop limit that passes the NATs of their own side and dies
//!    before the peer's. A Linux router whose INPUT chain accepts takes a packet that arrives too early for one to itself,
//!    and then moves our mapping to another port. The first packets that are meant to arrive leave one gap later, and the
//!    gap exceeds the skew of the two starts: `max(50 ms, 2 * (jitter A + jitter B) + 10 ms)`.
//! 7. **Usable** is what answers three authentic probes within a second. The path moves there when it is not slower than the
//!    relay by more than 10 ms, keeps the relay for 30 s, doubles packets over both when answers stop, and comes back to the
//!    relay after three seconds of that.
//! 8. **The record** says what was tried and why it ended so, in plain words and with the remedy. What failed is tried again,
//!    differently: 97.6 % of the successes of equal tries come with the first one (arXiv 2510.27500).
//!
//! # Strategies
//! - **DIRECT**: both send to what was observed, after openers. Addresses on the LAN and the hairpin join in when both are
//!   seen at one public address, IPv6 and port mappings whenever they exist.
//!   The second attempt of two easy sides leaves from fresh sockets: where an early packet took a port, it has it for 30 s.
//! - **REVEAL**: the open side only opens; the hard side's first packet shows the port that nobody could know.
//! - **PREDICT**: with `dt` seconds between the measurement and T0, step `d` and `lambda` foreign flows a second, the next
//!   port of the sequential side is one of `last + d * i`, `i = 1 .. 8 + 2 * lambda * dt + 4 * sqrt(lambda * dt)`. The easy
//!   side opens and probes all of them, three times. There are 128 at most, 256 at the second attempt. What was measured 60
//!   foreign flows or a second ago is measured again before GO, so that the window can stay small.
//! - **SWEEP**: both are sequential. Each sends from `n` sockets at once to the one port `last + d * k` of the other, so that
//!   its own burst passes over the port that the other one aims at: others' flows since the measurement must be at least
//!   `k - n` and less than `k`. With `m = lambda * dt` of them expected and the spread `s = sqrt(m * (1 + dt / 0.4 s))`, chance
//!   since then and chance while the rate was measured, `n = m + 6 * s + 12` sockets (150 at most) and `k = m + n - 3 * s - 3`
//!   leave three `s` for a NAT that was quieter, and all the rest for one that was busier or a start that was late: a message
//!   that is repeated costs 200 ms and more, and none ever comes early.
//! - **BIRTHDAY**: the random side opens 256 sockets within an eighth of a second (64 in a carrier's block of less than 2,048
//!   ports), the easy side tries 980 ports, two milliseconds apart: they meet in 98 % of all attempts, `1 - (1 - 256 /
//!   64512)^980`, after 175 probes in the median. A block or a parity that is known makes it certain; one burst shows either.
//!   At 470 probes a second 1.87 pairs of ports meet in a second, so half of the attempts take 0.37 s from the first probe,
//!   and 95 % take 1.6 s: no order of the ports can be faster within the budgets. An attempt that failed goes on in the list
//!   of ports a minute later. The same against a sequential NAT whose mapping is the same for all ports of one address.
//! - **Pools.** A random side behind `p` public addresses asks from 16 sockets at once what these are, and the easy side
//!   deals its ports out to them: each attempt meets in `1 - (1 - 256 / (64512 * p))^980`, which is 86 % for two addresses
//!   and 62 % for four; three attempts reach 99.7 % and 95 %. In REVEAL it sends from four sockets, and the open side opens
//!   for every address.
//! - **TCP**: simultaneous open from the port of a connection to a reflector, for a side without UDP. What then runs in it is
//!   TCP in TCP, but so is all that a side without UDP gets through a relay, and that has two such legs; so a direct
//!   connection is judged like any other direct path: taken unless the relay is faster by more than 10 ms.
//! - **RELAY**: random against random, and sequential against random, would need some 65,000 mappings. They get one plain
//!   round, because a class can be wrong, and then rest.
//!
//! # Budgets
//! A carrier's block of 512 ports is used up by four careless attempts, and then *all* UDP of that subscriber fails.
//!
//! | what | at most | who sees to it |
//! |---|---|---|
//! | packets of an attempt | what the order adds up to, and 200 for answers | the punch, which sends no more |
//! | packets of a punch in any second | 470, answers beyond that | the punch: rounds and single packets wait for room |
//! | new flows of a public address in 30 s | 980 of large punches; 44 are left for discovery and plain rounds | the server, over all pairs; a birthday becomes smaller or waits |
//! | punches behind a public address | four a second; large ones as long as their packets take; twenty wait | the server |
//! | birthdays | one a minute of a client, one in 30 s of an easy side's address, three an hour of a pair | leases that nobody gives back |
//!
//! So one address stays below 500 packets a second and 1,024 new flows in half a minute, and the simulation counts both.
//! Flows and pace are known to the process that leads a punch; leases hold over all processes. Records of pairs hold the ladder
//! of retries, so any process continues it.
//!
//! # Assumptions
//! - Reflectors see true source ports, on two addresses; with one the profile is marked unsure, and prediction packets are
//!   added to plain ones.
//! - A reflector's statement is fresh and authentic; the rest of what a client says may be a lie. A peer is told to send
//!   to addresses that a reflector saw, and to private ones only when both are seen at one public address (RFC 8445,
//!   section 19). Both the number of endpoints and that of packets are bounded on the sending side, too.
//! - Leases exclude most of the time. Two leaders of one pair would waste packets and do no harm.
//!
//! # Rejected
//! - ICE (RFC 8445): symmetric agents, no common start, no serialising, and its checks are what makes some NATs move ports.
//! - Clients that retry by themselves: equal tries do not help, and nobody sees the other punches behind the same NAT.
//! - An absolute start by wall clock: clients' clocks are wrong by minutes.
//! - Probing one port after the other to learn a step: on a busy NAT half of the results are wrong.
//! - Skipping the plain round because of a class: classes are wrong often enough.
//! - Keeping the ladder of retries in the server's memory: the record of the pair has it, so any process continues.
//!
//! `tests/matrix.rs` states for every pair of simulated NATs whether it must be direct, and is the specification. Vocabulary
//! of RFC 4787; measurements of RFC 5780 over RFC 8489.

pub mod classify;
pub mod dial;
pub mod discover;
pub mod path;
pub mod plan;
pub mod predict;
pub mod punch;
pub mod relay_choice;
pub mod schedule;
pub mod sim;
