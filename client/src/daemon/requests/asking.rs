//! How each exchange begins.

use domain::{
    ClientId, KeyRotation, NetworkId, NetworkName, NetworkOrder, NewInvite, Nickname, SecretEpoch, SecretProof,
};
use tokio::{sync::mpsc, time::Instant};
use wire::{Code, control::Request};

use super::{
    super::renewal::{Again, Made, Making},
    Answers, Requests, Step, password_error, refuse,
};
use crate::{
    command::{AccountWish, Govern, Invited},
    invite::InviteLink,
    password::{LoggingIn, Password, PasswordError, Registering},
};

impl Requests {
    pub(in crate::daemon) fn create(
        &mut self,
        now: Instant,
        name: NetworkName,
        password: &Password,
        answers: Answers,
    ) -> Option<(u32, Request)> {
        let (registering, message) = begun(Registering::start(password), &answers)?;
        let registering = Box::new(registering);
        let request = Request::CreateStart(name.clone(), message);
        Some((self.begin(now, answers, Step::CreateStart { name, registering }), request))
    }

    pub(in crate::daemon) fn join(
        &mut self,
        now: Instant,
        name: NetworkName,
        password: &Password,
        answers: Answers,
    ) -> Option<(u32, Request)> {
        let (logging_in, message) = begun(LoggingIn::start(password), &answers)?;
        let logging_in = Box::new(logging_in);
        Some((self.begin(now, answers, Step::JoinStart { logging_in }), Request::JoinStart(name, message)))
    }

    pub(in crate::daemon) fn leave(&mut self, now: Instant, network: NetworkId, answers: Answers) -> (u32, Request) {
        (self.begin(now, answers, Step::Leave { network }), Request::Leave(network))
    }

    pub(in crate::daemon) fn order(
        &mut self,
        now: Instant,
        network: NetworkId,
        order: NetworkOrder,
        answers: Answers,
    ) -> (u32, Request) {
        (self.begin(now, answers, Step::Order), Request::Order(network, order))
    }

    pub(in crate::daemon) fn invite(
        &mut self,
        now: Instant,
        network: NetworkId,
        new: NewInvite,
        invited: Invited,
        answers: Answers,
    ) -> (u32, Request) {
        let step = Step::Invite { invited: Box::new(invited) };
        (self.begin(now, answers, step), Request::Order(network, NetworkOrder::Invite(new)))
    }

    pub(in crate::daemon) fn redeem(&mut self, now: Instant, invite: &InviteLink, answers: Answers) -> (u32, Request) {
        let request = Request::Redeem(invite.token(), rand::random());
        (self.begin(now, answers, Step::JoinFinish { key: invite.key() }), request)
    }

    pub(in crate::daemon) fn admissions(
        &mut self,
        now: Instant,
        network: NetworkId,
        answers: Answers,
    ) -> (u32, Request) {
        (self.begin(now, answers, Step::Admissions), Request::Admissions(network))
    }

    pub(in crate::daemon) fn find_outsider(
        &mut self,
        now: Instant,
        network: NetworkId,
        wish: Govern,
        answers: Answers,
    ) -> (u32, Request) {
        (self.begin(now, answers, Step::Outsiders { network, wish }), Request::Admissions(network))
    }

    pub(in crate::daemon) fn account(
        &mut self,
        now: Instant,
        wish: &AccountWish,
        answers: Answers,
    ) -> Option<(u32, Request)> {
        let (step, request) = match (wish, wish.code()) {
            (AccountWish::Detach, _) => (Step::Order, Request::DetachAccount),
            (_, None) => (Step::Account, Request::Account),
            (_, Some(Ok(code))) => (Step::Account, Request::AttachAccount(code)),
            (_, Some(Err(_))) => {
                refuse(&answers, Code::AttachCodeInvalid.into());
                return None;
            }
        };
        Some((self.begin(now, answers, step), request))
    }

    pub(in crate::daemon) fn rename(&mut self, now: Instant, nick: Nickname, answers: Answers) -> (u32, Request) {
        (self.begin(now, answers, Step::Nick { nick: nick.clone() }), Request::SetNick(nick))
    }

    pub(in crate::daemon) fn why(&mut self, now: Instant, peer: ClientId, answers: Answers) -> (u32, Request) {
        (self.begin(now, answers, Step::Why { peer }), Request::Why(peer))
    }

    pub(in crate::daemon) fn rotate_key(
        &mut self,
        now: Instant,
        rotation: KeyRotation,
        answers: Answers,
    ) -> (u32, Request) {
        (self.begin(now, answers, Step::RotateKey), Request::RotateKey(Box::new(rotation)))
    }

    pub(in crate::daemon) fn set_pass(
        &mut self,
        now: Instant,
        network: NetworkId,
        epoch: SecretEpoch,
        again: Again,
        answers: Answers,
    ) -> Option<(u32, Request)> {
        let (registering, message) = begun(Registering::start(&again.password), &answers)?;
        let step = Step::SetPassStart { network, epoch, again, registering: Box::new(registering) };
        Some((self.begin(now, answers, step), Request::SetPassStart(network, epoch, message)))
    }

    /// Asks who proved what, from where the last page ended.
    pub(in crate::daemon) fn holders(&mut self, now: Instant, making: Making) -> (u32, Request) {
        let request = Request::Holders(making.network, making.holders.last().map(|holder| holder.client));
        let answers = making.answers.clone();
        (self.begin(now, answers, Step::Holders { making: Box::new(making) }), request)
    }

    pub(in crate::daemon) fn hand(&mut self, now: Instant, made: Box<Made>, request: Request) -> (u32, Request) {
        let answers = made.answers.clone();
        (self.begin(now, answers, Step::Hand { made }), request)
    }

    /// For the core: no user waits.
    pub(in crate::daemon) fn keys(&mut self, now: Instant, network: NetworkId) -> (u32, Request) {
        let (nobody, _) = mpsc::channel(1);
        (self.begin(now, nobody, Step::Keys { network }), Request::Keys(network))
    }

    /// For the core: no user waits.
    pub(in crate::daemon) fn sealed(&mut self, now: Instant, network: NetworkId) -> (u32, Request) {
        let (nobody, _) = mpsc::channel(1);
        (self.begin(now, nobody, Step::Sealed { network }), Request::Sealed(network))
    }

    /// For the core: no user waits.
    pub(in crate::daemon) fn prove(
        &mut self,
        now: Instant,
        network: NetworkId,
        epoch: SecretEpoch,
        proof: SecretProof,
    ) -> (u32, Request) {
        let (nobody, _) = mpsc::channel(1);
        (self.begin(now, nobody, Step::Prove { network, epoch }), Request::Prove(network, epoch, proof))
    }

    /// For the core: no user waits.
    pub(in crate::daemon) fn membership(&mut self, now: Instant, network: NetworkId) -> (u32, Request) {
        let (nobody, _) = mpsc::channel(1);
        (self.begin(now, nobody, Step::Membership), Request::Membership(network))
    }
}

/// What a password begins; the user is told when it cannot.
fn begun<T>(begun: Result<T, PasswordError>, answers: &Answers) -> Option<T> {
    begun.map_err(|error| refuse(answers, password_error(error))).ok()
}
