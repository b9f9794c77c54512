//! TCP: how connections are mapped, and punches that are made of connections.
//!
//! A connection is as little to be trusted as an address: what comes over one is looked at as a punch packet until the peer
//! has proved itself there, and anything else ends it. Afterwards it carries what a socket carries, until it is closed.

use std::{collections::VecDeque, net::SocketAddr, time::Instant};

use rand::Rng as _;
use traversal::{
    dial::{Dial, Step, Welcome},
    discover::{Socket, TcpTest},
};

use super::{Attempt, Nat, Output, asked, question};
use crate::sockets::{Call, SocketId, Speech};

/// The connections of one punch.
#[derive(Debug)]
pub(super) struct Dialling {
    /// From which they are made.
    pub(super) port: SocketId,
    pub(super) dial: Dial,
    /// Through which the peer is reached.
    pub(super) found: Option<SocketAddr>,
}

impl Nat {
    /// A connection of a TCP port came about.
    pub(crate) fn handle_connected(
        &mut self,
        now: Instant,
        port: SocketId,
        peer: SocketAddr,
        outputs: &mut VecDeque<Output>,
    ) {
        if let Some(attempt) = self.attempt_at(port) {
            attempt.handle_connected(now, peer);
        }
        self.drain(now, outputs);
    }

    /// A connection ended, or did not come about.
    pub(crate) fn handle_disconnected(
        &mut self,
        now: Instant,
        port: SocketId,
        peer: SocketAddr,
        outputs: &mut VecDeque<Output>,
    ) {
        if let Some(attempt) = self.attempt_at(port) {
            attempt.handle_disconnected(now, peer);
        } else if let Some(test) = self.tcp_test.as_mut().filter(|_| port == SocketId::TCP_TEST) {
            test.handle_unreachable(peer);
        }
        self.drain(now, outputs);
    }

    /// Something came over a connection. Whether it is to be taken as if it came over a socket.
    pub(crate) fn takes(&mut self, now: Instant, port: SocketId, peer: SocketAddr, datagram: &[u8]) -> bool {
        if port == SocketId::TCP_TEST || self.kept.contains(&port) {
            return true;
        }
        self.attempt_at(port).is_some_and(|attempt| attempt.takes(now, peer, datagram))
    }

    /// Asks reflectors over TCP, from the beginning.
    pub(super) fn begin_tcp_test(&mut self, now: Instant, outputs: &mut VecDeque<Output>) {
        let Some(session) = self.session.clone() else { return };
        let seed = self.random.random();
        if self.tcp_test.is_some() {
            outputs.push_back(Output::Close(SocketId::TCP_TEST));
        }
        self.tcp_test = Some(TcpTest::new(now, session.reflectors, session.tag, seed));
        outputs.push_back(Output::Open(SocketId::TCP_TEST));
    }

    pub(super) fn drain_tcp_test(&mut self, outputs: &mut VecDeque<Output>) {
        let Some(test) = &mut self.tcp_test else { return };
        while let Some(ask) = test.poll_transmit() {
            outputs.push_back(connect_to_reflector(SocketId::TCP_TEST, ask.to));
            outputs.push_back(question(SocketId::TCP_TEST, &ask));
        }
        if test.poll_timeout().is_none() {
            // What could not be asked today says nothing about what was found yesterday in the same network.
            self.connections = test.poll_event().or(self.connections);
            self.tcp_test = None;
            outputs.push_back(Output::Close(SocketId::TCP_TEST));
        }
    }

    /// PREPARE once more, over the connections that there are.
    pub(super) fn measure_tcp_again(&mut self, now: Instant, number: u64, outputs: &mut VecDeque<Output>) {
        let measurement = self.measurement_over_tcp(now);
        if let Some(attempt) = self.punches.get_mut(&number) {
            attempt.measurement = measurement;
        }
        self.drain(now, outputs);
    }

    /// A TCP port that no other punch has.
    pub(super) fn tcp_port(&mut self) -> SocketId {
        loop {
            let port = self.next_port;
            self.next_port = port.0.checked_add(1).map_or(SocketId::FIRST_TCP, SocketId);
            let used = |attempt: &Attempt| attempt.dialling.as_ref().is_some_and(|dialling| dialling.port == port);
            if !self.punches.values().any(used) && !self.kept.contains(&port) {
                return port;
            }
        }
    }

    fn attempt_at(&mut self, port: SocketId) -> Option<&mut Attempt> {
        let at = |attempt: &&mut Attempt| attempt.dialling.as_ref().is_some_and(|dialling| dialling.port == port);
        self.punches.values_mut().find(at)
    }
}

impl Attempt {
    fn handle_connected(&mut self, now: Instant, peer: SocketAddr) {
        let Some(dialling) = self.dialling.as_mut().filter(|_| !self.reflectors.contains(&peer)) else { return };
        if dialling.dial.handle_established(now, peer) == Welcome::Greeted {
            self.punch.handle_connected(now, Socket::Tcp, peer);
        }
    }

    fn handle_disconnected(&mut self, now: Instant, peer: SocketAddr) {
        if self.reflectors.contains(&peer) {
            if let Some(measurement) = &mut self.measurement {
                measurement.handle_unreachable(now, peer);
            }
        } else if let Some(dialling) = &mut self.dialling {
            dialling.dial.handle_lost(now, peer);
        }
    }

    /// Whether the peer has proved itself on this connection, with this very datagram perhaps.
    fn takes(&mut self, now: Instant, peer: SocketAddr, datagram: &[u8]) -> bool {
        if self.reflectors.contains(&peer) {
            return wire::probe::is_stun(datagram) && asked(datagram).is_none();
        }
        let Some(dialling) = &mut self.dialling else { return false };
        if dialling.dial.is_proven(peer) {
            return true;
        }
        let opened = self.seal.open(datagram);
        if opened.is_ok_and(|packet| packet.number == self.punch.id().number) {
            dialling.dial.handle_proven(peer);
            return true;
        }
        tracing::debug!("somebody else than the peer has connected");
        dialling.dial.handle_forged(now, peer);
        false
    }

    /// Moves what the connections want to the outputs.
    pub(super) fn drain_dial(&mut self, outputs: &mut VecDeque<Output>) {
        let Some(Dialling { port, dial, .. }) = &mut self.dialling else { return };
        while let Some(step) = dial.poll_step() {
            let (peer, call) = match step {
                Step::Connect { to, ttl } => {
                    self.punch.handle_dialled();
                    (to, Call::Connect { ttl, speech: Speech::Frames })
                }
                Step::Close(peer) => (peer, Call::Disconnect),
            };
            outputs.push_back(Output::Call { port: *port, peer, call });
        }
    }
}

/// A question over TCP needs a connection before; both go out together.
pub(super) const fn connect_to_reflector(port: SocketId, peer: SocketAddr) -> Output {
    Output::Call { port, peer, call: Call::Connect { ttl: None, speech: Speech::Stun } }
}
