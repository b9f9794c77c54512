//! What came of the control session, of requests, and of work in the background.

use tokio::time::Instant;
use wire::control::{ClientFrame, ServerFrame};

use super::{ControlEvent, Daemon, Work, now, requests};
use crate::command::{Answer, CommandError, ControlState};

impl Daemon {
    pub(super) fn handle_event(&mut self, event: ControlEvent) {
        let now = now();
        match event {
            ControlEvent::Connected(welcome) => {
                self.standing = (ControlState::Connecting, None, None);
                self.core.handle_connected(now, &welcome);
                self.go_on_rotating();
                self.serve_early();
            }
            ControlEvent::Frame(ServerFrame::Reply(number, reply)) => {
                let outcome = self.requests.handle_reply(Instant::now(), number, reply);
                self.handle_outcome(outcome);
            }
            ControlEvent::Frame(ServerFrame::Refusal(number, refused)) => {
                if let Some(refused) = self.requests.handle_refusal(number, refused) {
                    self.secret_refused(refused);
                }
            }
            ControlEvent::Frame(frame) => self.core.handle_frame(now, frame),
            ControlEvent::KeysTaken => {
                let waiting = self.requests.take_rotations();
                self.key_rotated(waiting);
            }
            ControlEvent::Lost => {
                self.core.handle_disconnected(now);
                self.requests.handle_lost();
            }
            ControlEvent::Standing(state, detail, refusal) => {
                let offline = state == ControlState::Offline;
                self.standing = (state, detail, refusal);
                if offline {
                    self.serve_early();
                }
            }
        }
    }

    pub(super) fn handle_outcome(&mut self, outcome: requests::Outcome) {
        match outcome {
            requests::Outcome::Nothing => {}
            requests::Outcome::Hash(hash) => {
                self.work.spawn_blocking(move || Work::Hashed(Box::new(hash.run())));
            }
            requests::Outcome::Joined { joined, secret, answers } => {
                self.core.handle_joined(now(), &joined, tunnel::NetworkSecret::from_bytes(*secret.as_bytes()));
                let newest = self.core.newest_epoch(joined.network);
                let lacking = (newest > Some(joined.door)).then_some(wire::Code::SecretLacking);
                let joined = crate::command::JoinedNetwork {
                    network: joined.name.clone(),
                    id: joined.network,
                    address4: joined.addresses.v4,
                    address6: joined.addresses.v6,
                    warning: joined.warning.or(lacking).map(|code| code.name().to_owned()),
                };
                // A membership without its secret is worthless: it is on disk before the user is told.
                self.promised.push((answers, Ok(Answer::Joined(joined))));
                self.saving = Some(Box::new(self.core.saved()));
            }
            requests::Outcome::Awaiting { network, name, key, answers } => {
                self.core.handle_awaiting(network, name, &key);
                // Without the key an approval is worthless: it is on disk before the user is told.
                self.promised.push((answers, Err(wire::Code::AwaitingApproval.into())));
                self.saving = Some(Box::new(self.core.saved()));
            }
            requests::Outcome::Keys { network, door, sealed } => {
                self.core.handle_keys(now(), network, door, &sealed);
            }
            requests::Outcome::Say(number, request) => self.say(ClientFrame::Request(number, request)),
            requests::Outcome::Seal(making) => self.seal_secret(*making),
            requests::Outcome::Handed(made) => self.hand_on(made),
            requests::Outcome::Sealed { network, seal } => self.core.handle_sealed(now(), network, seal.as_deref()),
            requests::Outcome::Membership { ticket, removals } => {
                self.core.handle_membership(now(), &ticket, &removals);
            }
            requests::Outcome::Proved { network, epoch } => self.core.handle_proved(network, epoch),
            requests::Outcome::Outsiders { network, wish, lists, answers } => {
                self.govern_outsider(network, wish, &lists, answers);
            }
            requests::Outcome::KeyRotated { answers } => self.key_rotated(vec![answers]),
            requests::Outcome::Left { network, answers } => {
                self.core.handle_left(now(), network);
                drop(answers.try_send(Ok(Answer::DONE)));
            }
            requests::Outcome::Renamed { nick, answers } => {
                self.core.handle_nick(nick);
                drop(answers.try_send(Ok(Answer::DONE)));
            }
            requests::Outcome::Record { peer, record, answers } => {
                if let Some(record) = record {
                    self.core.handle_record(*record);
                }
                self.answer_why(peer, &answers);
            }
        }
    }

    pub(super) fn handle_work(&mut self, done: Result<Work, tokio::task::JoinError>) {
        let other = matches!(done, Ok(Work::Hashed(_) | Work::Sealed(_) | Work::ChatsKept(_) | Work::Forwarded(_)));
        self.is_saving &= other;
        match done {
            Ok(Work::Hashed(hashed)) => {
                if let Some((number, request)) = self.requests.handle_hashed(Instant::now(), *hashed) {
                    self.say(ClientFrame::Request(number, request));
                }
            }
            Ok(Work::Forwarded(made)) => self.handle_forwarded(made),
            Ok(Work::Sealed(Ok(made))) => self.hand_on(made),
            Ok(Work::Sealed(Err((answers, error)))) => {
                requests::refuse(&answers, CommandError::new(CommandError::FAILED, error.to_string()));
            }
            Ok(Work::Saved(Ok(()), promised)) => {
                for (answers, answer) in promised {
                    drop(answers.try_send(answer));
                }
            }
            Ok(Work::Saved(Err(error), promised)) => {
                tracing::error!(%error, "what is known could not be kept");
                for (answers, _) in promised {
                    requests::refuse(&answers, CommandError::new(CommandError::FAILED, error.to_string()));
                }
            }
            Ok(Work::ChatsKept(kept)) => self.chats_kept(kept),
            Err(error) => tracing::error!(%error, "work in the background failed"),
        }
    }
}
