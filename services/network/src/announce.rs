//! Telling the members: changes of networks, and who comes and goes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use bus::Bus;
use contract::{
    admin::Happened,
    gateway::{Notice, Push, Target},
    membership::MembershipSigner,
    rendezvous::{PairWanted, PairsWanted, Wanted},
    session::{SessionChange, SessionChanged},
};
use domain::{ClientId, Event, EventKind, GatewayId, NetworkChange, NetworkId, PeerPresence, Revision};
use futures_util::future::try_join_all;
use presence::{Presence, Seat};
use store::{Announcement, Networks, Peer};
use tokio::{
    sync::mpsc::{self, error::TrySendError},
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::{Metrics, Seams, now};

/// Words that wait to be told. When full they are left to the sweep (changes) or to the clients' own asking (pairs).
const WAITING: usize = 4_096;
/// Words told at once.
const AT_ONCE: usize = 16;
/// Clients asked for in one question to presence.
const CLIENTS_PER_QUESTION: usize = 256;
/// Sessions in one push.
const TARGETS_PER_PUSH: usize = 1_000;
/// Pairs in one event to rendezvous.
const PAIRS_PER_EVENT: usize = 256;
/// How long what was told waits for more, to be noted together: a transaction costs more than what it does here. A fraction of
/// what the sweep waits for.
const NOTED_AFTER: Duration = Duration::from_millis(50);

/// A network whose members were told, and up to where.
type Told = (NetworkId, Revision);

/// Something to be told after a commit.
#[derive(Debug)]
pub(crate) enum Word {
    /// A network changed; `except` knows it from the reply to its call.
    Change { announcement: Announcement, except: Option<ClientId> },
    /// A client is sent away that never was a member.
    Left { client: ClientId, change: NetworkChange },
    /// A client shares a network with others from now on.
    Met { client: ClientId, others: Vec<ClientId> },
}

/// Why somebody was not told.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AnnounceError {
    #[error("storage failed")]
    Store(#[from] store::Error),
    #[error("presence failed")]
    Presence(#[from] presence::Error),
    #[error("the bus failed")]
    Bus(#[from] bus::Error),
}

/// Knows whom to tell, and where they are.
pub(crate) struct Announcer {
    pub(crate) bus: Bus,
    pub(crate) presence: Presence,
    pub(crate) networks: Arc<dyn Networks>,
    pub(crate) metrics: Arc<Metrics>,
    signer: Arc<MembershipSigner>,
    words: mpsc::Sender<Word>,
}

/// The words that wait.
pub(crate) struct Words(mpsc::Receiver<Word>);

impl Announcer {
    pub(crate) fn new(seams: &Seams, signer: Arc<MembershipSigner>) -> (Self, Words) {
        let (words, waiting) = mpsc::channel(WAITING);
        let Seams { bus, presence, networks, metrics, .. } = seams.clone();
        (Self { bus, presence, networks, metrics, signer, words }, Words(waiting))
    }

    /// Has `word` told soon. Nobody waits for it: what is not told now, the sweep tells.
    pub(crate) fn tell(&self, word: Word) {
        match self.words.try_send(word) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Closed(_)) => self.metrics.announcements_deferred.inc(),
        }
    }

    /// Tells the members of a network, wherever they are, and those who are not any more, and notes that they were told.
    pub(crate) async fn change(&self, announcement: Announcement) -> Result<(), AnnounceError> {
        let told = self.tell_change(announcement, None).await?;
        Ok(self.networks.announced(&[told]).await?)
    }

    /// Tells all but one, who knows, and returns what is to be noted.
    async fn tell_change(&self, announcement: Announcement, except: Option<ClientId>) -> Result<Told, AnnounceError> {
        let Announcement { change, to, seated } = announcement;
        let (network, revision) = (change.network, change.revision);
        let asked: BTreeSet<_> = to.iter().copied().chain(change.members.iter().map(|member| member.client)).collect();
        let online = self.online(&asked.into_iter().collect::<Vec<_>>()).await?;
        let mut changes = [change];
        mark(&mut changes, &online);
        let [change] = changes;
        let gone: Vec<_> = change.members.iter().filter(|member| member.gone).map(|member| member.client).collect();
        let here = |clients: &[ClientId]| -> Vec<&Seat> {
            clients.iter().filter(|&&client| Some(client) != except).filter_map(|client| online.get(client)).collect()
        };
        self.push(here(&gone).into_iter(), &Notice::Change(left(&change))).await?;
        let moved = !change.members.is_empty();
        let removals = if moved { self.networks.removals(network, now()).await? } else { None };
        self.push(here(&to).into_iter(), &Notice::Change(change)).await?;
        if let Some(removals) = removals {
            // Also for who knows the change: it is what others are shown.
            let told = to.iter().filter_map(|client| online.get(client));
            self.push(told, &Notice::Removals(self.signer.removals(removals))).await?;
        }
        for client in seated {
            let others: Vec<_> = to.iter().copied().filter(|other| *other != client).collect();
            self.met(client, &others).await?;
        }
        Ok((network, revision))
    }

    async fn say(&self, word: Word) -> Result<Option<Told>, AnnounceError> {
        match word {
            Word::Change { announcement, except } => return self.tell_change(announcement, except).await.map(Some),
            Word::Left { client, change } => self.left(client, &change).await?,
            Word::Met { client, others } => self.met(client, &others).await?,
        }
        Ok(None)
    }

    async fn note(self: Arc<Self>, told: Vec<Told>) -> Result<Option<Told>, AnnounceError> {
        self.networks.announced(&told).await?;
        Ok(None)
    }

    /// Tells the peers of a client what happened to its session, unless something newer happened since.
    pub(crate) async fn session(&self, event: SessionChanged) -> Result<(), AnnounceError> {
        let SessionChanged { client, epoch, change } = event;
        let seat = self.online(&[client]).await?.remove(&client);
        let current = seat.as_ref().is_some_and(|seat| seat.epoch == epoch);
        let over = seat.is_none_or(|seat| seat.epoch < epoch);
        let (stale, notice, reason) = match change {
            SessionChange::Up => (!current, Some(Notice::PeerUp(client)), Some(Wanted::Online)),
            SessionChange::Rebuilt => (!current, Some(Notice::PeerUp(client)), None),
            SessionChange::Profiled => (!current, None, Some(Wanted::Profiled)),
            SessionChange::Down => (!over, Some(Notice::PeerDown(client)), None),
            SessionChange::Lost => (!over, Some(Notice::PeerLost(client)), None),
        };
        if stale {
            return Ok(());
        }
        let happened = match change {
            SessionChange::Up => Some(EventKind::ClientOnline),
            SessionChange::Down => Some(EventKind::ClientOffline),
            SessionChange::Lost => Some(EventKind::ClientLost),
            SessionChange::Rebuilt | SessionChange::Profiled => None,
        };
        let peers = self.networks.peers(client).await?;
        let online = self.online(&peers.iter().map(|peer| peer.client).collect::<Vec<_>>()).await?;
        if let Some(notice) = notice {
            self.push(online.values(), &notice).await?;
        }
        if let Some(reason) = reason {
            self.want(pairs(client, &peers, &online, reason)).await?;
        }
        if let Some(kind) = happened {
            self.happened(kind, client).await;
        }
        Ok(())
    }

    /// Tells programs of operators. Peers come first, and do not wait for it.
    async fn happened(&self, kind: EventKind, client: ClientId) {
        let event = Event::new(kind, now(), rand::random()).client(client);
        if let Err(error) = self.bus.publish(&Happened { events: vec![event] }).await {
            tracing::debug!(%error, "an event was not told");
        }
    }

    /// Who of `clients` has a session, and where.
    pub(crate) async fn online(&self, clients: &[ClientId]) -> Result<BTreeMap<ClientId, Seat>, presence::Error> {
        let mut online = BTreeMap::new();
        for some in clients.chunks(CLIENTS_PER_QUESTION) {
            let seats = self.presence.find(some).await?;
            online.extend(seats.into_iter().flatten().map(|seat| (seat.client, seat)));
        }
        Ok(online)
    }

    /// Hands pairs to rendezvous.
    pub(crate) async fn want(&self, pairs: Vec<PairWanted>) -> Result<(), bus::Error> {
        for some in pairs.chunks(PAIRS_PER_EVENT) {
            self.bus.publish(&PairsWanted { pairs: some.to_vec() }).await?;
            self.metrics.pairs_wanted.inc_by(some.len() as u64);
        }
        Ok(())
    }

    /// Has the gateways end the sessions of `clients`. Returns those that there were.
    pub(crate) async fn end(&self, clients: &[ClientId], back_after_ms: u32) -> Result<Vec<Seat>, AnnounceError> {
        let online = self.online(clients).await?;
        self.push(online.values(), &Notice::Ended(back_after_ms)).await?;
        Ok(online.into_values().collect())
    }

    /// Tells `client` that it is no member of the changed network.
    async fn left(&self, client: ClientId, change: &NetworkChange) -> Result<(), AnnounceError> {
        let online = self.online(&[client]).await?;
        Ok(self.push(online.values(), &Notice::Change(left(change))).await?)
    }

    /// Asks for paths between a new member and those of the others who are online.
    async fn met(&self, client: ClientId, others: &[ClientId]) -> Result<(), AnnounceError> {
        let mut peers = self.networks.peers(client).await?;
        peers.retain(|peer| others.contains(&peer.client));
        let mut online = self.online(&[&[client], others].concat()).await?;
        if let Some(seat) = online.remove(&client) {
            let met: Vec<_> = peers.iter().filter_map(|peer| online.get(&peer.client)).collect();
            self.push(met.iter().copied(), &Notice::PeerUp(client)).await?;
            for peer in &met {
                self.push(std::iter::once(&seat), &Notice::PeerUp(peer.client)).await?;
            }
            self.want(pairs(client, &peers, &online, Wanted::Online)).await?;
        }
        Ok(())
    }

    /// Sends `notice` to the gateways of `seats`. A gateway that is gone took its sessions along: nobody is left to tell.
    async fn push<'a>(&self, seats: impl Iterator<Item = &'a Seat>, notice: &Notice) -> Result<(), bus::Error> {
        let mut gateways: BTreeMap<GatewayId, Vec<Target>> = BTreeMap::new();
        for seat in seats {
            gateways.entry(seat.gateway).or_default().push(Target { client: seat.client, epoch: seat.epoch });
        }
        let pushes = gateways.iter().flat_map(|(&gateway, targets)| {
            targets.chunks(TARGETS_PER_PUSH).map(move |some| self.push_to(gateway, some, notice))
        });
        try_join_all(pushes).await.map(drop)
    }

    async fn push_to(&self, gateway: GatewayId, to: &[Target], notice: &Notice) -> Result<(), bus::Error> {
        let push = Push { to: to.to_vec(), notice: notice.clone() };
        match self.bus.publish_to(gateway, &push).await {
            Ok(()) => {
                self.metrics.pushes.inc();
                Ok(())
            }
            Err(bus::Error::Unroutable) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

impl Words {
    /// Tells them until `drained`, and then those that are left.
    pub(crate) async fn run(mut self, announcer: Arc<Announcer>, drained: CancellationToken) {
        let mut telling: JoinSet<Result<Option<Told>, AnnounceError>> = JoinSet::new();
        let (mut told, mut note_at) = (Vec::new(), Instant::now());
        loop {
            tokio::select! {
                biased;
                Some(done) = telling.join_next() => match done {
                    Ok(Ok(some)) => {
                        if told.is_empty() {
                            note_at = Instant::now() + NOTED_AFTER;
                        }
                        told.extend(some);
                    }
                    Ok(Err(error)) => {
                        announcer.metrics.announcements_deferred.inc();
                        tracing::info!(%error, "an announcement is left to the sweep");
                    }
                    Err(_) => {}
                },
                () = sleep_until(note_at), if !told.is_empty() => {
                    telling.spawn(Arc::clone(&announcer).note(std::mem::take(&mut told)));
                }
                Some(word) = self.0.recv(), if telling.len() < AT_ONCE => {
                    let announcer = Arc::clone(&announcer);
                    telling.spawn(async move { announcer.say(word).await });
                }
                () = drained.cancelled(), if telling.is_empty() && self.0.is_empty() => {
                    if told.is_empty() {
                        break;
                    }
                    telling.spawn(Arc::clone(&announcer).note(std::mem::take(&mut told)));
                }
            }
        }
    }
}

/// Marks every member that has a seat as online, all others as offline.
pub(crate) fn mark<T>(changes: &mut [NetworkChange], online: &BTreeMap<ClientId, T>) {
    for member in changes.iter_mut().flat_map(|change| &mut change.members) {
        let here = !member.gone && online.contains_key(&member.client);
        member.presence = Some(if here { PeerPresence::Online } else { PeerPresence::Offline });
    }
}

/// What somebody is told who is no member since `change`.
pub(crate) fn left(change: &NetworkChange) -> NetworkChange {
    NetworkChange { members: Vec::new(), left: true, ..change.clone() }
}

/// A pair as rendezvous wants it.
pub(crate) const fn wanted(client: ClientId, peer: &Peer, reason: Wanted) -> PairWanted {
    let Peer { client: b, relay_rate, payers } = *peer;
    PairWanted { a: client, b, relay_rate, reason, leaves: None, payers }
}

fn pairs(client: ClientId, peers: &[Peer], online: &BTreeMap<ClientId, Seat>, reason: Wanted) -> Vec<PairWanted> {
    let here = peers.iter().filter(|peer| online.contains_key(&peer.client));
    here.map(|peer| wanted(client, peer, reason)).collect()
}

#[cfg(test)]
mod tests {
    use bus::memory::Hub;
    use domain::{AddressPool, IdentityKey, InstanceId, NetworkOrder, Signature, TunnelKey, UnixMillis};
    use prometheus::Registry;
    use store::{Login, NewNetwork, StoreOptions};

    use super::*;

    /// An announcer over a store of its own, which goes with the folder.
    async fn lab() -> (tempfile::TempDir, store::Stores, Announcer, Words) {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}/buri.db", folder.path().display());
        store::migrate(&url).await.unwrap();
        let stores = store::connect(&url, StoreOptions::default()).await.unwrap();
        let signer = Arc::new(MembershipSigner::from_seeds(&[1; 32]).unwrap());
        let seams = Seams {
            bus: Bus::memory(&Hub::default(), InstanceId::from_bytes([1; 16])),
            presence: Presence::connect("memory:").await.unwrap(),
            networks: Arc::clone(&stores.networks),
            pool: AddressPool::DEFAULT,
            metrics: Arc::new(Metrics::register(&Registry::new()).unwrap()),
        };
        let (announcer, words) = Announcer::new(&seams, signer);
        (folder, stores, announcer, words)
    }

    #[tokio::test]
    async fn what_finds_no_room_is_left_to_the_sweep() {
        let (_folder, stores, announcer, words) = lab().await;
        for _ in 0..=WAITING {
            announcer.tell(Word::Met { client: ClientId::from_bytes([1; 16]), others: Vec::new() });
        }
        assert_eq!(announcer.metrics.announcements_deferred.get(), 1);
        drop(words);
        stores.close().await;
    }

    #[tokio::test]
    async fn what_was_told_is_noted_before_the_role_ends() {
        let (_folder, stores, announcer, words) = lab().await;
        for number in 1..=3 {
            let login = Login {
                identity: IdentityKey::from_bytes([number; 32]),
                tunnel: TunnelKey::from_bytes([number; 32]),
                tunnel_signature: Signature::from_bytes([number; 64]),
                nick: None,
                client: None,
            };
            let owner = stores.accounts.login(login, now()).await.unwrap().client;
            let name = format!("network {number}").parse().unwrap();
            let new = NewNetwork { name, owner, password: vec![1; 192], wrapped_secret: vec![2; 60] };
            let made = stores.networks.create(new, now()).await.unwrap();
            let locked = NetworkOrder::Lock;
            let announcement = stores.networks.carry_out(made.whole.network, owner, locked, now()).await.unwrap();
            announcer.tell(Word::Change { announcement, except: None });
        }
        let later = UnixMillis(u64::MAX);
        assert_eq!(stores.networks.unannounced(later, 10).await.unwrap().len(), 3);

        let drained = CancellationToken::new();
        drained.cancel();
        words.run(Arc::new(announcer), drained).await;

        assert_eq!(stores.networks.unannounced(later, 10).await.unwrap(), []);
        stores.close().await;
    }
}
