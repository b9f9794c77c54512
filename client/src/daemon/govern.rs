//! Orders of owners and admins: whom they mean, and the way to the server.

use domain::{Admissions, ClientId, NetworkId, NetworkName, NewInvite};
use tokio::time::Instant;
use wire::Code;

use super::{
    Daemon,
    requests::{self, Answers},
};
use crate::{
    command::{Answer, CommandError, Govern, Invited, named},
    core::NoPeer,
    invite::InviteLink,
};

impl Daemon {
    pub(super) fn govern(&mut self, at: Instant, network: &NetworkName, wish: Govern, answers: Answers) {
        let Some(network) = self.network_of(network, &answers) else { return };
        let whom = match wish.whom() {
            Some(word) => match self.find(network, word, &wish) {
                Ok(client) => Some(client),
                // The server knows who waits at the door, and who is banned.
                Err(NoPeer::Unknown) if wish.is_about_outsider() || matches!(wish, Govern::Ban { .. }) => {
                    let request = self.requests.find_outsider(at, network, wish, answers);
                    return self.ask(Some(request));
                }
                Err(NoPeer::Unknown | NoPeer::NoSeat) => return requests::refuse(&answers, Code::MemberUnknown.into()),
                Err(error @ NoPeer::Ambiguous) => {
                    return requests::refuse(
                        &answers,
                        CommandError::new(CommandError::PEER_AMBIGUOUS, error.to_string()),
                    );
                }
            },
            None => None,
        };
        self.order(at, network, wish, whom, answers);
    }

    /// Those who are not in the network are known now.
    pub(super) fn govern_outsider(&mut self, network: NetworkId, wish: Govern, lists: &Admissions, answers: Answers) {
        let word = wish.whom().unwrap_or_default();
        let found = named(&lists.applicants, word).or_else(|| named(&lists.bans, word));
        match found.map(|outsider| outsider.client) {
            Some(client) => self.order(Instant::now(), network, wish, Some(client), answers),
            None => requests::refuse(&answers, Code::MemberUnknown.into()),
        }
    }

    pub(super) fn show_admissions(&mut self, at: Instant, network: &NetworkName, answers: Answers) {
        if let Some(network) = self.network_of(network, &answers) {
            let request = self.requests.admissions(at, network, answers);
            self.ask(Some(request));
        }
    }

    pub(super) fn invite(&mut self, at: Instant, network: &NetworkName, uses: u32, lifetime_s: u32, answers: Answers) {
        let Some(network) = self.network_of(network, &answers) else { return };
        let Some((door, secret)) = self.core.door(network) else {
            let locked_out = CommandError::new(CommandError::FAILED, "this client does not have the network's secret");
            return requests::refuse(&answers, locked_out);
        };
        let sealed = InviteLink::random().and_then(|link| secret.seal(&link.key()).map(|sealed| (link, sealed)));
        match sealed {
            Ok((invite, sealed_secret)) => {
                let id = invite.token().id();
                let new = NewInvite { id, sealed_secret, uses, lifetime_s, door };
                let invited = Invited { invite, id, uses, lifetime_s };
                let request = self.requests.invite(at, network, new, invited, answers);
                self.ask(Some(request));
            }
            Err(error) => requests::refuse(&answers, CommandError::new(CommandError::FAILED, error.to_string())),
        }
    }

    pub(super) fn show_members(&self, network: &NetworkName, answers: &Answers) {
        match self.core.network_named(network) {
            Some(network) => drop(answers.try_send(Ok(Answer::Members(self.core.members(network))))),
            None => requests::refuse(answers, Code::NotAMember.into()),
        }
    }

    fn order(&mut self, at: Instant, network: NetworkId, wish: Govern, whom: Option<ClientId>, answers: Answers) {
        match wish.order(whom) {
            Some(order) => {
                let request = self.requests.order(at, network, order, answers);
                self.ask(Some(request));
            }
            None => requests::refuse(&answers, Code::MemberUnknown.into()),
        }
    }

    /// The network, if this client is in it and a server is there to ask.
    pub(super) fn network_of(&self, name: &NetworkName, answers: &Answers) -> Option<NetworkId> {
        let network = self.core.network_named(name);
        if network.is_none() {
            requests::refuse(answers, Code::NotAMember.into());
        }
        network.filter(|_| self.needs_server(answers))
    }

    /// Whom `word` means: an id may be anybody's, everything else is a member's, unless it is about somebody who is none.
    fn find(&self, network: NetworkId, word: &str, wish: &Govern) -> Result<ClientId, NoPeer> {
        match word.parse() {
            Ok(client) => Ok(client),
            Err(_) if wish.is_about_outsider() => Err(NoPeer::Unknown),
            Err(_) => self.core.resolve_in(network, word),
        }
    }
}
