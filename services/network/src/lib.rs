//! The role that owns networks: who is a member, what members are told, and who may guess how often.
//!
//! - **Join and create** run OPAQUE (RFC 9807): this role never sees a password. An attempt is taken out of three budgets
//!   (network, client, source) before anything is answered, and given back when the password was right. A name that does not
//!   exist is answered from a dummy record: same size, same work, same refusal. The state between the two halves of a join
//!   travels sealed with the gateway, so that any process can serve the second half.
//! - **Creation is watched, too.** Its first half evaluates the same oblivious function as a join. Answered without limit it
//!   would turn one recorded join into an off-line search; so it is refused for names that exist, and has a budget.
//! - **Governing.** Owners and admins order ([`domain::NetworkOrder`]); who may is one table ([`domain::may`]), asked in the
//!   transaction that carries the order out. Whoever is removed is told to leave, like everybody else is told of it: by the
//!   change itself, so that the sweep repairs both.
//! - **Invites** let in without the password. This role knows the hash of what redeems one, and the network secret sealed
//!   under a key that only the link holds.
//! - **Secrets** change when the password does, and when somebody is removed or leaves. This role counts them
//!   ([`domain::SecretEpoch`]), carries each sealed for a member, and lets one of several makers win. The password and the
//!   invites go on to open the secret of the *door*; an owner's or admin's client hands the newest to whoever came in by it.
//!   A changed password ends all invites, because they open the old door.
//! - **Kinds.** In a network of hubs and spokes, spokes meet hubs only. Members who do not meet are announced to each other in no
//!   way: no presence, no negotiation, no relay ticket. They know of one another as members: names, keys, and whether somebody
//!   was online when something about it changed.
//! - **Gateways.** In a network of that kind, an owner or admin names where a member leads the others: private prefixes, which
//!   do not overlap ([`domain::route_prefixes`]). That makes it a hub, and nothing else: nobody leads or follows before the
//!   member's own machine agreed, prefix by prefix. The routes stand with the member and go with it.
//! - **Seats.** Where the plan of the owner allows fewer members than there are, nobody is removed: [`domain::seated`] says who
//!   keeps a seat. Who has none is a member that meets nobody there, and gets no tickets; its secrets wait for it as for somebody
//!   who is away. What happens in a network deals its seats out at once; a change of a plan marks the networks that it concerns,
//!   and the sweep does the same to them, one transaction each. While no server answers, removals name who has no seat.
//! - **Membership.** What a network's members are told to show one another, so that a removal holds between them while no
//!   server answers, is signed here: a ticket for each that asks, and, whenever members come or go, who is a member no more.
//!   How clients use it is on the page of the client's `core::membership`.
//! - **Announcing.** The database is the truth and its outbox says what was not told yet. After every commit the members'
//!   gateways are told at once; what gets lost on the way (a crash, a broker outage, a full queue) a sweep finds every two
//!   seconds. Clients notice gaps by the revision and ask.
//! - **Presence.** Gateways tell when sessions begin and end; one process of this role tells the peers and asks rendezvous
//!   for paths. A gateway that died says nothing: its sessions run out in presence and the sweep announces them lost.

mod announce;
mod govern;
mod join;
mod limits;
mod membership;
mod metrics;
mod operators;
mod pending;
mod secrets;
mod sweep;
mod sync;

pub mod password;

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bus::{Bus, Served};
use contract::{
    membership::MembershipSigner,
    network::{
        Admissions, AnotherRelay, ChangesSince, Connect, CreateFinish, CreateStart, HandSecret, Holders, JoinFinish,
        JoinStart, Keys, Leave, Membership, Networks, Order, Prove, Redeem, Refusal, RenewSecret, Sealed, Sessions,
        SetNick, SetPassStart, Snapshot, Unannounced,
    },
    session::SessionChanged,
};
use domain::{AddressPool, UnixMillis};
use presence::Presence;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use announce::Announcer;
use password::Passwords;

pub use limits::Limits;
pub use membership::KeysError;
pub use metrics::{Metrics, Outcome};

/// How this role behaves.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The file of the OPAQUE server set-up. Empty: `opaque.setup` among the secrets.
    pub setup: PathBuf,
    /// The keys that memberships are signed with, 32 bytes each: the first signs, clients know all, at most four. Empty:
    /// `membership.key` among the secrets.
    pub membership_key: PathBuf,
    /// Threads for the password protocol. 0: as many as there are cores.
    pub password_threads: usize,
    /// Calls of one kind served at once.
    pub concurrency: usize,
    /// How often changes that were not announced and sessions that ran out are looked for.
    #[serde(with = "domain::human_duration")]
    pub sweep: Duration,
    /// How often one may try.
    pub limits: Limits,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            setup: PathBuf::new(),
            membership_key: PathBuf::new(),
            password_threads: 0,
            concurrency: 64,
            sweep: Duration::from_secs(2),
            limits: Limits::default(),
        }
    }
}

/// What this role needs of the rest.
#[derive(Clone)]
pub struct Seams {
    pub bus: Bus,
    pub presence: Presence,
    pub networks: Arc<dyn store::Networks>,
    /// Where IPv4 addresses come from, for the prefix length that clients configure.
    pub pool: AddressPool,
    pub metrics: Arc<Metrics>,
}

impl std::fmt::Debug for Seams {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Seams").finish_non_exhaustive()
    }
}

/// Why the role cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no set-up of the password protocol")]
    Setup(#[from] password::SetupError),
    #[error("no keys to sign memberships with")]
    Membership(#[from] membership::KeysError),
    #[error("the calls of this role cannot be served")]
    Bus(#[from] bus::Error),
}

/// Serves until `shutdown`, then finishes what was begun.
///
/// # Errors
/// [`Error`] when the set-up cannot be read, or the bus refuses.
pub async fn run(config: Config, seams: Seams, shutdown: CancellationToken) -> Result<(), Error> {
    let passwords = Passwords::read(&config.setup, config.password_threads)?;
    let signer = Arc::new(membership::read(&config.membership_key)?);
    let (announcer, announcements) = Announcer::new(&seams, Arc::clone(&signer));
    let role = Arc::new(Role { limits: config.limits, passwords, signer, announcer: Arc::new(announcer), seams });
    let mut served = role.serve(config.concurrency.max(1)).await?;
    served.extend(role.serve_operators(&role.seams.bus, config.concurrency.max(1)).await?);

    let drained = CancellationToken::new();
    let stop = async {
        shutdown.cancelled().await;
        for served in served {
            served.stop().await;
        }
        drained.cancel();
    };
    let announcing = announcements.run(Arc::clone(&role.announcer), drained.clone());
    let sweeping = sweep::run(&role.announcer, config.sweep, &shutdown);
    tokio::join!(stop, announcing, sweeping);
    Ok(())
}

/// The state of the role: limits and keys. Everything else is in the database and presence.
struct Role {
    limits: Limits,
    passwords: Passwords,
    signer: Arc<MembershipSigner>,
    announcer: Arc<Announcer>,
    seams: Seams,
}

impl Role {
    async fn serve(self: &Arc<Self>, concurrency: usize) -> Result<Vec<Served>, bus::Error> {
        let bus = &self.seams.bus;
        Ok(vec![
            bus.serve(concurrency, self.on(|role, call: CreateStart| async move { role.create_start(call).await }))
                .await?,
            bus.serve(concurrency, self.on(|role, call: CreateFinish| async move { role.create_finish(call).await }))
                .await?,
            bus.serve(concurrency, self.on(|role, call: JoinStart| async move { role.join_start(call).await })).await?,
            bus.serve(concurrency, self.on(|role, call: JoinFinish| async move { role.join_finish(call).await }))
                .await?,
            bus.serve(concurrency, self.on(|role, call: Leave| async move { role.leave(call).await })).await?,
            bus.serve(concurrency, self.on(|role, call: Redeem| async move { role.redeem(call).await })).await?,
            bus.serve(concurrency, self.on(|role, call: Order| async move { role.order(call).await })).await?,
            bus.serve(concurrency, self.on(|role, call: Admissions| async move { role.admissions(call).await }))
                .await?,
            bus.serve(concurrency, self.on(|role, call: Keys| async move { role.keys(call).await })).await?,
            bus.serve(concurrency, self.on(|role, call: SetPassStart| async move { role.set_pass_start(call).await }))
                .await?,
            bus.serve(concurrency, self.on(|role, call: RenewSecret| async move { role.renew_secret(call).await }))
                .await?,
            bus.serve(concurrency, self.on(|role, call: HandSecret| async move { role.hand_secret(call).await }))
                .await?,
            bus.serve(concurrency, self.on(|role, call: Holders| async move { role.holders(call).await })).await?,
            bus.serve(concurrency, self.on(|role, call: Sealed| async move { role.sealed(call).await })).await?,
            bus.serve(concurrency, self.on(|role, call: Prove| async move { role.prove(call).await })).await?,
            bus.serve(concurrency, self.on(|role, call: Membership| async move { role.membership(call).await }))
                .await?,
            bus.serve(concurrency, self.on(|role, call: SetNick| async move { role.set_nick(call).await })).await?,
            bus.serve(concurrency, self.on(|role, call: Snapshot| async move { role.snapshot(call).await })).await?,
            bus.serve(concurrency, self.on(|role, call: ChangesSince| async move { role.changes_since(call).await }))
                .await?,
            bus.serve(concurrency, self.on(|role, call: Connect| async move { role.connect(call).await })).await?,
            bus.serve(concurrency, self.on(|role, call: AnotherRelay| async move { role.another_relay(call).await }))
                .await?,
            bus.serve(concurrency, self.on(|role, call: Sessions| async move { role.sessions(call).await })).await?,
            bus.serve(concurrency, self.on(|role, call: Networks| async move { role.networks(call).await })).await?,
            bus.subscribe(
                concurrency,
                self.on(|role, event: SessionChanged| async move { role.announcer.session(event).await }),
            )
            .await?,
            bus.subscribe(1, self.on(|role, Unannounced| async move { sweep::announce_now(&role.announcer).await }))
                .await?,
        ])
    }

    /// Gives each message its own handle of the role.
    fn on<M, F, Fut>(self: &Arc<Self>, handle: F) -> impl Fn(M) -> Fut + Send + Sync + 'static
    where
        F: Fn(Arc<Self>, M) -> Fut + Send + Sync + 'static,
    {
        let role = Arc::clone(self);
        move |message| handle(Arc::clone(&role), message)
    }
}

/// The wall clock, for expiries and for people.
fn now() -> UnixMillis {
    SystemTime::now().into()
}

/// Logs what broke under a number, which is all that the client learns, unless it is to try again soon.
fn internal(error: &(dyn std::error::Error + 'static)) -> Refusal {
    if store::Error::is_busy(error) {
        tracing::warn!("a call waited too long for the database");
        return Refusal::Busy;
    }
    let incident = rand::random();
    let cause = error.source().map(tracing::field::display);
    tracing::error!(incident, error = %error, cause, "a call failed");
    Refusal::Internal { incident }
}
