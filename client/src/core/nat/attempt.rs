//! One punch: its sockets, its measurement, and the packets in their envelopes.

use std::{
    collections::{BTreeSet, VecDeque},
    net::SocketAddr,
    time::Instant,
};

use bytes::BytesMut;
use domain::{ClientId, PunchId, PunchReady, Reflected};
use traversal::{
    discover::{Measurement, Socket},
    punch::Punch,
};
use wire::{control::ClientFrame, punch::PunchSeal};

use super::{
    Output, question,
    tcp::{Dialling, connect_to_reflector},
};
use crate::sockets::SocketId;

/// A negotiation from PREPARE on.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) peer: ClientId,
    pub(super) seal: PunchSeal,
    pub(super) measurement: Option<Measurement>,
    pub(super) punch: Punch,
    /// Those that PREPARE asked for, in their order.
    pub(super) sockets: Vec<SocketId>,
    /// Of a punch over TCP.
    pub(super) dialling: Option<Dialling>,
    /// Those that were asked over TCP.
    pub(super) reflectors: BTreeSet<SocketAddr>,
    /// Through which a way was found: they stay open.
    pub(super) found: BTreeSet<SocketId>,
    /// What the measurement will be reported with.
    pub(super) ready: PunchReady,
}

impl Attempt {
    /// Whether it has measured for `punch` and waits for the order: measuring once more disturbs nothing.
    pub(super) fn may_measure_again(&self, punch: PunchId, peer: ClientId) -> bool {
        self.punch.id() == punch && self.peer == peer && self.measurement.is_none() && self.punch.is_waiting()
    }

    /// What it counts among the limits.
    pub(super) fn weight(&self) -> usize {
        self.sockets.len() + if self.dialling.is_some() { usize::from(super::TCP_WEIGHT) } else { 0 }
    }

    /// A datagram of the peer came in at `socket`, presumably.
    pub(super) fn handle_datagram(&mut self, now: Instant, socket: SocketId, from: SocketAddr, datagram: &[u8]) {
        if let Some(name) = self.name(socket)
            && let Ok(packet) = self.seal.open(datagram)
        {
            self.punch.handle_packet(now, name, from, packet);
        }
    }

    /// A reflector answered at `socket`.
    pub(super) fn handle_reflected(&mut self, now: Instant, socket: SocketId, from: SocketAddr, reflected: Reflected) {
        if let Some(name) = self.name(socket)
            && let Some(measurement) = &mut self.measurement
        {
            measurement.handle_answer(now, name, from, reflected);
        }
    }

    /// Does what is due.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        if let Some(measurement) = &mut self.measurement {
            measurement.handle_timeout(now);
        }
        self.punch.handle_timeout(now);
        if let Some(dialling) = &mut self.dialling {
            dialling.dial.handle_timeout(now);
        }
    }

    /// When the next thing is due.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let measurement = self.measurement.as_ref().and_then(Measurement::poll_timeout);
        let dial = self.dialling.as_ref().and_then(|dialling| dialling.dial.poll_timeout());
        [measurement, self.punch.poll_timeout(), dial].into_iter().flatten().min()
    }

    /// Moves what the machines want to the outputs.
    pub(super) fn drain(&mut self, outputs: &mut VecDeque<Output>) {
        if let Some(measurement) = &mut self.measurement {
            while let Some(ask) = measurement.poll_transmit() {
                let socket = id(&self.sockets, self.dialling.as_ref(), ask.socket);
                if socket.is_tcp() {
                    self.reflectors.insert(ask.to);
                    outputs.push_back(connect_to_reflector(socket, ask.to));
                }
                outputs.push_back(question(socket, &ask));
            }
            if let Some(observations) = measurement.poll_event() {
                let ready = PunchReady { observations, ..self.ready.clone() };
                outputs.push_back(Output::Say(ClientFrame::PunchReady(ready)));
                self.measurement = None;
            }
        }
        self.drain_dial(outputs);
        while let Some(transmit) = self.punch.poll_transmit() {
            let datagram = BytesMut::from(&self.seal.seal(&transmit.packet)[..]);
            let socket = id(&self.sockets, self.dialling.as_ref(), transmit.socket);
            outputs.push_back(Output::Send { socket, to: transmit.to, ttl: transmit.ttl, datagram });
        }
    }

    /// What the machines call `socket`; `None` when it has nothing to do with this punch.
    fn name(&self, socket: SocketId) -> Option<Socket> {
        if socket == SocketId::MAIN {
            return Some(Socket::Main);
        }
        if socket.is_tcp() {
            return self.dialling.as_ref().filter(|dialling| dialling.port == socket).map(|_| Socket::Tcp);
        }
        // Opened one after the other.
        let place = self.sockets.binary_search(&socket).ok()?;
        u16::try_from(place).ok().map(Socket::Punching)
    }

    /// The socket that the machines call `name`.
    pub(super) fn id(&self, name: Socket) -> SocketId {
        id(&self.sockets, self.dialling.as_ref(), name)
    }
}

fn id(sockets: &[SocketId], dialling: Option<&Dialling>, name: Socket) -> SocketId {
    match name {
        Socket::Punching(place) => sockets.get(usize::from(place)).copied().unwrap_or(SocketId::MAIN),
        Socket::Tcp => dialling.map_or(SocketId::MAIN, |dialling| dialling.port),
        Socket::Main | Socket::Spare | Socket::Burst(_) | Socket::Lifetime(_) => SocketId::MAIN,
    }
}
