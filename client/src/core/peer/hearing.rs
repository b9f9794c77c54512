//! What the peer says within the tunnel.

use std::{net::SocketAddr, time::Duration};

use domain::{PeerPresence, Scope, scope};
use tunnel::Frame;

use super::{Origin, Output, Peer, Turn};
use crate::settings::PathPolicy;

impl Peer {
    pub(super) fn handle_frame(&mut self, turn: &mut Turn<'_>, origin: Origin, frame: Frame) {
        let came = origin.route();
        match frame {
            Frame::Probe { route, number, sent_us } => {
                let answer = Frame::Answer { route, number, sent_us };
                if route == came
                    && let Some(datagram) = self.session.handle_frame(&answer)
                {
                    self.send_back(turn, origin, datagram);
                }
            }
            Frame::Answer { route, number, sent_us } => {
                if self.relaying.tries(number) {
                    return self.take_next(turn);
                }
                let elapsed = turn.now.saturating_duration_since(turn.start);
                if let Some(place) = self.pings.iter().position(|ping| *ping == number)
                    && let Some(rtt) = elapsed.checked_sub(Duration::from_micros(sent_us))
                {
                    self.pings.remove(place);
                    turn.outputs.push_back(Output::Pong { peer: self.id, number, rtt, route });
                } else if route == came {
                    self.path.handle_answer(turn.now, origin.path(), number);
                    self.drain_path(turn);
                }
            }
            Frame::Hints(hints) => {
                self.path.handle_moved(turn.now, origin.path());
                let hints = credible(turn.own_hints, &hints);
                self.hints = self.path.proven().chain(hints).take(Frame::MAX_HINTS).collect();
                if self.doubt.is_some() && turn.policy != PathPolicy::Relay {
                    for hint in &self.hints {
                        self.path.handle_hint(turn.now, *hint);
                    }
                }
                self.drain_path(turn);
                *turn.changed = true;
            }
            Frame::Key(handed) => self.handle_key(turn, origin, &handed),
            Frame::KeyTaken(id) => self.handle_key_taken(id),
            frame @ (Frame::Standing { .. } | Frame::Removals(_) | Frame::Message(_) | Frame::MessageTaken(_)) => {
                self.keep_rumour(frame);
            }
            Frame::Farewell => {
                self.presence = PeerPresence::Offline;
                self.forget_ways(turn);
            }
        }
    }

    /// Something authentic came from the peer.
    pub(super) fn hear(&mut self, turn: &mut Turn<'_>, origin: Origin) {
        if let Origin::Direct(endpoint) = origin {
            self.remember(endpoint);
        }
        self.path.handle_received(turn.now, origin.path());
        // Said goodbye to the server, or was given up: it is back, and no server can tell.
        if !turn.online {
            self.presence = PeerPresence::Online;
        }
        if let Some(doubt) = &mut self.doubt {
            doubt.dead = false;
        }
        self.drain_path(turn);
    }
}

/// Of the addresses that a peer claims for itself, those that may be asked whether it is there: a member must not make others
/// scan their own networks. A private address is for those who show the same public one, or none.
fn credible(own: &[SocketAddr], claimed: &[SocketAddr]) -> Vec<SocketAddr> {
    let is = |wanted: Scope| move |at: &&SocketAddr| scope(at.ip()) == wanted;
    let mut public = own.iter().filter(is(Scope::Public)).map(SocketAddr::ip).peekable();
    let near = public.peek().is_none() || public.any(|own| claimed.iter().any(|hint| hint.ip() == own));
    let alone = own.iter().any(|own| scope(own.ip()) == Scope::Loopback);
    let may = |hint: &&SocketAddr| match scope(hint.ip()) {
        Scope::Public => true,
        Scope::Private => near,
        Scope::Loopback => alone,
        Scope::LinkLocal | Scope::Unusable => false,
    };
    claimed.iter().filter(may).filter(|hint| hint.port() >= LEAST_PORT).copied().collect()
}

/// Below are the ports of services of the system, which no client uses.
const LEAST_PORT: u16 = 1024;
