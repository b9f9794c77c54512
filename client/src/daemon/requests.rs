//! Requests to the server on behalf of commands: each is a small exchange that ends with one answer.

mod asking;

use std::{collections::BTreeMap, time::Duration};

use domain::{
    Admissions, ClientId, MembershipTicket, NetworkId, NetworkName, Nickname, Removals, Seal, SecretEpoch, Signed,
};
use tokio::{sync::mpsc, time::Instant};
use wire::{
    Code,
    control::{Joined, Refused, Reply, Request},
};

use super::renewal::{Again, Made, Making, Record};
use crate::{
    command::{AccountStatus, Answer, CommandError, Govern, Invited},
    core::Task,
    password::{ExportKey, LoggingIn, NetworkSecret, PasswordError, Registering},
};

/// Where the answer of a command goes.
pub(super) type Answers = mpsc::Sender<Result<Answer, CommandError>>;

/// The exchanges under way.
#[derive(Debug, Default)]
pub(super) struct Requests {
    next: u32,
    pending: BTreeMap<u32, Pending>,
}

#[derive(Debug)]
struct Pending {
    until: Instant,
    answers: Answers,
    step: Step,
}

/// What the next reply is for.
#[derive(Debug)]
enum Step {
    CreateStart {
        name: NetworkName,
        registering: Box<Registering>,
    },
    CreateFinish {
        secret: NetworkSecret,
    },
    JoinStart {
        logging_in: Box<LoggingIn>,
    },
    JoinFinish {
        key: ExportKey,
    },
    Leave {
        network: NetworkId,
    },
    /// Only the outcome counts.
    Order,
    Invite {
        invited: Box<Invited>,
    },
    Admissions,
    /// To find out whom an order means.
    Outsiders {
        network: NetworkId,
        wish: Govern,
    },
    /// For the core.
    Keys {
        network: NetworkId,
    },
    Nick {
        nick: Nickname,
    },
    Why {
        peer: ClientId,
    },
    SetPassStart {
        network: NetworkId,
        epoch: SecretEpoch,
        again: Again,
        registering: Box<Registering>,
    },
    /// Pages of them.
    Holders {
        making: Box<Making>,
    },
    /// A part of it is on its way.
    Hand {
        made: Box<Made>,
    },
    /// For the core.
    Sealed {
        network: NetworkId,
    },
    Prove {
        network: NetworkId,
        epoch: SecretEpoch,
    },
    /// For the core.
    Membership,
    Account,
    RotateKey,
}

/// Hashing to be done away from the daemon's task; then [`Requests::handle_hashed`].
#[derive(Debug)]
pub(super) struct Hash {
    answers: Answers,
    work: HashWork,
}

#[derive(Debug)]
enum HashWork {
    Register { name: NetworkName, registering: Box<Registering>, response: Vec<u8> },
    Login { logging_in: Box<LoggingIn>, response: Vec<u8> },
    SetPass { network: NetworkId, epoch: SecretEpoch, again: Again, registering: Box<Registering>, response: Vec<u8> },
}

/// A password was hashed.
#[derive(Debug)]
pub(super) struct Hashed {
    answers: Answers,
    result: Result<(Request, Step), PasswordError>,
}

/// What others have to know of a refusal.
#[derive(Debug)]
pub(super) enum Refusal {
    Keys {
        network: NetworkId,
        code: Option<Code>,
    },
    /// No secret is made just now.
    Secret {
        network: NetworkId,
    },
    /// Somebody else was faster.
    Passed {
        network: NetworkId,
        again: Option<Again>,
        answers: Answers,
    },
    /// This client's key stays as it is.
    KeyKept {
        code: Option<Code>,
    },
}

/// What a reply led to.
#[derive(Debug)]
pub(super) enum Outcome {
    /// Nothing yet, or nothing ever.
    Nothing,
    Hash(Hash),
    Joined {
        joined: Box<Joined>,
        secret: NetworkSecret,
        answers: Answers,
    },
    /// Approval is asked for; the key will open the network's secret.
    Awaiting {
        network: NetworkId,
        name: NetworkName,
        key: ExportKey,
        answers: Answers,
    },
    Keys {
        network: NetworkId,
        door: SecretEpoch,
        sealed: Vec<u8>,
    },
    /// To be said at once.
    Say(u32, Request),
    /// It is known who proved what.
    Seal(Box<Making>),
    Handed(Box<Made>),
    Sealed {
        network: NetworkId,
        seal: Option<Box<Seal>>,
    },
    Proved {
        network: NetworkId,
        epoch: SecretEpoch,
    },
    Membership {
        ticket: Box<Signed<MembershipTicket>>,
        removals: Box<Signed<Removals>>,
    },
    Outsiders {
        network: NetworkId,
        wish: Govern,
        lists: Box<Admissions>,
        answers: Answers,
    },
    /// This client's next keys count.
    KeyRotated {
        answers: Answers,
    },
    Left {
        network: NetworkId,
        answers: Answers,
    },
    Renamed {
        nick: Nickname,
        answers: Answers,
    },
    Record {
        peer: ClientId,
        record: Option<Box<domain::PairRecord>>,
        answers: Answers,
    },
}

impl Requests {
    /// A request whose reply does not matter.
    pub(super) const fn number(&mut self) -> u32 {
        self.next = self.next.wrapping_add(1);
        self.next
    }

    /// Those who wait for other keys: it turned out that these count.
    pub(super) fn take_rotations(&mut self) -> Vec<Answers> {
        let waiting = self.pending.extract_if(.., |_, pending| matches!(pending.step, Step::RotateKey));
        waiting.map(|(_, pending)| pending.answers).collect()
    }

    /// The server did what was asked.
    pub(super) fn handle_reply(&mut self, now: Instant, number: u32, reply: Reply) -> Outcome {
        let Some(Pending { answers, step, .. }) = self.pending.remove(&number) else { return Outcome::Nothing };
        match (step, reply) {
            (Step::CreateStart { name, registering }, Reply::Registration(response)) => {
                Outcome::Hash(Hash { answers, work: HashWork::Register { name, registering, response } })
            }
            (Step::JoinStart { logging_in }, Reply::Credential(response)) => {
                Outcome::Hash(Hash { answers, work: HashWork::Login { logging_in, response } })
            }
            (Step::CreateFinish { secret }, Reply::Joined(joined)) => Outcome::Joined { joined, secret, answers },
            (Step::JoinFinish { key }, Reply::Joined(joined)) => {
                match NetworkSecret::open(&joined.wrapped_secret, &key) {
                    Ok(secret) => Outcome::Joined { joined, secret, answers },
                    Err(error) => {
                        refuse(&answers, password_error(error));
                        Outcome::Nothing
                    }
                }
            }
            (Step::JoinFinish { key }, Reply::Awaiting(network, name)) => {
                Outcome::Awaiting { network, name, key, answers }
            }
            (Step::Order, Reply::Done) => {
                drop(answers.try_send(Ok(Answer::DONE)));
                Outcome::Nothing
            }
            (Step::Invite { invited }, Reply::Done) => {
                drop(answers.try_send(Ok(Answer::Invited(*invited))));
                Outcome::Nothing
            }
            (Step::Admissions, Reply::Admissions(lists)) => {
                drop(answers.try_send(Ok(Answer::Admissions((*lists).into()))));
                Outcome::Nothing
            }
            (Step::Outsiders { network, wish }, Reply::Admissions(lists)) => {
                Outcome::Outsiders { network, wish, lists, answers }
            }
            (Step::Keys { network }, Reply::Keys(sealed, door)) => Outcome::Keys { network, door, sealed },
            (Step::SetPassStart { network, epoch, again, registering }, Reply::Registration(response)) => {
                Outcome::Hash(Hash {
                    answers,
                    work: HashWork::SetPass { network, epoch, again, registering, response },
                })
            }
            (Step::Holders { mut making }, Reply::Holders(holders, more)) => {
                let more = more && !holders.is_empty() && making.holders.len() < MAX_HOLDERS;
                making.holders.extend(holders);
                if more {
                    let (number, request) = self.holders(now, *making);
                    Outcome::Say(number, request)
                } else {
                    Outcome::Seal(making)
                }
            }
            (Step::Hand { made }, Reply::Done) => Outcome::Handed(made),
            (Step::Sealed { network }, Reply::Sealed(seal)) => Outcome::Sealed { network, seal },
            (Step::Prove { network, epoch }, Reply::Done) => Outcome::Proved { network, epoch },
            (Step::Membership, Reply::Membership(ticket, removals)) => Outcome::Membership { ticket, removals },
            (Step::RotateKey, Reply::Done) => Outcome::KeyRotated { answers },
            (Step::Leave { network }, Reply::Done) => Outcome::Left { network, answers },
            (Step::Nick { nick }, Reply::Done) => Outcome::Renamed { nick, answers },
            (Step::Account, Reply::Account(account)) => {
                let status = AccountStatus::from(account.map(|account| *account));
                drop(answers.try_send(Ok(Answer::Account(status))));
                Outcome::Nothing
            }
            (Step::Why { peer }, Reply::Why(record)) => Outcome::Record { peer, record, answers },
            (
                _,
                Reply::Done
                | Reply::Registration(_)
                | Reply::Credential(_)
                | Reply::Joined(_)
                | Reply::Why(_)
                | Reply::Awaiting(..)
                | Reply::Admissions(_)
                | Reply::Keys(..)
                | Reply::Holders(..)
                | Reply::Sealed(_)
                | Reply::Membership(..)
                | Reply::Account(_),
            ) => {
                refuse(&answers, CommandError::from(wire::Code::Malformed));
                Outcome::Nothing
            }
        }
    }

    /// The server refused; returns what somebody else has to know of it.
    pub(super) fn handle_refusal(&mut self, number: u32, refused: Refused) -> Option<Refusal> {
        let Pending { answers, step, .. } = self.pending.remove(&number)?;
        let code = Code::from_number(refused.code);
        let news = match step {
            Step::Keys { network } => Some(Refusal::Keys { network, code }),
            Step::Holders { making } => Some(Refusal::Secret { network: making.network }),
            Step::Hand { made } if code == Some(Code::SecretPassed) && made.task == Task::Renew => {
                let Made { network, again, .. } = *made;
                return Some(Refusal::Passed { network, again, answers });
            }
            Step::Hand { made } => Some(Refusal::Secret { network: made.network }),
            Step::RotateKey => Some(Refusal::KeyKept { code }),
            Step::CreateStart { .. }
            | Step::CreateFinish { .. }
            | Step::JoinStart { .. }
            | Step::JoinFinish { .. }
            | Step::Leave { .. }
            | Step::Order
            | Step::Invite { .. }
            | Step::Admissions
            | Step::Outsiders { .. }
            | Step::Nick { .. }
            | Step::Why { .. }
            | Step::SetPassStart { .. }
            | Step::Sealed { .. }
            | Step::Prove { .. }
            | Step::Membership
            | Step::Account => None,
        };
        refuse(&answers, CommandError::from(refused));
        news
    }

    /// A password was hashed: the next request.
    pub(super) fn handle_hashed(&mut self, now: Instant, hashed: Hashed) -> Option<(u32, Request)> {
        match hashed.result {
            Ok((request, step)) => Some((self.begin(now, hashed.answers, step), request)),
            Err(error) => {
                refuse(&hashed.answers, password_error(error));
                None
            }
        }
    }

    /// The session ended: what was asked may or may not have happened.
    pub(super) fn handle_lost(&mut self) {
        for pending in std::mem::take(&mut self.pending).into_values() {
            let lost = CommandError::new(CommandError::SERVER_UNREACHABLE, "the connection to the server was lost");
            refuse(&pending.answers, lost);
        }
    }

    pub(super) fn handle_deadline(&mut self, now: Instant) {
        let late: Vec<u32> = self.pending.iter().filter(|(_, one)| one.until <= now).map(|(n, _)| *n).collect();
        for pending in late.iter().filter_map(|number| self.pending.remove(number)) {
            refuse(&pending.answers, CommandError::new(CommandError::TIMED_OUT, "the server did not answer"));
        }
    }

    pub(super) fn poll_deadline(&self) -> Option<Instant> {
        self.pending.values().map(|pending| pending.until).min()
    }

    fn begin(&mut self, now: Instant, answers: Answers, step: Step) -> u32 {
        let number = self.number();
        self.pending.insert(number, Pending { until: now + PATIENCE, answers, step });
        number
    }
}

impl Hash {
    /// Hashes; takes tens of milliseconds, and a second in a debug build.
    pub(super) fn run(self) -> Hashed {
        let result = match self.work {
            HashWork::Register { name, registering, response } => {
                registering.finish(&response).and_then(|(record, key)| {
                    let secret = NetworkSecret::random()?;
                    let sealed = secret.seal(&key)?;
                    Ok((Request::CreateFinish(name, record, sealed), Step::CreateFinish { secret }))
                })
            }
            HashWork::SetPass { network, epoch, again, registering, response } => {
                let answers = self.answers.clone();
                registering.finish(&response).map(|(bytes, key)| {
                    let (password, again, holders) = (Some(Record { epoch, bytes, key }), Some(again), Vec::new());
                    let making = Making { network, task: Task::Renew, password, again, holders, answers };
                    (Request::Holders(network, None), Step::Holders { making: Box::new(making) })
                })
            }
            HashWork::Login { logging_in, response } => {
                logging_in.finish(&response).map(|(proof, key)| (Request::JoinFinish(proof), Step::JoinFinish { key }))
            }
        };
        Hashed { answers: self.answers, result }
    }
}

/// Answers with an error. The asker may be gone.
pub(super) fn refuse(answers: &Answers, error: CommandError) {
    drop(answers.try_send(Err(error)));
}

fn password_error(error: PasswordError) -> CommandError {
    match error {
        PasswordError::Length => wire::Code::PasswordInvalid.into(),
        PasswordError::Denied => wire::Code::NetworkDenied.into(),
        PasswordError::Malformed | PasswordError::Secret | PasswordError::Random => {
            CommandError::new(CommandError::FAILED, error.to_string())
        }
    }
}

/// More than a network may have members: what is over is not asked for.
const MAX_HOLDERS: usize = 4096;
/// How long the server may take for one step. Its own deadlines are shorter.
const PATIENCE: Duration = Duration::from_secs(15);
