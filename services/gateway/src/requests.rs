//! What a client asks in its session, as calls to the other roles and back.

use std::time::{Duration, SystemTime};

use bus::CallError;
use contract::{
    auth::Renew,
    network::{
        Admission, Admissions, AnotherRelay, ChangesSince, Connect, CreateFinish, CreateStart, HandSecret, Holders,
        JoinFinish, JoinStart, Joined as JoinedNetwork, Keys, Leave, Membership, Order, Prove, Redeem, Refusal,
        RenewSecret, Sealed, SetNick, SetPassStart, Snapshot,
    },
    rendezvous::{Pair, PunchSaid, PunchWord},
    session::{SessionChange, SessionChanged},
};
use domain::{
    ClientId, Epoch, IdentityKey, InstanceId, KnownNetwork, NetworkChange, RelayTrips, SessionTag, SourcePrefix,
    TunnelKey, UnixMillis,
};
use futures_util::future::{BoxFuture, FutureExt as _};
use tokio::time::Instant;
use wire::{
    Code,
    control::{ClientFrame, Joined, NatReport, Refused, Reply, Request, ServerFrame},
};

use crate::{belonging, hub::Hub, push, relays, rotation, trips::Trip};

/// However short tokens live, renewals do not come closer than this.
const LEAST_RENEWAL: Duration = Duration::from_secs(5);

/// After a renewal that failed.
const RENEW_AGAIN: Duration = Duration::from_secs(20);

/// Who is on the other side.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Who {
    pub(crate) client: ClientId,
    pub(crate) epoch: Epoch,
    pub(crate) tag: SessionTag,
    pub(crate) source: SourcePrefix,
    /// Of the control connection, at the time of the request.
    pub(crate) trip: Trip,
    pub(crate) identity: IdentityKey,
    pub(crate) tunnel: TunnelKey,
}

/// The requests of one session.
#[derive(Debug)]
pub(crate) struct Requests {
    /// The network role's sealed half of the join that was started last.
    pending_join: Option<Vec<u8>>,
}

/// What became of a request.
#[derive(Debug)]
pub(crate) struct Done {
    frames: Vec<ServerFrame>,
    pending_join: Option<Vec<u8>>,
    /// When a fresh token is wanted next.
    renew_at: Option<Instant>,
}

impl Requests {
    pub(crate) const fn new() -> Self {
        Self { pending_join: None }
    }

    /// Begins what `frame` asks for; `None` when there is nothing to wait for.
    pub(crate) fn start<'a>(&mut self, hub: &'a Hub, who: Who, frame: ClientFrame) -> Option<BoxFuture<'a, Done>> {
        match frame {
            ClientFrame::Request(number, request) => {
                let pending = matches!(request, Request::JoinFinish(_)).then(|| self.pending_join.take()).flatten();
                Some(async move { ask(hub, who, number, request, pending).await }.boxed())
            }
            ClientFrame::Sync(known) => Some(async move { sync(hub, who, known).await }.boxed()),
            ClientFrame::Nat(report) => Some(async move { profiled(hub, who, &report).await }.boxed()),
            ClientFrame::RelayTrips(trips) => Some(async move { measured(hub, who, *trips).await }.boxed()),
            ClientFrame::PunchReady(ready) => {
                let leader = ready.punch.leader;
                Some(async move { word(hub, who, leader, PunchSaid::Ready(ready)).await }.boxed())
            }
            ClientFrame::PunchReport(report) => {
                let leader = report.punch.leader;
                Some(async move { word(hub, who, leader, PunchSaid::Report(report)).await }.boxed())
            }
            ClientFrame::Login(_)
            | ClientFrame::Worked(_)
            | ClientFrame::Ping(_)
            | ClientFrame::Pong(_)
            | ClientFrame::Goodbye => None,
        }
    }

    /// Begins to get a fresh token for the client.
    pub(crate) fn renew(hub: &Hub, who: Who) -> BoxFuture<'_, Done> {
        async move { renewed(hub, who).await }.boxed()
    }

    /// What the client is told.
    pub(crate) fn finish(&mut self, done: Done) -> (Vec<ServerFrame>, Option<Instant>) {
        if done.pending_join.is_some() {
            self.pending_join = done.pending_join;
        }
        (done.frames, done.renew_at)
    }
}

/// When a token that ends at `expires` is half used up.
pub(crate) fn half_life(expires: UnixMillis) -> Instant {
    let left = expires.since(UnixMillis::from(SystemTime::now()));
    Instant::now() + (left / 2).max(LEAST_RENEWAL)
}

impl Done {
    const NOTHING: Self = Self::say(Vec::new());

    const fn say(frames: Vec<ServerFrame>) -> Self {
        Self { frames, pending_join: None, renew_at: None }
    }

    fn reply(number: u32, result: Result<Reply, Refused>) -> Self {
        let frame = match result {
            Ok(reply) => ServerFrame::Reply(number, reply),
            Err(refused) => ServerFrame::Refusal(number, refused),
        };
        Self::say(vec![frame])
    }
}

async fn ask(hub: &Hub, who: Who, number: u32, request: Request, pending: Option<Vec<u8>>) -> Done {
    let (client, source, bus) = (who.client, who.source, &hub.seams.bus);
    let result = match request {
        Request::CreateStart(name, request) => bus
            .call(&CreateStart { client, name, request, source })
            .await
            .map(|started| Reply::Registration(started.response))
            .map_err(refused),
        Request::CreateFinish(name, record, wrapped_secret) => {
            return joined(number, bus.call(&CreateFinish { client, name, record, wrapped_secret }).await);
        }
        Request::JoinStart(name, request) => match bus.call(&JoinStart { client, name, request, source }).await {
            Ok(started) => {
                let done = Done::reply(number, Ok(Reply::Credential(started.response)));
                return Done { pending_join: Some(started.pending), ..done };
            }
            Err(error) => Err(refused(error)),
        },
        Request::JoinFinish(finalization) => match pending {
            Some(pending) => match bus.call(&JoinFinish { client, pending, finalization }).await {
                Ok(Admission::Joined(membership)) => return joined(number, Ok(*membership)),
                Ok(Admission::Awaiting(network, name)) => Ok(Reply::Awaiting(network, name)),
                Err(error) => Err(refused(error)),
            },
            None => Err(Refused::because(Code::Malformed)),
        },
        Request::Leave(network) => done(bus.call(&Leave { client, network }).await),
        Request::SetNick(nick) => done(bus.call(&SetNick { client, nick }).await),
        Request::Connect(peer) => done(bus.call(&Connect { client, peer }).await),
        Request::Relay(peer, leaves) => done(bus.call(&AnotherRelay { client, peer, leaves }).await),
        Request::Why(peer) => match bus.call(&Pair { a: client, b: peer }).await {
            Ok(reply) => Ok(Reply::Why(reply.record.map(Box::new))),
            Err(CallError::Refused(contract::rendezvous::Refusal::Internal { incident })) => Err(internal(incident)),
            Err(CallError::TimedOut | CallError::Unavailable | CallError::Malformed | CallError::TooLarge { .. }) => {
                Err(Refused::because(Code::Unavailable))
            }
        },
        Request::ChangesSince(network, revision) => {
            return changed(number, bus.call(&ChangesSince { client, network, revision }).await);
        }
        Request::Order(network, order) => {
            return changed(number, bus.call(&Order { client, network, order }).await);
        }
        Request::Redeem(token, request) => {
            return joined(number, bus.call(&Redeem { client, token, request, source }).await);
        }
        Request::Admissions(network) => {
            let admissions = bus.call(&Admissions { client, network }).await;
            admissions.map(|admissions| Reply::Admissions(Box::new(admissions))).map_err(refused)
        }
        Request::Keys(network) => {
            let keys = bus.call(&Keys { client, network }).await;
            keys.map(|keys| Reply::Keys(keys.wrapped_secret, keys.door)).map_err(refused)
        }
        Request::SetPassStart(network, epoch, request) => {
            let started = bus.call(&SetPassStart { client, network, epoch, request }).await;
            started.map(|started| Reply::Registration(started.response)).map_err(refused)
        }
        Request::RenewSecret(network, new) => {
            return changed(number, bus.call(&RenewSecret { client, network, new: *new }).await);
        }
        Request::HandSecret(network, epoch, seals) => {
            return changed(number, bus.call(&HandSecret { client, network, epoch, seals }).await);
        }
        Request::Holders(network, after) => {
            let page = bus.call(&Holders { client, network, after }).await;
            page.map(|page| Reply::Holders(page.holders, page.more)).map_err(refused)
        }
        Request::Sealed(network) => {
            let sealed = bus.call(&Sealed { client, network }).await;
            sealed.map(|sealed| Reply::Sealed(sealed.seal.map(Box::new))).map_err(refused)
        }
        Request::Prove(network, epoch, proof) => done(bus.call(&Prove { client, network, epoch, proof }).await),
        Request::Membership(network) => {
            let proof = bus.call(&Membership { client, network }).await;
            proof.map(|proof| Reply::Membership(Box::new(proof.ticket), Box::new(proof.removals))).map_err(refused)
        }
        Request::AttachAccount(code) => belonging::attach(bus, client, code).await,
        Request::DetachAccount => belonging::detach(bus, client).await,
        Request::Account => belonging::account(bus, client).await,
        Request::RotateKey(keys) => rotation::rotate(bus, who, *keys).await,
    };
    Done::reply(number, result)
}

/// The answer to a create or join: what is in the network, then that it is joined.
fn joined(number: u32, result: Result<JoinedNetwork, CallError<Refusal>>) -> Done {
    match result {
        Ok(joined) => {
            let reply = Reply::Joined(Box::new(Joined {
                network: joined.network,
                name: joined.name,
                addresses: joined.addresses,
                wrapped_secret: joined.wrapped_secret,
                warning: joined.pool_exhausted.then_some(Code::AddressPoolExhausted),
                door: joined.door,
            }));
            let mut frames = push::frames(joined.change);
            frames.push(ServerFrame::Reply(number, reply));
            Done::say(frames)
        }
        Err(error) => Done::reply(number, Err(refused(error))),
    }
}

/// What changed in a network, then that this was all.
fn changed(number: u32, result: Result<NetworkChange, CallError<Refusal>>) -> Done {
    match result {
        Ok(change) => {
            let reply = ServerFrame::Reply(number, Reply::Done);
            Done::say(push::frames(change).into_iter().chain([reply]).collect())
        }
        Err(error) => Done::reply(number, Err(refused(error))),
    }
}

async fn sync(hub: &Hub, who: Who, known: Vec<KnownNetwork>) -> Done {
    match hub.seams.bus.call(&Snapshot { client: who.client, known }).await {
        Ok(snapped) => {
            let synced = ServerFrame::Synced(snapped.addresses, snapped.networks);
            Done::say(snapped.changes.into_iter().flat_map(push::frames).chain([synced]).collect())
        }
        Err(error) => {
            tracing::debug!(?error, "a client could not catch up; it asks again at its next login");
            Done::NOTHING
        }
    }
}

/// Keeps the profile where rendezvous looks, and says that it is new.
async fn profiled(hub: &Hub, who: Who, report: &NatReport) -> Done {
    hub.profiled(who.client, who.epoch, report.profile);
    let seams = &hub.seams;
    match seams.presence.report(who.client, who.epoch, report.profile).await {
        Ok(true) => {
            let changed = SessionChanged { client: who.client, epoch: who.epoch, change: SessionChange::Profiled };
            if let Err(error) = seams.bus.publish(&changed).await {
                tracing::warn!(error = telemetry::incident::chain(&error), "a NAT profile was not told");
            }
        }
        Ok(false) => {}
        Err(error) => tracing::warn!(error = telemetry::incident::chain(&error), "a NAT profile was not kept"),
    }
    Done::NOTHING
}

/// Keeps how far relays are where rendezvous looks, and names others to measure when there are better ones.
async fn measured(hub: &Hub, who: Who, trips: RelayTrips) -> Done {
    if let Err(error) = hub.seams.presence.measured(who.client, who.epoch, trips).await {
        tracing::debug!(error = telemetry::incident::chain(&error), "the round trips to relays were not kept");
    }
    let nearest = trips.iter().min_by_key(|trip| trip.rtt_us).map(|trip| trip.relay);
    let named = relays::named(hub, who.client, nearest);
    let known = named.len() == trips.iter().count() && named.iter().all(|place| trips.of(place.relay).is_some());
    if known { Done::NOTHING } else { Done::say(vec![ServerFrame::Relays(named)]) }
}

/// Passes a word on to the process that leads the negotiation. When that is gone, so is the negotiation.
async fn word(hub: &Hub, who: Who, leader: InstanceId, said: PunchSaid) -> Done {
    let (control_rtt_us, control_jitter_us) = (who.trip.shortest_us.into(), who.trip.jitter_us.map(u64::from));
    let word = PunchWord { from: who.client, tag: who.tag, control_rtt_us, said, control_jitter_us };
    if let Err(error) = hub.seams.bus.publish_to(leader, &word).await {
        tracing::debug!(%error, "a word of a negotiation went nowhere");
    }
    Done::NOTHING
}

/// A fresh token; when there is none at the moment, the old one goes on.
async fn renewed(hub: &Hub, who: Who) -> Done {
    let renew = Renew { client: who.client, identity: who.identity, tunnel: who.tunnel };
    match hub.seams.bus.call(&renew).await {
        Ok(renewed) => {
            let renew_at = Some(half_life(renewed.expires));
            Done { renew_at, ..Done::say(vec![ServerFrame::Token(renewed.token)]) }
        }
        Err(error) => {
            tracing::debug!(?error, "no fresh token");
            Done { renew_at: Some(Instant::now() + RENEW_AGAIN), ..Done::NOTHING }
        }
    }
}

fn done(result: Result<(), CallError<Refusal>>) -> Result<Reply, Refused> {
    result.map(|()| Reply::Done).map_err(refused)
}

pub(crate) fn internal(incident: u64) -> Refused {
    Refused { incident: Some(incident), ..Refused::because(Code::Internal) }
}

/// What a client is told of a refusal: the one place where the codes of this role come from.
fn refused(error: CallError<Refusal>) -> Refused {
    let refusal = match error {
        CallError::Refused(refusal) => refusal,
        CallError::TimedOut | CallError::Unavailable | CallError::Malformed => {
            return Refused::because(Code::Unavailable);
        }
        CallError::TooLarge { .. } => return Refused::because(Code::TooLarge),
    };
    let after = |code, retry_after_ms| Refused { retry_after_ms: Some(retry_after_ms), ..Refused::because(code) };
    match refusal {
        Refusal::Denied => Refused::because(Code::NetworkDenied),
        Refusal::Full => Refused::because(Code::NetworkFull),
        Refusal::AlreadyMember => Refused::because(Code::AlreadyMember),
        Refusal::NameTaken => Refused::because(Code::NameTaken),
        Refusal::NotAMember => Refused::because(Code::NotAMember),
        Refusal::PlanLimit => Refused::because(Code::PlanLimit),
        Refusal::GuessLimit { retry_after_ms } => after(Code::GuessLimit, retry_after_ms),
        Refusal::RateLimited { retry_after_ms } => after(Code::RateLimited, retry_after_ms),
        Refusal::Malformed => Refused::because(Code::Malformed),
        Refusal::PeerUnknown => Refused::because(Code::PeerUnknown),
        Refusal::NotPermitted => Refused::because(Code::NotPermitted),
        Refusal::Banned => Refused::because(Code::Banned),
        Refusal::Locked => Refused::because(Code::NetworkLocked),
        Refusal::AwaitingApproval => Refused::because(Code::AwaitingApproval),
        Refusal::MemberUnknown => Refused::because(Code::MemberUnknown),
        Refusal::LimitReached => Refused::because(Code::LimitReached),
        Refusal::InviteInvalid => Refused::because(Code::InviteInvalid),
        Refusal::InviteExpired => Refused::because(Code::InviteExpired),
        Refusal::InviteUsedUp => Refused::because(Code::InviteUsedUp),
        Refusal::NoSeat => Refused::because(Code::NoSeat),
        Refusal::NoGateways => Refused::because(Code::NoGateways),
        Refusal::NotRoutable => Refused::because(Code::NotRoutable),
        Refusal::RouteTaken => Refused::because(Code::RouteTaken),
        Refusal::SecretPassed => Refused::because(Code::SecretPassed),
        Refusal::Blocked { notice } => Refused { block: Some(notice), ..Refused::because(Code::NetworkBlocked) },
        Refusal::Slowed { notice, retry_after_ms } => {
            Refused { block: Some(notice), ..after(Code::NetworkSlowed, retry_after_ms) }
        }
        Refusal::Busy => Refused::because(Code::Unavailable),
        Refusal::Internal { incident } => internal(incident),
    }
}
