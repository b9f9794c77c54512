//! Making a newer secret of a network, and handing the newest out: what is sealed for whom, and in which order.

use std::collections::BTreeMap;

use domain::{
    ClientId, Holder, MAX_SEALS, NetworkId, NewPassword, NewSecret, Seal, SecretEpoch, SecretState, Signature,
    TunnelKey,
};
use ring::rand::{SecureRandom as _, SystemRandom};
use tokio::time::Instant;
use tunnel::{Addressee, NumberedSecret, SealedSecrets};
use wire::control::Request;

use super::{
    Daemon, Work, now,
    requests::{self, Answers},
};
use crate::{
    command::{Answer, CommandError, Rekeyed},
    core::{Materials, Task},
    password::{ExportKey, NetworkSecret, Password, PasswordError},
};

/// What is being made, by whom it was asked for, and what is known for it so far.
#[derive(Debug)]
pub(super) struct Making {
    pub(super) network: NetworkId,
    pub(super) task: Task,
    pub(super) password: Option<Record>,
    /// To begin anew with, when somebody else was faster.
    pub(super) again: Option<Again>,
    pub(super) holders: Vec<Holder>,
    pub(super) answers: Answers,
}

/// The record of a new password. It answers for the secret of this epoch only.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) epoch: SecretEpoch,
    pub(super) bytes: Vec<u8>,
    /// What the secret is sealed under.
    pub(super) key: ExportKey,
}

impl Making {
    /// Whether somebody made a secret since the record of the new password was.
    fn is_passed(&self, state: &SecretState) -> bool {
        self.password.as_ref().is_some_and(|record| record.epoch != state.epoch.next())
    }
}

/// A change of the password that may have to begin anew.
#[derive(Clone, Debug)]
pub(super) struct Again {
    pub(super) password: Password,
    pub(super) tries: u8,
}

/// What was made, as far as it is not with the server yet.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) network: NetworkId,
    pub(super) task: Task,
    pub(super) again: Option<Again>,
    pub(super) answers: Answers,
    secrets: SealedSecrets,
    new: Option<NewSecret>,
    /// Of those who rule first, so that others can go on if this client ends.
    seals: Vec<Seal>,
    sealed: usize,
    left_out: Vec<ClientId>,
}

impl Made {
    /// The next thing to tell the server.
    pub(super) fn next(&mut self) -> Option<Request> {
        let rest = self.seals.split_off(self.seals.len().min(MAX_SEALS));
        let page = std::mem::replace(&mut self.seals, rest);
        match self.new.take() {
            Some(new) => Some(Request::RenewSecret(self.network, Box::new(NewSecret { seals: page, ..new }))),
            None if page.is_empty() => None,
            None => Some(Request::HandSecret(self.network, self.secrets.newest.epoch, page)),
        }
    }
}

/// Makes what is wanted. Costs a key agreement and a signature for each member.
fn make(
    materials: &Materials,
    making: Making,
    sign: impl Fn(&[u8]) -> Signature,
) -> Result<Made, (Answers, PasswordError)> {
    let Making { network, task, password, again, holders, answers } = making;
    match sealed(materials, task, password, &holders, sign) {
        Ok((secrets, new, seals, left_out)) => {
            let sealed = seals.len();
            Ok(Made { network, task, again, answers, secrets, new, seals, sealed, left_out })
        }
        Err(error) => Err((answers, error)),
    }
}

type Sealed = (SealedSecrets, Option<NewSecret>, Vec<Seal>, Vec<ClientId>);

fn sealed(
    materials: &Materials,
    task: Task,
    password: Option<Record>,
    holders: &[Holder],
    sign: impl Fn(&[u8]) -> Signature,
) -> Result<Sealed, PasswordError> {
    let Materials { network, own, own_tunnel, secrets: known, state, revision, members } = materials;
    let (secrets, new) = match task {
        Task::Hand => (SealedSecrets { newest: known.newest().clone(), door: known.door().clone() }, None),
        Task::Renew => {
            let (epoch, secret) = (state.epoch.next(), NetworkSecret::random()?);
            let inner = tunnel::NetworkSecret::from_bytes(*secret.as_bytes());
            let newest = NumberedSecret { epoch, secret: inner };
            let door = if password.is_some() { newest.clone() } else { known.door().clone() };
            let password = match password {
                Some(record) => Some(NewPassword { wrapped_secret: secret.seal(&record.key)?, record: record.bytes }),
                None => None,
            };
            let new = NewSecret { epoch, seen: *revision, password, seals: Vec::new() };
            (SealedSecrets { newest, door }, Some(new))
        }
    };
    // Whoever proves nothing that the door of now opens, or later, may be somebody who was removed before.
    let least = known.door().epoch;
    let holders: BTreeMap<_, _> = holders.iter().map(|holder| (holder.client, holder)).collect();
    let held = |client: ClientId, tunnel: &TunnelKey| {
        let holder = holders.get(&client).filter(|holder| holder.epoch >= least)?;
        known.of(holder.epoch).filter(|secret| secret.is_proved(*network, client, tunnel, &holder.proof))
    };
    let mut order: Vec<_> = members.clone();
    order.sort_by_key(|(client, _, role)| (std::cmp::Reverse(*role), *client));
    let mut recipients: Vec<(ClientId, TunnelKey, &NumberedSecret)> = Vec::with_capacity(order.len() + 1);
    let mut left_out = Vec::new();
    if task == Task::Renew {
        // In case the answer of the server is lost.
        recipients.push((*own, *own_tunnel, known.newest()));
    }
    for (client, tunnel, _) in order {
        let served = holders.get(&client).is_some_and(|holder| holder.sealed || holder.epoch >= secrets.newest.epoch);
        match held(client, &tunnel) {
            Some(_) if task == Task::Hand && served => {}
            Some(secret) => recipients.push((client, tunnel, secret)),
            None => left_out.push(client),
        }
    }
    let random = SystemRandom::new();
    let mut seals = Vec::with_capacity(recipients.len());
    for (member, tunnel, holds) in recipients {
        let mut fresh = [0; 32];
        random.fill(&mut fresh).map_err(|_| PasswordError::Random)?;
        match tunnel::seal(&secrets, Addressee { network: *network, member, tunnel, holds }, *own, fresh, &sign) {
            Ok(bytes) => seals.push(Seal { member, bytes }),
            Err(_) => left_out.push(member),
        }
    }
    Ok((secrets, new, seals, left_out))
}

impl Daemon {
    /// The core wants a secret made.
    pub(super) fn make_secret(&mut self, network: NetworkId, task: Task) {
        let (answers, _) = tokio::sync::mpsc::channel(1);
        let making = Making { network, task, password: None, again: None, holders: Vec::new(), answers };
        let request = self.requests.holders(Instant::now(), making);
        self.ask(Some(request));
    }

    pub(super) fn set_pass(&mut self, at: Instant, network: NetworkId, again: Again, answers: Answers) {
        match self.core.materials(network) {
            Some(materials) => {
                let request = self.requests.set_pass(at, network, materials.state.epoch.next(), again, answers);
                self.ask(request);
            }
            None => requests::refuse(&answers, wire::Code::SecretLacking.into()),
        }
    }

    /// It is known who proved what.
    pub(super) fn seal_secret(&mut self, making: Making) {
        let network = making.network;
        let identity = self.home.identity();
        let materials = self.core.materials(network).filter(|materials| !making.is_passed(&materials.state));
        match (materials, identity) {
            (Some(materials), Ok(identity)) => {
                self.work.spawn_blocking(move || {
                    Work::Sealed(make(&materials, making, |message| identity.sign(&[message])).map(Box::new))
                });
            }
            (_, Err(error)) => {
                self.give_up(network, &making.answers, CommandError::new(CommandError::FAILED, error.to_string()))
            }
            (None, Ok(_)) => self.begin_again(network, making.again, making.answers),
        }
    }

    pub(super) fn hand_on(&mut self, mut made: Box<Made>) {
        match made.next() {
            Some(request) => {
                let request = self.requests.hand(Instant::now(), made, request);
                self.ask(Some(request));
            }
            None => self.secret_made(*made),
        }
    }

    /// What came of a request about a secret that the server refused.
    pub(super) fn secret_refused(&mut self, refused: requests::Refusal) {
        match refused {
            requests::Refusal::Passed { network, again, answers } => self.begin_again(network, again, answers),
            requests::Refusal::Secret { network } => self.core.handle_not_renewed(now(), network),
            requests::Refusal::KeyKept { code } => self.keep_keys(code),
            requests::Refusal::Keys { network, code } => self.core.handle_no_keys(network, code),
        }
    }

    /// Somebody else was faster.
    fn begin_again(&mut self, network: NetworkId, again: Option<Again>, answers: Answers) {
        match again.filter(|again| again.tries > 0) {
            Some(again) => {
                let again = Again { tries: again.tries - 1, ..again };
                self.renewals.push((Instant::now() + AGAIN, network, again, answers));
            }
            None => self.give_up(network, &answers, wire::Code::SecretPassed.into()),
        }
    }

    /// Changes of the password that were overtaken begin anew.
    pub(super) fn renew_again(&mut self, at: Instant) {
        let (due, later) = std::mem::take(&mut self.renewals).into_iter().partition(|(due, ..)| *due <= at);
        self.renewals = later;
        let due: Vec<_> = due;
        for (_, network, again, answers) in due {
            // What the other one made may be still on its way.
            if self.core.materials(network).is_none() {
                self.begin_again(network, Some(again), answers);
            } else {
                self.set_pass(at, network, again, answers);
            }
        }
    }

    pub(super) fn give_up(&mut self, network: NetworkId, answers: &Answers, error: CommandError) {
        tracing::debug!(%network, code = error.code, "no newer secret was made");
        requests::refuse(answers, error);
        self.core.handle_not_renewed(now(), network);
    }

    fn secret_made(&mut self, made: Made) {
        let Made { network, task, answers, secrets, sealed, left_out, .. } = made;
        let epoch: SecretEpoch = secrets.newest.epoch;
        match task {
            Task::Hand => self.core.handle_handed(now(), network),
            Task::Renew => {
                self.core.take_secrets(now(), network, secrets);
                // This client is one of them.
                let rekeyed = Rekeyed { epoch, sealed: sealed.saturating_sub(1), left_out };
                self.promised.push((answers, Ok(Answer::Rekeyed(rekeyed))));
                self.saving = Some(Box::new(self.core.saved()));
            }
        }
    }
}

/// When somebody else was faster, what they made is known so much later.
const AGAIN: std::time::Duration = std::time::Duration::from_millis(700);
/// How often a change of the password begins anew.
pub(super) const TRIES: u8 = 5;

#[cfg(test)]
mod tests {
    use domain::{Revision, Role, SecretProof};
    use ring::signature::Ed25519KeyPair;

    use super::*;
    use crate::core::Secrets;

    #[test]
    fn whoever_proved_the_door_or_something_newer_gets_a_seal() {
        let (materials, holders) = network(5, 3);
        let made = make(&materials, making(Task::Renew, holders), sign).unwrap();
        let Made { new, seals, left_out, sealed, .. } = made;
        let new = new.unwrap();
        assert_eq!((new.epoch, new.seen, new.password), (SecretEpoch(4), Revision(9), None));
        // The fifth proved what is older than the door, and the fourth something wrong.
        assert_eq!(left_out, [client(4), client(5)]);
        let order: Vec<_> = seals.iter().map(|seal| seal.member).collect();
        assert_eq!(order, [client(0), client(2), client(1), client(3)], "this client, who rules, and the others");
        assert_eq!(sealed, 4);
    }

    #[test]
    fn the_record_of_a_password_is_for_the_next_epoch_only() {
        let (materials, holders) = network(1, 3);
        let record = |epoch| {
            let (bytes, key) = (vec![1], ExportKey::from_bytes([2; 32]));
            Making { password: Some(Record { epoch, bytes, key }), ..making(Task::Renew, Vec::new()) }
        };
        assert!(!making(Task::Renew, holders).is_passed(&materials.state));
        assert!(!record(SecretEpoch(4)).is_passed(&materials.state));
        for other in [3, 5] {
            assert!(record(SecretEpoch(other)).is_passed(&materials.state), "{other}");
        }
    }

    #[test]
    fn the_newest_is_handed_to_those_who_lack_it_only() {
        let (materials, mut holders) = network(3, 3);
        holders[1].sealed = true;
        let made = make(&materials, making(Task::Hand, holders), sign).unwrap();
        assert!(made.new.is_none());
        let lacking: Vec<_> = made.seals.iter().map(|seal| seal.member).collect();
        assert_eq!(lacking, [client(1)], "the second has one already, and the third proved the newest");
        assert_eq!(made.secrets.newest, *materials.secrets.newest());
    }

    #[test]
    fn two_hundred_and_fifty_six_members_take_four_messages_that_fit() {
        for (members, messages) in [(63_u8, 1), (64, 2), (255, 4)] {
            let (materials, holders) = network(members, 1);
            let mut made = make(&materials, making(Task::Renew, holders), sign).unwrap();
            let mut count = 0;
            while let Some(request) = made.next() {
                let size = wire::control::ClientFrame::Request(u32::MAX, request).encode().len();
                assert!(size <= wire::control::MAX_FRAME, "{size}");
                count += 1;
            }
            assert_eq!(count, messages, "{members}");
        }
    }

    /// So many other members, at the epoch; the door is one before it, and from the fourth on they have something wrong
    /// unless there are many.
    fn network(others: u8, epoch: u64) -> (Materials, Vec<Holder>) {
        let numbered = |epoch: u64| NumberedSecret {
            epoch: SecretEpoch(epoch),
            secret: tunnel::NetworkSecret::from_bytes([u8::try_from(epoch).unwrap(); 32]),
        };
        let door = epoch.saturating_sub(1).max(1);
        let mut secrets = Secrets::of_door(SecretEpoch(1), numbered(1).secret);
        for epoch in 2..=epoch {
            secrets.renew(SealedSecrets { newest: numbered(epoch), door: numbered(door.min(epoch)) });
        }
        let id = domain::NetworkId::from_bytes([7; 16]);
        let members: Vec<_> = (1..=others)
            .map(|number| {
                let role = if number == 2 { Role::Admin } else { Role::Member };
                (client(number), key(number), role)
            })
            .collect();
        let holder = |&(client, key, _): &(ClientId, TunnelKey, Role)| {
            let number = client.as_bytes()[0];
            let proved = match number {
                3 if epoch > 1 => epoch,
                5 if epoch > 1 => door - 1,
                _ => door,
            };
            let mut proof = numbered(proved.max(1)).prove(id, client, &key);
            if number == 4 && epoch > 1 {
                proof = SecretProof([0; 16]);
            }
            Holder { client, epoch: SecretEpoch(proved.max(1)), proof, sealed: false }
        };
        let holders = members.iter().map(holder).collect();
        let state = SecretState { epoch: SecretEpoch(epoch), door: SecretEpoch(door), ..SecretState::default() };
        let materials = Materials {
            network: id,
            own: client(0),
            own_tunnel: key(200),
            secrets,
            state,
            revision: Revision(9),
            members,
        };
        (materials, holders)
    }

    fn making(task: Task, holders: Vec<Holder>) -> Making {
        let (answers, _) = tokio::sync::mpsc::channel(1);
        let network = domain::NetworkId::from_bytes([7; 16]);
        Making { network, task, password: None, again: None, holders, answers }
    }

    fn client(number: u8) -> ClientId {
        ClientId::from_bytes([number; 16])
    }

    fn key(number: u8) -> TunnelKey {
        tunnel::Local::new([number.max(1); 32]).public()
    }

    fn sign(message: &[u8]) -> Signature {
        let pair = Ed25519KeyPair::from_seed_unchecked(&[1; 32]).unwrap();
        Signature::try_from(pair.sign(message).as_ref()).unwrap()
    }
}
