//! What users ask for.

use std::time::Duration;

use domain::ClientId;
use tokio::time::Instant;
use wire::{Code, control::ClientFrame};

use super::{Daemon, requests};
use crate::{
    command::{Answer, Asked, Command, CommandError, ControlState, HeldBack, Peer, Status, Why},
    core::{NoPeer, PeerView, Place},
};

impl Daemon {
    /// Answers a command, or begins what will.
    pub(super) fn handle_command(&mut self, asked: Asked) {
        let at = Instant::now();
        let waits = self.patience.is_none_or(|until| at < until);
        let connecting = !self.core.is_online() && self.standing.0 == ControlState::Connecting;
        if waits && connecting && asked.command.needs_server() && self.early.len() < MAX_EARLY {
            self.patience.get_or_insert(at + super::PATIENCE);
            self.ends.wanted.notify_one();
            self.early.push(asked);
            return;
        }
        let Asked { command, answers } = asked;
        match command {
            Command::Status => drop(answers.try_send(Ok(Answer::Status(Box::new(self.status()))))),
            Command::Peers => drop(answers.try_send(Ok(Answer::Peers(self.peers())))),
            Command::Create { network, password } => {
                if self.needs_server(&answers) {
                    let request = self.requests.create(at, network, &password, answers);
                    self.ask(request);
                }
            }
            Command::Join { network, password } => {
                if self.needs_server(&answers) {
                    let request = self.requests.join(at, network, &password, answers);
                    self.ask(request);
                }
            }
            Command::Leave { network } => match self.core.network_named(&network) {
                Some(id) if self.needs_server(&answers) => {
                    let request = self.requests.leave(at, id, answers);
                    self.ask(Some(request));
                }
                Some(_) => {}
                None => requests::refuse(&answers, wire::Code::NotAMember.into()),
            },
            Command::Nick { nick } => {
                if self.needs_server(&answers) {
                    let request = self.requests.rename(at, nick, answers);
                    self.ask(Some(request));
                }
            }
            Command::SetPass { network, password } => {
                if let Some(network) = self.network_of(&network, &answers) {
                    self.set_pass(
                        at,
                        network,
                        super::renewal::Again { password, tries: super::renewal::TRIES },
                        answers,
                    );
                }
            }
            Command::Govern { network, wish } => self.govern(at, &network, wish, answers),
            Command::Admissions { network } => self.show_admissions(at, &network, answers),
            Command::Invite { network, uses, lifetime_s } => self.invite(at, &network, uses, lifetime_s, answers),
            Command::Redeem { invite } => {
                if self.needs_server(&answers) {
                    let request = self.requests.redeem(at, &invite, answers);
                    self.ask(Some(request));
                }
            }
            Command::Account { wish } => {
                if self.needs_server(&answers) {
                    let request = self.requests.account(at, &wish, answers);
                    self.ask(request);
                }
            }
            Command::Route { network, lead, prefixes } => self.lead(&network, lead, &prefixes, answers),
            Command::RotateKey => self.rotate_key(at, answers),
            Command::Members { network } => self.show_members(&network, &answers),
            Command::Wait { peer, path, timeout_ms } => {
                self.watches.wait(at, peer, path, Duration::from_millis(timeout_ms), answers);
            }
            Command::Ping { peer, count, interval_ms } => {
                if let Some(peer) = self.resolve(&peer, &answers) {
                    self.watches.ping(at, peer, count, Duration::from_millis(interval_ms), answers);
                }
            }
            Command::Chat { to, text, patience_ms } => {
                self.chat(at, &to, text, Duration::from_millis(patience_ms), answers);
            }
            Command::Chats { with, last } => self.show_chats(with.as_deref(), last, &answers),
            Command::FollowChats { with } => self.follow_chats(with.as_deref(), answers),
            Command::Why { peer } => {
                if let Some(peer) = self.resolve(&peer, &answers) {
                    if self.core.is_online() {
                        let request = self.requests.why(at, peer, answers);
                        self.ask(Some(request));
                    } else {
                        self.answer_why(peer, &answers);
                    }
                }
            }
        }
    }

    pub(super) fn ask(&self, request: Option<(u32, wire::control::Request)>) {
        if let Some((number, request)) = request {
            self.say(ClientFrame::Request(number, request));
        }
    }

    /// Answers with the record that is known of a pair.
    pub(super) fn answer_why(&self, peer: ClientId, answers: &requests::Answers) {
        let shown = self.core.peer(peer);
        let place = shown.as_ref().and_then(|peer| match &peer.endpoint {
            Some(Place::Stream(endpoint)) => {
                Some(format!("relayed over TCP {} because UDP is blocked here", endpoint.port()))
            }
            Some(Place::Udp(_)) | None => None,
        });
        let held_back = shown.and_then(|peer| peer.held_back).map(|code| code.text().to_owned());
        let now = place.into_iter().chain(held_back).reduce(|place, reason| format!("{place}; {reason}"));
        match self.core.record(peer) {
            Some(record) => drop(answers.try_send(Ok(Answer::Why(Box::new(Why { record: record.clone(), now }))))),
            None => {
                let now = now.map_or_else(String::new, |now| format!("; {now}"));
                let text = format!("this pair never looked for a direct path{now}");
                requests::refuse(answers, CommandError::new(CommandError::FAILED, text));
            }
        }
    }

    /// Whether there is a session; refuses when not.
    pub(super) fn needs_server(&self, answers: &requests::Answers) -> bool {
        if !self.core.is_online() {
            requests::refuse(answers, self.unreached());
        }
        self.core.is_online()
    }

    /// Why there is no session: what the server said, if it said something.
    fn unreached(&self) -> CommandError {
        let (_, detail, _) = &self.standing;
        let said = detail.as_deref().and_then(|detail| {
            let (word, _) = detail.split_once(':')?;
            wire::Code::ALL.iter().find(|code| code.name() == word)
        });
        match said {
            Some(code) => CommandError::from(*code),
            None => CommandError::new(CommandError::SERVER_UNREACHABLE, "the server is not reached at the moment"),
        }
    }

    pub(super) fn resolve(&self, peer: &str, answers: &requests::Answers) -> Option<ClientId> {
        match self.core.resolve(peer) {
            Ok(peer) => Some(peer),
            Err(error @ NoPeer::Unknown) => {
                requests::refuse(answers, CommandError::new(wire::Code::PeerUnknown.name(), error.to_string()));
                None
            }
            Err(NoPeer::NoSeat) => {
                requests::refuse(answers, wire::Code::NoSeat.into());
                None
            }
            Err(error @ NoPeer::Ambiguous) => {
                requests::refuse(answers, CommandError::new(CommandError::PEER_AMBIGUOUS, error.to_string()));
                None
            }
        }
    }

    fn status(&self) -> Status {
        let addresses = self.core.addresses();
        let control = if self.core.is_online() { ControlState::Connected } else { self.standing.0 };
        Status {
            id: self.own,
            address4: addresses.and_then(|own| own.v4),
            address6: addresses.map(|own| own.v6),
            nick: self.core.nick().cloned(),
            server: self.settings.server.clone(),
            control,
            control_detail: self.standing.1.clone(),
            refusal: self.standing.2.as_deref().cloned().filter(|_| control != ControlState::Connected),
            nat: self.core.nat(),
            networks: self.core.networks().collect(),
            routes: self.routes(),
            awaiting: self.core.awaited().map(|(_, name)| name.clone()).collect(),
            held_back: self.held_back(),
            unread_messages: self.core.chats().filter(|entry| entry.unread).count(),
        }
    }

    fn peers(&self) -> Vec<Peer> {
        let routes = self.routes();
        let of = |peer: &PeerView<'_>| {
            let theirs = routes.iter().filter(|route| route.gateway == peer.member.client);
            theirs.cloned().collect()
        };
        self.core.peers().map(|peer| Peer { routes: of(&peer), ..shown(peer) }).collect()
    }

    fn held_back(&self) -> Vec<HeldBack> {
        let reasons = [Code::RelayCapped, Code::RelayQuota].into_iter().map(|code| HeldBack {
            code: code.name().to_owned(),
            text: code.text().to_owned(),
            peers: self.core.peers().filter(|peer| peer.held_back == Some(code)).count(),
        });
        reasons.filter(|reason| reason.peers > 0).collect()
    }
}

/// One line of `buri peers`.
fn shown(peer: PeerView<'_>) -> Peer {
    Peer {
        id: peer.member.client,
        nick: peer.member.nick.clone(),
        address4: peer.member.addresses.v4,
        address6: peer.member.addresses.v6,
        networks: peer.networks,
        presence: peer.presence,
        path: peer.path,
        endpoint: peer.endpoint.map(|place| place.to_string()),
        relay: peer.relay,
        relay_error: peer.relay_refused.map(|code| code.name().to_owned()),
        held_back: peer.held_back.map(|code| code.name().to_owned()),
        rtt_ms: peer.rtt.map(|rtt| rtt.as_secs_f64() * 1_000.0),
        rx_bytes: peer.received_bytes,
        tx_bytes: peer.sent_bytes,
        routes: Vec::new(),
    }
}

const MAX_EARLY: usize = 32;
