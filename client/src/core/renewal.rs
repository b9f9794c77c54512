//! Newer secrets of networks: getting them, showing which ones this client has, and making them where it may.
//!
//! A change of a network says which secret is the newest. A member that has an older one asks for what was sealed for it, and
//! takes it if an owner or admin signed it and the older secret opens it; otherwise it keeps what it has and says so. Owners
//! and admins look after the others: when somebody is gone who knows the newest secret they make a newer one, each after a
//! random wait, so that one of them wins; and they hand the newest to members who proved an older one.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use domain::{ClientId, NetworkId, Revision, Role, Seal, SecretEpoch, SecretState, TunnelKey, Wanted};
use rand::Rng as _;
use tunnel::{Addressee, SealError, SealHeader, SealedSecrets};
use wire::Code;

use super::{Core, Output, secrets::Secrets, view::Network};

/// What is under way, by network.
#[derive(Debug, Default)]
pub(super) struct Renewal {
    /// At which revision the server was asked for a seal.
    asked: BTreeMap<NetworkId, Revision>,
    proving: BTreeMap<NetworkId, SecretEpoch>,
    /// When this client makes or hands out a secret.
    due: BTreeMap<NetworkId, Instant>,
    /// It does, and counts as failed after this instant.
    busy: BTreeMap<NetworkId, Instant>,
    /// At which revision it could hand the newest to nobody more.
    tried: BTreeMap<NetworkId, Revision>,
    warnings: BTreeMap<NetworkId, Code>,
}

impl Renewal {
    /// Proofs under way are for another tunnel key.
    pub(super) fn forget_proofs(&mut self) {
        self.proving.clear();
    }
}

/// What is to be made for a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// A newer secret.
    Renew,
    /// Seals of the newest, for who lacks it.
    Hand,
}

/// What seals are made of.
#[derive(Clone, Debug)]
pub struct Materials {
    pub network: NetworkId,
    pub own: ClientId,
    pub own_tunnel: TunnelKey,
    pub secrets: Secrets,
    pub state: SecretState,
    pub revision: Revision,
    /// All others, with the tunnel keys that their identities vouch for.
    pub members: Vec<(ClientId, TunnelKey, Role)>,
}

impl Core {
    /// What seals for `network` are made of; `None` when this client does not have its newest secret.
    #[must_use]
    pub fn materials(&self, network: NetworkId) -> Option<Materials> {
        let about = self.view.networks().get(&network)?;
        let secrets = self.view.secrets(network).filter(|secrets| secrets.newest().epoch == about.secret.epoch)?;
        Some(Materials {
            network,
            own: self.own,
            own_tunnel: self.local.public(),
            secrets: secrets.clone(),
            state: about.secret,
            revision: about.revision(),
            members: about.members().map(|member| (member.client, member.tunnel, member.role)).collect(),
        })
    }

    /// What is wrong with the secret of `network`.
    #[must_use]
    pub fn secret_warning(&self, network: NetworkId) -> Option<Code> {
        self.renewal.warnings.get(&network).copied()
    }

    /// The answer to [`Output::WantSeal`].
    pub fn handle_sealed(&mut self, now: Instant, network: NetworkId, seal: Option<&Seal>) {
        let about = self.view.networks().get(&network).zip(self.view.secrets(network));
        if about.is_some_and(|(about, secrets)| secrets.newest().epoch >= about.secret.epoch) {
            // It was asked for before this client had the secret another way: it may have made it.
            return;
        }
        let opened = seal.map(|seal| self.open_seal(network, seal));
        match opened {
            Some(Ok(secrets)) => self.take_secrets(now, network, secrets),
            Some(Err(error)) => {
                tracing::warn!(%network, %error, "a newer secret is not believed: the old one is kept");
                self.renewal.warnings.insert(network, Code::SecretUnverified);
            }
            None => {
                self.renewal.warnings.insert(network, Code::SecretLacking);
            }
        }
    }

    /// The newest secrets of a network are these.
    pub fn take_secrets(&mut self, now: Instant, network: NetworkId, secrets: SealedSecrets) {
        self.renewal.busy.remove(&network);
        if self.view.renew(network, secrets) {
            tracing::info!(%network, "the network has a newer secret");
            self.renewal.warnings.remove(&network);
            self.changed = true;
            self.reconcile(now);
        }
        self.tend_secrets(now);
    }

    /// Nobody else could be handed the newest secret.
    pub fn handle_handed(&mut self, now: Instant, network: NetworkId) {
        self.renewal.busy.remove(&network);
        if let Some(about) = self.view.networks().get(&network) {
            self.renewal.tried.insert(network, about.revision());
        }
        self.tend_secrets(now);
    }

    /// It came to nothing; the next change, or the next look, begins anew.
    pub fn handle_not_renewed(&mut self, now: Instant, network: NetworkId) {
        self.renewal.busy.insert(network, now + AGAIN);
        self.choose = self.choose.min(now + AGAIN);
    }

    /// The server knows that this client has the secret of `epoch`, or does not care.
    pub fn handle_proved(&mut self, network: NetworkId, epoch: SecretEpoch) {
        self.renewal.proving.remove(&network);
        self.view.prove(network, epoch);
        self.changed = true;
    }

    /// What was asked in the session before has no answer.
    pub(super) fn renew_session(&mut self) {
        let warnings = std::mem::take(&mut self.renewal.warnings);
        self.renewal = Renewal { warnings, ..Renewal::default() };
    }

    /// Looks what each network lacks.
    pub(super) fn tend_secrets(&mut self, now: Instant) {
        if !self.online {
            return;
        }
        let networks: Vec<_> = self.view.networks().keys().copied().collect();
        for network in networks {
            self.tend_network(now, network);
        }
        let known = self.view.networks();
        self.renewal.warnings.retain(|network, _| known.contains_key(network));
        self.renewal.due.retain(|network, _| known.contains_key(network));
        if self.changed {
            self.save.get_or_insert(now + super::SAVE_AFTER);
            self.changed = false;
        }
    }

    /// Begins what is due.
    pub(super) fn handle_renewal_deadline(&mut self, now: Instant) {
        let due: Vec<_> = self.renewal.due.iter().filter(|(_, due)| **due <= now).map(|(id, _)| *id).collect();
        for network in due {
            self.renewal.due.remove(&network);
            let task = self.view.networks().get(&network).and_then(|about| self.task(network, about));
            if let Some((task, _)) = task.filter(|_| self.online) {
                self.renewal.busy.insert(network, now + PATIENCE);
                self.outputs.push_back(Output::MakeSecret(network, task));
            }
        }
    }

    pub(super) fn poll_renewal_deadline(&self) -> Option<Instant> {
        self.renewal.due.values().min().copied()
    }

    fn tend_network(&mut self, now: Instant, network: NetworkId) {
        let Some(about) = self.view.networks().get(&network) else { return };
        let (revision, state) = (about.revision(), about.secret);
        let Some(secrets) = self.view.secrets(network) else { return };
        let (newest, proved) = (secrets.newest().clone(), secrets.proved);
        if newest.epoch < state.epoch && self.renewal.asked.insert(network, revision) != Some(revision) {
            self.outputs.push_back(Output::WantSeal(network));
        }
        let proving = self.renewal.proving.get(&network).copied();
        if proved != Some(newest.epoch) && proving != Some(newest.epoch) {
            self.renewal.proving.insert(network, newest.epoch);
            let proof = newest.prove(network, self.own, &self.local.public());
            self.outputs.push_back(Output::Prove(network, newest.epoch, proof));
        }
        let busy = self.renewal.busy.get(&network).is_some_and(|until| now < *until);
        let task = self.view.networks().get(&network).and_then(|about| self.task(network, about));
        match task.filter(|_| !busy) {
            Some((_, (least, most))) => {
                let wait = self.random.random_range(least..most);
                let due = self.renewal.due.entry(network).or_insert(now + wait);
                *due = (*due).min(now + most);
            }
            None => drop(self.renewal.due.remove(&network)),
        }
    }

    /// What this client is to make for a network, and how long it waits for others to do it.
    fn task(&self, network: NetworkId, about: &Network) -> Option<(Task, (Duration, Duration))> {
        let secrets = self.view.secrets(network)?;
        if about.role < Role::Admin || secrets.newest().epoch != about.secret.epoch {
            return None;
        }
        let untried = self.renewal.tried.get(&network) != Some(&about.revision());
        match about.secret.wanted {
            Wanted::Now => Some((Task::Renew, URGENT)),
            Wanted::Soon => Some((Task::Renew, LAZY)),
            Wanted::No if about.secret.lacking > 0 && untried => Some((Task::Hand, URGENT)),
            Wanted::No => None,
        }
    }

    fn open_seal(&self, network: NetworkId, seal: &Seal) -> Result<SealedSecrets, SealError> {
        let header = SealHeader::read(&seal.bytes)?;
        let about = self.view.networks().get(&network).ok_or(SealError::Malformed)?;
        let secrets = self.view.secrets(network).ok_or(SealError::OtherSecret)?;
        let holds = secrets.of(header.from).ok_or(SealError::OtherSecret)?;
        let maker = if header.maker == self.own {
            self.view.keys().cloned()
        } else {
            about
                .members()
                .find(|member| member.client == header.maker && member.role >= Role::Admin)
                .map(domain::Member::keys)
        };
        let to = Addressee { network, member: self.own, tunnel: self.local.public(), holds };
        let opened = self.local.open_seal(&seal.bytes, to, &maker.ok_or(SealError::Unsigned)?)?;
        if opened.newest.epoch > secrets.newest().epoch { Ok(opened) } else { Err(SealError::OtherSecret) }
    }
}

/// Somebody who was removed knows the newest secret: the first of the owners and admins makes another.
const URGENT: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(1_500));
/// Somebody left.
const LAZY: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(90));
/// For the whole exchange with the server.
const PATIENCE: Duration = Duration::from_secs(60);
/// After a failure.
const AGAIN: Duration = Duration::from_secs(20);
