//! The use cases of networks, each with its transaction.

use async_trait::async_trait;
use domain::{
    Admissions, ClientId, Holder, InviteId, KnownNetwork, NetworkChange, NetworkId, NetworkName, NetworkOrder,
    NewSecret, Nickname, Removals, Revision, Role, Seal, SecretEpoch, SecretProof, UnixMillis,
};

use super::{
    budgets::{self, Stop},
    directory,
    engine::Store,
    events, governing, invites, joining, membership, operating, outbox, reading, removals, seating, secrets,
};
use crate::{
    Admission, Announcement, Budget, BudgetKind, CreateError, Error, FoundNetworks, GovernError, Guess, JoinError,
    Joined, KeyHolder, LeaveError, NetworkDetails, NetworkMember, NetworkSummary, Networks, NewNetwork, OrderError,
    PairPlan, PasswordRecord, Peer, Place, Proven, Snapshot,
};

/// Steps that a changed plan is spread over its owners in, at once.
const SPREADING_STEPS: usize = 20;

#[async_trait]
impl Networks for Store {
    async fn create(&self, network: NewNetwork, at: UnixMillis) -> Result<Joined, CreateError> {
        let (context, id) = (self.context, NetworkId::from_bytes(rand::random()));
        let new = network.clone();
        match self.engine.write("create", move |db| Box::pin(joining::create(db, context, id, new, at))).await {
            Err(CreateError::NameTaken) => {
                let repeated =
                    self.engine.write("created", move |db| Box::pin(joining::created(db, context, network))).await?;
                repeated.ok_or(CreateError::NameTaken)
            }
            made => made,
        }
    }

    async fn join(
        &self,
        network: NetworkId,
        client: ClientId,
        request: [u8; 16],
        at: UnixMillis,
    ) -> Result<Admission, JoinError> {
        self.admit(network, client, request, None, at).await
    }

    async fn join_by_password(
        &self,
        network: NetworkId,
        client: ClientId,
        request: [u8; 16],
        spent: &[Budget],
        taken: UnixMillis,
        at: UnixMillis,
    ) -> Result<Admission, JoinError> {
        self.admit(network, client, request, Some((in_lock_order(spent), taken)), at).await
    }

    async fn leave(
        &self,
        network: NetworkId,
        client: ClientId,
        at: UnixMillis,
    ) -> Result<Option<Announcement>, LeaveError> {
        let context = self.context;
        self.engine.write("leave", move |db| Box::pin(membership::leave(db, context, network, client, at))).await
    }

    async fn redeem(
        &self,
        invite: InviteId,
        client: ClientId,
        request: [u8; 16],
        at: UnixMillis,
    ) -> Result<Joined, JoinError> {
        let context = self.context;
        let joined = self
            .engine
            .write("redeem", move |db| Box::pin(invites::redeem(db, context, invite, client, request, at)))
            .await;
        match joined {
            Err(JoinError::AlreadyMember) => {
                let repeated = self
                    .engine
                    .write("redeemed", move |db| Box::pin(invites::redeemed(db, context, invite, client, request)))
                    .await?;
                repeated.ok_or(JoinError::AlreadyMember)
            }
            joined => joined,
        }
    }

    async fn carry_out(
        &self,
        network: NetworkId,
        client: ClientId,
        order: NetworkOrder,
        at: UnixMillis,
    ) -> Result<Announcement, OrderError> {
        let context = self.context;
        self.engine
            .write("carry out", move |db| Box::pin(governing::carry_out(db, context, network, client, order, at)))
            .await
    }

    async fn admissions(&self, network: NetworkId, client: ClientId, at: UnixMillis) -> Result<Admissions, OrderError> {
        self.engine.read("admissions", move |db| Box::pin(governing::admissions(db, network, client, at))).await
    }

    async fn keys(&self, network: NetworkId, client: ClientId) -> Result<KeyHolder, Error> {
        self.engine.read("keys", move |db| Box::pin(governing::keys(db, network, client))).await
    }

    fn credential(&self, network: NetworkId, epoch: SecretEpoch) -> String {
        secrets::credential(network, epoch)
    }

    async fn renew_secret(
        &self,
        network: NetworkId,
        client: ClientId,
        new: NewSecret,
        at: UnixMillis,
    ) -> Result<Announcement, OrderError> {
        let context = self.context;
        self.engine
            .write("renew secret", move |db| Box::pin(secrets::renew(db, context, network, client, new, at)))
            .await
    }

    async fn hand_secret(
        &self,
        network: NetworkId,
        client: ClientId,
        epoch: SecretEpoch,
        seals: Vec<Seal>,
        at: UnixMillis,
    ) -> Result<Announcement, OrderError> {
        let context = self.context;
        self.engine
            .write("hand secret", move |db| Box::pin(secrets::hand(db, context, network, client, epoch, seals, at)))
            .await
    }

    async fn holders(
        &self,
        network: NetworkId,
        client: ClientId,
        after: Option<ClientId>,
        limit: u16,
    ) -> Result<Vec<Holder>, OrderError> {
        self.engine.read("holders", move |db| Box::pin(secrets::holders(db, network, client, after, limit))).await
    }

    async fn sealed(&self, network: NetworkId, client: ClientId) -> Result<Option<Option<Seal>>, Error> {
        self.engine.read("sealed", move |db| Box::pin(secrets::sealed(db, network, client))).await
    }

    async fn prove(
        &self,
        network: NetworkId,
        client: ClientId,
        epoch: SecretEpoch,
        proof: SecretProof,
        at: UnixMillis,
    ) -> Result<Option<Announcement>, LeaveError> {
        let context = self.context;
        self.engine
            .write("prove", move |db| Box::pin(secrets::prove(db, context, network, client, epoch, proof, at)))
            .await
    }

    async fn set_nick(&self, client: ClientId, nick: Nickname, at: UnixMillis) -> Result<Vec<Announcement>, Error> {
        let context = self.context;
        self.engine.write("set nick", move |db| Box::pin(membership::set_nick(db, context, client, nick, at))).await
    }

    async fn is_free(&self, name: &NetworkName) -> Result<bool, Error> {
        let name = name.clone();
        self.engine.read("is free", move |db| Box::pin(reading::is_free(db, name))).await
    }

    async fn changes_since(
        &self,
        network: NetworkId,
        client: ClientId,
        revision: Revision,
    ) -> Result<Option<NetworkChange>, Error> {
        let context = self.context;
        self.engine
            .read("changes since", move |db| Box::pin(reading::changes_since(db, context, network, client, revision)))
            .await
    }

    async fn snapshot(&self, client: ClientId, known: &[KnownNetwork]) -> Result<Snapshot, Error> {
        let context = self.context;
        let known = known.iter().map(|known| (known.network, known.revision)).collect();
        self.engine.read("snapshot", move |db| Box::pin(reading::snapshot(db, context, client, known))).await
    }

    async fn removals(&self, network: NetworkId, at: UnixMillis) -> Result<Option<Removals>, Error> {
        self.engine.single("removals", move |db| Box::pin(removals::of(db, network, at))).await
    }

    async fn membership(&self, network: NetworkId, client: ClientId, at: UnixMillis) -> Result<Proven, Error> {
        self.engine.read("membership", move |db| Box::pin(removals::for_member(db, network, client, at))).await
    }

    async fn reseatings(&self, limit: u16) -> Result<Vec<NetworkId>, Error> {
        for _ in 0..SPREADING_STEPS {
            if !self.engine.read("is spreading", move |db| Box::pin(seating::is_spreading(db))).await? {
                break;
            }
            self.engine.write("spread", move |db| Box::pin(seating::spread(db))).await?;
        }
        self.engine.read("reseatings", move |db| Box::pin(seating::marked(db, limit))).await
    }

    async fn reseat(&self, network: NetworkId, at: UnixMillis) -> Result<Option<Announcement>, Error> {
        let context = self.context;
        self.engine.write("reseat", move |db| Box::pin(seating::reseat(db, context, network, at))).await
    }

    async fn peers(&self, client: ClientId) -> Result<Vec<Peer>, Error> {
        self.engine.single("peers", move |db| Box::pin(reading::peers(db, client))).await
    }

    async fn pair_plan(&self, a: ClientId, b: ClientId) -> Result<Option<PairPlan>, Error> {
        self.engine.read("pair plan", move |db| Box::pin(reading::pair_plan(db, a, b))).await
    }

    async fn guess(&self, budgets: &[Budget], at: UnixMillis) -> Result<Guess, Error> {
        let budgets = in_lock_order(budgets);
        let taken = self.engine.write("guess", move |db| Box::pin(budgets::take(db, budgets, at))).await;
        Ok(guessed(taken)?.0)
    }

    async fn guess_password(
        &self,
        name: &NetworkName,
        budgets: &[Budget],
        at: UnixMillis,
    ) -> Result<(Guess, Option<PasswordRecord>), Error> {
        let (name, budgets) = (name.clone(), in_lock_order(budgets));
        let taken = self.engine.write("guess password", move |db| {
            Box::pin(async move {
                budgets::take(db, budgets, at).await?;
                Ok(reading::password_record(db, name).await?)
            })
        });
        let (guess, record) = guessed(taken.await)?;
        Ok((guess, record.flatten()))
    }

    async fn forgive(&self, budgets: &[Budget], taken: UnixMillis) -> Result<(), Error> {
        let budgets = in_lock_order(budgets);
        self.engine.write("forgive", move |db| Box::pin(budgets::forgive(db, budgets, taken))).await
    }

    async fn prune_budgets(&self, at: UnixMillis) -> Result<u64, Error> {
        let mut pruned = 0;
        for kind in BudgetKind::ALL {
            pruned += self.engine.write("prune budgets", move |db| Box::pin(budgets::prune(db, kind, at))).await?;
        }
        pruned += self.engine.write("forget unread", move |db| Box::pin(events::forget_unread(db, at))).await?;
        Ok(pruned)
    }

    async fn unannounced(&self, before: UnixMillis, limit: u16) -> Result<Vec<Announcement>, Error> {
        let context = self.context;
        self.engine.read("unannounced", move |db| Box::pin(outbox::unannounced(db, context, before, limit))).await
    }

    async fn announced(&self, told: &[(NetworkId, Revision)]) -> Result<(), Error> {
        let mut told = told.to_vec();
        told.sort_unstable_by_key(|(network, _)| *network.as_bytes());
        self.engine.write("announced", move |db| Box::pin(outbox::announced(db, told))).await
    }

    async fn list(&self, after: Option<NetworkId>, limit: u16) -> Result<Vec<NetworkSummary>, Error> {
        self.engine.read("list", move |db| Box::pin(reading::list(db, after, limit))).await
    }

    async fn show(&self, network: NetworkId, at: UnixMillis) -> Result<Option<NetworkDetails>, Error> {
        self.engine.read("show", move |db| Box::pin(operating::show(db, network, at))).await
    }

    async fn members(
        &self,
        network: NetworkId,
        after: Option<ClientId>,
        limit: u16,
    ) -> Result<Vec<NetworkMember>, Error> {
        self.engine.read("members", move |db| Box::pin(operating::members(db, network, after, limit))).await
    }

    async fn networks_of(&self, client: ClientId) -> Result<Vec<(NetworkSummary, Role)>, Error> {
        self.engine.read("networks of", move |db| Box::pin(operating::networks_of(db, client))).await
    }

    async fn govern(
        &self,
        network: NetworkId,
        order: NetworkOrder,
        expected: Option<Revision>,
        at: UnixMillis,
    ) -> Result<Announcement, GovernError> {
        let context = self.context;
        self.engine
            .write("govern", move |db| Box::pin(operating::govern(db, context, network, order, expected, at)))
            .await
    }

    async fn find(&self, prefix: String, after: Option<Place<NetworkId>>, limit: u16) -> Result<FoundNetworks, Error> {
        self.engine.read("find", move |db| Box::pin(directory::networks(db, prefix, after, limit))).await
    }
}

impl Store {
    /// A join, with the attempt that it gives back.
    async fn admit(
        &self,
        network: NetworkId,
        client: ClientId,
        request: [u8; 16],
        spent: Option<(Vec<Budget>, UnixMillis)>,
        at: UnixMillis,
    ) -> Result<Admission, JoinError> {
        let context = self.context;
        let joined = self
            .engine
            .write("join", move |db| Box::pin(joining::join(db, context, network, client, request, spent, at)))
            .await;
        match joined {
            Err(JoinError::AlreadyMember) => {
                let repeated = self
                    .engine
                    .write("joined", move |db| Box::pin(joining::joined_by(db, context, network, client, request)))
                    .await?;
                repeated.map(|joined| Admission::Joined(Box::new(joined))).ok_or(JoinError::AlreadyMember)
            }
            joined => joined,
        }
    }
}

/// What a transaction that took attempts came to.
fn guessed<T>(taken: Result<T, Stop>) -> Result<(Guess, Option<T>), Error> {
    match taken {
        Ok(rest) => Ok((Guess::Allowed, Some(rest))),
        Err(Stop::Exhausted { retry_after }) => Ok((Guess::Exhausted { retry_after }, None)),
        Err(Stop::Store(error)) => Err(error),
    }
}

fn in_lock_order(budgets: &[Budget]) -> Vec<Budget> {
    let mut budgets = budgets.to_vec();
    budgets.sort_by_key(|budget| (budget.kind, budget.key));
    budgets
}
