//! What becomes of the measurements: rounds of discovery, the test of a mapping's lifetime, and the report to the server.

use std::{
    collections::VecDeque,
    net::IpAddr,
    time::{Duration, Instant},
};

use domain::{NatProfile, Scope, scope};
use rand::Rng as _;
use traversal::{
    discover::{Discovery, LIFETIME_INTERVAL, Lifetime, Local, Socket},
    punch,
};
use wire::control::{ClientFrame, NatReport};

use super::{Endpoint, Nat, Output, Way, discovering, is_discovery, measuring, question, tcp::Dialling};
use crate::sockets::{Call, SocketId};

impl Nat {
    /// Measures anew: a session began, the network changed, or the last result is old.
    pub(super) fn discover(&mut self, now: Instant, outputs: &mut VecDeque<Output>) {
        if self.session.is_none() {
            return;
        }
        self.ask_reflectors(now, outputs);
        let spread: f64 = self.random.random_range(0.8..1.2);
        self.refresh = Some(now + REFRESH.mul_f64(spread));
        self.mapping.renew(now);
        self.begin_tcp_test(now, outputs);
        self.drain(now, outputs);
    }

    /// Begins a discovery early, unless its flows would come between what a punch has measured and what it makes of that.
    pub(super) fn ask_again(&mut self, now: Instant, outputs: &mut VecDeque<Output>) {
        if self.punches.is_empty() {
            self.ask_reflectors(now, outputs);
            self.drain(now, outputs);
        } else {
            self.again = Some(now + AGAIN);
        }
    }

    /// Begins a discovery.
    pub(super) fn ask_reflectors(&mut self, now: Instant, outputs: &mut VecDeque<Output>) {
        self.again = None;
        let Some(session) = self.session.clone() else { return };
        self.close_measuring(|socket| discovering(socket).is_some_and(is_discovery), outputs);
        let address = self.surroundings.source.map(IpAddr::from);
        let local = Local { port: self.port, address, place: self.surroundings.place };
        let seed = self.random.random();
        self.discovery = Some(Discovery::new(now, session.reflectors, session.tag, local, seed));
    }

    pub(super) fn test_lifetime(&mut self, now: Instant, outputs: &mut VecDeque<Output>) {
        self.end_lifetime_test(outputs);
        let spread: f64 = self.random.random_range(0.8..1.2);
        self.lifetime_due = Some(now + LIFETIME_INTERVAL.mul_f64(spread));
        if let Some(session) = &self.session {
            let seed = self.random.random();
            self.lifetime_test = Some(Lifetime::new(now, session.reflectors, session.tag, seed));
        }
    }

    pub(super) fn seen(&self) -> Option<IpAddr> {
        let over_udp = self.found.as_ref().and_then(|found| found.address);
        over_udp.or(self.connections.map(|connections| connections.seen.ip()))
    }

    /// Moves what the machines want to the outputs.
    pub(super) fn drain(&mut self, now: Instant, outputs: &mut VecDeque<Output>) {
        self.drain_discovery(now, outputs);
        self.drain_lifetime(outputs);
        self.drain_tcp_test(outputs);
        outputs.extend(self.mapping.poll_wish(now).map(Output::MapPort));
        self.report(outputs);
        let mut over = Vec::new();
        for (&number, attempt) in &mut self.punches {
            attempt.drain(outputs);
            while let Some(event) = attempt.punch.poll_event() {
                match event {
                    punch::Event::Usable { socket, endpoint, rtt } => {
                        let socket = attempt.id(socket);
                        if socket.is_punching() {
                            attempt.found.insert(socket);
                        }
                        if let Some(dialling) = attempt.dialling.as_mut().filter(|_| socket.is_tcp()) {
                            dialling.found = Some(endpoint);
                        }
                        let endpoint = Endpoint { socket, address: endpoint };
                        self.ways.push_back(Way { peer: attempt.peer, endpoint, rtt });
                    }
                    punch::Event::Finished(report) => {
                        if let Some(dialling) = &mut attempt.dialling {
                            dialling.dial.handle_finished();
                        }
                        outputs.push_back(Output::Say(ClientFrame::PunchReport(report)));
                    }
                    punch::Event::Over => over.push(number),
                }
            }
        }
        for attempt in over.iter().filter_map(|number| self.punches.remove(number)) {
            self.limits.end(attempt.punch.id());
            let port = attempt.dialling.as_ref().map(|dialling| dialling.port);
            let lost = attempt.sockets.iter().copied().chain(port).filter(|socket| !attempt.found.contains(socket));
            outputs.extend(lost.map(Output::Close));
            if let Some(Dialling { port, found: Some(peer), .. }) = attempt.dialling
                && attempt.found.contains(&port)
            {
                outputs.push_back(Output::Call { port, peer, call: Call::Keep });
            }
            self.kept.extend(attempt.found);
        }
    }

    fn drain_discovery(&mut self, now: Instant, outputs: &mut VecDeque<Output>) {
        let Some(discovery) = &mut self.discovery else { return };
        while let Some(ask) = discovery.poll_transmit() {
            let socket = measuring(ask.socket);
            if socket != SocketId::MAIN && self.measuring.insert(socket) {
                outputs.push_back(Output::Open(socket));
            }
            outputs.push_back(question(socket, &ask));
        }
        let over = discovery.poll_timeout().is_none();
        while let Some(discovered) = self.discovery.as_mut().and_then(Discovery::poll_event) {
            let discovered = discovered.settled_by(&mut self.history);
            let class = discovered.profile.class();
            tracing::info!(class = class.name(), "the NATs in front of this client were measured");
            if discovered.finished {
                self.note_silence(now, &discovered.profile);
            }
            self.found = Some(discovered);
            self.measured = true;
            // Some time after the start, and not while everybody else is at it.
            let soon = self.random.random_range(LIFETIME_FIRST..2 * LIFETIME_FIRST);
            self.lifetime_due.get_or_insert(now + soon);
        }
        if over {
            self.discovery = None;
            self.close_measuring(|socket| discovering(socket).is_some_and(is_discovery), outputs);
        }
    }

    /// A network that has just come up does not carry everything at once: what stayed silent although this machine has an address
    /// for it is asked again soon, a few times.
    fn note_silence(&mut self, now: Instant, profile: &NatProfile) {
        let has_v6 =
            || self.surroundings.addresses.iter().any(|address| address.is_ipv6() && scope(*address) == Scope::Public);
        let asks_v6 = self.session.as_ref().is_some_and(|session| session.reflectors.has_v6());
        let silent = !profile.udp || asks_v6 && !profile.ipv6 && has_v6();
        if silent && self.times_again < TIMES_AGAIN {
            let pause = AGAIN * 4_u32.pow(self.times_again);
            self.times_again += 1;
            self.again = Some(now + pause.mul_f64(self.random.random_range(0.8..1.2)));
        }
    }

    fn drain_lifetime(&mut self, outputs: &mut VecDeque<Output>) {
        let Some(test) = &mut self.lifetime_test else { return };
        while let Some(ask) = test.poll_transmit() {
            let socket = measuring(ask.socket);
            if self.measuring.insert(socket) {
                outputs.push_back(Output::Open(socket));
            }
            outputs.push_back(question(socket, &ask));
        }
        if let Some(seconds) = test.poll_event() {
            self.lifetime = Some(Duration::from_secs(seconds.into()));
        }
        if test.poll_timeout().is_none() {
            self.end_lifetime_test(outputs);
        }
    }

    pub(super) fn end_lifetime_test(&mut self, outputs: &mut VecDeque<Output>) {
        self.lifetime_test = None;
        self.close_measuring(|socket| matches!(discovering(socket), Some(Socket::Lifetime(_))), outputs);
    }

    /// Tells the server what it does not know yet.
    fn report(&mut self, outputs: &mut VecDeque<Output>) {
        let profile = self.profile();
        if profile == self.reported || !self.measured {
            return;
        }
        // Without UDP nothing can begin before it is known what connections do, and that will not take long.
        if self.tcp_test.is_some() && profile.is_some_and(|profile| !profile.udp && !profile.ipv6) {
            return;
        }
        if let (Some(profile), Some(found)) = (profile, &self.found) {
            self.reported = Some(profile);
            let observations = found.observations.clone();
            outputs.push_back(Output::Say(ClientFrame::Nat(NatReport { profile, observations })));
        }
    }
}

/// While nothing changes.
const REFRESH: Duration = Duration::from_secs(30 * 60);

/// From a discovery in which something stayed silent to the next one, at first.
const AGAIN: Duration = Duration::from_secs(2);
const TIMES_AGAIN: u32 = 3;

/// From the first discovery to the first test of the lifetime, at least.
const LIFETIME_FIRST: Duration = Duration::from_secs(60);
