//! What members, peers and operators are shown.

use std::collections::BTreeMap;

use domain::{
    ClientId, IdentityKey, Member, NetworkChange, NetworkId, NetworkName, NetworkTerms, PayerId, Revision, Role, Route,
    SecretEpoch, SecretState, Signature, TunnelKey, VirtualAddresses,
};

use super::{
    addresses,
    backend::{Connection, Db},
    engine::Context,
    rotation, secrets,
};
use crate::{
    Error, NetworkSummary, PairPlan, PasswordRecord, Peer, Snapshot,
    values::{self, PlanRow, bigint},
};

/// Which members of a network are read.
#[derive(Clone, Copy)]
pub(crate) enum Extent {
    /// Everybody in it.
    Whole,
    /// Those who changed after the revision, the departed included.
    After(Revision),
    /// Those who left after the revision.
    GoneAfter(Revision),
}

/// A row of plans, and the client that has it.
type OwnedPlanRow = (String, i64, i64, i64, i64, Vec<u8>);

/// A peer, the owner of a network that it shares with the one who asks, and the relay rates: of the owner, of the one who
/// asks, of the peer.
type PeerRow = (Vec<u8>, Vec<u8>, i64, i64, i64);

#[derive(sqlx::FromRow)]
struct MemberRow {
    client: Vec<u8>,
    identity: Vec<u8>,
    tunnel: Vec<u8>,
    tunnel_signature: Vec<u8>,
    nick: Option<String>,
    address: Option<i64>,
    revision: i64,
    gone: bool,
    role: i64,
    successions: i64,
    hub: bool,
    routes: String,
    agreed: String,
    seated: bool,
    kept: bool,
}

/// What a change tells of a network besides its members.
#[derive(sqlx::FromRow)]
pub(crate) struct ChangeRow {
    pub(crate) name: String,
    pub(crate) revision: i64,
    pub(crate) forgotten: i64,
    pub(crate) locked: bool,
    pub(crate) approval: bool,
    pub(crate) secret_epoch: i64,
    pub(crate) door_epoch: i64,
    pub(crate) secret_wanted: i64,
    pub(crate) kind: i64,
    pub(crate) routed: bool,
}

#[derive(sqlx::FromRow)]
struct SnapshotRow {
    id: Vec<u8>,
    #[sqlx(flatten)]
    change: ChangeRow,
}

/// Members by revision, oldest change first.
pub(crate) async fn members(
    db: &mut Connection,
    context: Context,
    network: NetworkId,
    extent: Extent,
) -> Result<Vec<Member>, Error> {
    let (live_after, gone_after) = match extent {
        Extent::Whole => (0, i64::MAX),
        Extent::After(revision) => (bigint(revision.0), bigint(revision.0)),
        Extent::GoneAfter(revision) => (i64::MAX, bigint(revision.0)),
    };
    let rows: Vec<MemberRow> = sqlx::query_as::<Db, _>(
        "SELECT m.client, c.identity, c.tunnel, c.tunnel_signature, c.nick, a.address, m.revision, m.gone,
                CASE WHEN n.owner = m.client AND NOT m.gone THEN 2 ELSE m.role END AS role,
                c.successions, m.hub, m.routes, m.agreed, m.seated, m.kept
         FROM members m JOIN networks n ON n.id = m.network
         JOIN clients c ON c.id = m.client LEFT JOIN addresses a ON a.client = m.client
         WHERE m.network = $1 AND ((NOT m.gone AND m.revision > $2) OR (m.gone AND m.revision > $3))
         ORDER BY m.revision, m.client",
    )
    .bind(network.as_bytes().to_vec())
    .bind(live_after)
    .bind(gone_after)
    .fetch_all(&mut *db)
    .await?;
    let rotated = rows.iter().any(|row| row.successions > 0);
    let mut lineages =
        if rotated { rotation::lineages(db, network, live_after.min(gone_after)).await? } else { BTreeMap::new() };
    let with_keys = |row| {
        let mut member = member(row, context)?;
        member.lineage = lineages.remove(&member.client).map(Box::new);
        Ok(member)
    };
    rows.into_iter().map(with_keys).collect()
}

/// Everybody in a network, by id.
pub(crate) async fn member_ids(db: &mut Connection, network: NetworkId) -> Result<Vec<ClientId>, Error> {
    let ids: Vec<Vec<u8>> =
        sqlx::query_scalar::<Db, _>("SELECT client FROM members WHERE network = $1 AND NOT gone ORDER BY client")
            .bind(network.as_bytes().to_vec())
            .fetch_all(db)
            .await?;
    ids.iter().map(|id| values::client(id)).collect()
}

/// What `client` is in `network`; `None` when it is no member.
pub(crate) async fn role(db: &mut Connection, network: NetworkId, client: ClientId) -> Result<Option<Role>, Error> {
    let role: Option<i64> = sqlx::query_scalar::<Db, _>(
        "SELECT CASE WHEN n.owner = m.client THEN 2 ELSE m.role END
         FROM members m JOIN networks n ON n.id = m.network WHERE m.network = $1 AND m.client = $2 AND NOT m.gone",
    )
    .bind(network.as_bytes().to_vec())
    .bind(client.as_bytes().to_vec())
    .fetch_optional(db)
    .await?;
    role.map(values::role).transpose()
}

/// How many wait to be let in.
pub(crate) async fn applicants(db: &mut Connection, network: NetworkId) -> Result<u32, Error> {
    let waiting: i64 = sqlx::query_scalar::<Db, _>("SELECT COUNT(*) FROM applicants WHERE network = $1")
        .bind(network.as_bytes().to_vec())
        .fetch_one(db)
        .await?;
    values::count(waiting)
}

/// How many wait to be let in, and how many members could be handed the secret of `epoch`, and were not.
pub(crate) async fn waiting(db: &mut Connection, network: NetworkId, epoch: SecretEpoch) -> Result<(u32, u32), Error> {
    let (applicants, lacking): (i64, i64) = sqlx::query_as::<Db, _>(
        "SELECT (SELECT COUNT(*) FROM applicants WHERE network = $1),
                (SELECT COUNT(*) FROM members WHERE network = $1 AND NOT gone
                 AND proof_epoch > 0 AND proof_epoch < $2 AND seal_epoch < $2)",
    )
    .bind(network.as_bytes().to_vec())
    .bind(bigint(epoch.0))
    .fetch_one(db)
    .await?;
    Ok((values::count(applicants)?, values::count(lacking)?))
}

/// What a password for the network of this name is checked with.
pub(crate) async fn password_record(db: &mut Connection, name: NetworkName) -> Result<Option<PasswordRecord>, Error> {
    let row: Option<(Vec<u8>, Vec<u8>, String)> =
        sqlx::query_as::<Db, _>("SELECT id, password, credential FROM networks WHERE name_key = $1")
            .bind(name.key())
            .fetch_optional(db)
            .await?;
    row.map(|(network, password, credential)| {
        Ok(PasswordRecord { network: values::network(&network)?, password, credential })
    })
    .transpose()
}

/// Whether no network has this name, nor had it when its password was made.
pub(crate) async fn is_free(db: &mut Connection, name: NetworkName) -> Result<bool, Error> {
    let used: i64 = sqlx::query_scalar::<Db, _>("SELECT COUNT(*) FROM networks WHERE name_key = $1 OR credential = $1")
        .bind(name.key())
        .fetch_one(db)
        .await?;
    Ok(used == 0)
}

pub(crate) async fn changes_since(
    db: &mut Connection,
    context: Context,
    network: NetworkId,
    client: ClientId,
    since: Revision,
) -> Result<Option<NetworkChange>, Error> {
    let row: Option<ChangeRow> = sqlx::query_as::<Db, _>(
        "SELECT n.name, n.revision, n.forgotten, n.locked, n.approval, n.secret_epoch, n.door_epoch, n.secret_wanted,
                n.kind, n.routed
         FROM networks n
         JOIN members m ON m.network = n.id AND m.client = $2 AND NOT m.gone WHERE n.id = $1",
    )
    .bind(network.as_bytes().to_vec())
    .bind(client.as_bytes().to_vec())
    .fetch_optional(&mut *db)
    .await?;
    let Some(row) = row else { return Ok(None) };
    Ok(Some(change(db, context, network, row, since).await?))
}

/// What changed in a network after `since`, or the whole of it.
pub(crate) async fn change(
    db: &mut Connection,
    context: Context,
    network: NetworkId,
    row: ChangeRow,
    since: Revision,
) -> Result<NetworkChange, Error> {
    let since = if bridges(since, row.forgotten, row.revision) { since } else { Revision::ZERO };
    let extent = if since == Revision::ZERO { Extent::Whole } else { Extent::After(since) };
    let members = members(db, context, network, extent).await?;
    told(db, network, row, since, members).await
}

pub(crate) async fn snapshot(
    db: &mut Connection,
    context: Context,
    client: ClientId,
    known: BTreeMap<NetworkId, Revision>,
) -> Result<Snapshot, Error> {
    let rows: Vec<SnapshotRow> = sqlx::query_as::<Db, _>(
        "SELECT n.id, n.name, n.revision, n.forgotten, n.locked, n.approval, n.secret_epoch, n.door_epoch,
                n.secret_wanted, n.kind, n.routed
         FROM networks n
         JOIN members m ON m.network = n.id AND m.client = $1 AND NOT m.gone ORDER BY n.id",
    )
    .bind(client.as_bytes().to_vec())
    .fetch_all(&mut *db)
    .await?;
    let mut networks = Vec::with_capacity(rows.len());
    for SnapshotRow { id, change: row } in rows {
        let network = values::network(&id)?;
        let mut everybody = members(db, context, network, Extent::Whole).await?;
        let since = known.get(&network).copied().filter(|&since| bridges(since, row.forgotten, row.revision));
        if let Some(since) = since {
            everybody.extend(members(db, context, network, Extent::GoneAfter(since)).await?);
            everybody.sort_by_key(|member| (member.revision, member.client));
        }
        networks.push(told(db, network, row, since.unwrap_or(Revision::ZERO), everybody).await?);
    }
    let v4 = addresses::of(db, client).await?;
    Ok(Snapshot { addresses: VirtualAddresses { v4, v6: context.ula.address(client) }, networks })
}

/// A change as members are told it.
async fn told(
    db: &mut Connection,
    network: NetworkId,
    row: ChangeRow,
    since: Revision,
    members: Vec<Member>,
) -> Result<NetworkChange, Error> {
    let secret = secrets::state(row.secret_epoch, row.door_epoch, row.secret_wanted)?;
    let (applicants, lacking) = waiting(db, network, secret.epoch).await?;
    Ok(NetworkChange {
        network,
        name: values::name(&row.name)?,
        since,
        revision: values::revision(row.revision)?,
        members,
        left: false,
        terms: NetworkTerms {
            locked: row.locked,
            approval: row.approval,
            applicants,
            kind: values::kind(row.kind, row.routed)?,
        },
        secret: SecretState { lacking, ..secret },
    })
}

pub(crate) async fn peers(db: &mut Connection, client: ClientId) -> Result<Vec<Peer>, Error> {
    // The best owner first: of each peer only that row counts.
    let rows: Vec<PeerRow> = sqlx::query_as::<Db, _>(
        "SELECT theirs.client, n.owner, owner_plan.relay_bytes_per_second,
                my_plan.relay_bytes_per_second, their_plan.relay_bytes_per_second
         FROM members mine
         JOIN members theirs ON theirs.network = mine.network AND theirs.client <> mine.client AND NOT theirs.gone
         JOIN networks n ON n.id = mine.network
         JOIN clients o ON o.id = n.owner JOIN plans owner_plan ON owner_plan.name = o.plan
         JOIN clients me ON me.id = mine.client JOIN plans my_plan ON my_plan.name = me.plan
         JOIN clients peer ON peer.id = theirs.client JOIN plans their_plan ON their_plan.name = peer.plan
         WHERE mine.client = $1 AND NOT mine.gone AND mine.seated AND theirs.seated AND (n.kind <> 1 OR mine.hub OR theirs.hub)
         ORDER BY theirs.client, owner_plan.relay_bytes_per_second DESC, n.owner",
    )
    .bind(client.as_bytes().to_vec())
    .fetch_all(db)
    .await?;
    let mut peers: Vec<Peer> = Vec::new();
    for (peer, owner, best, mine, theirs) in rows {
        let peer = values::client(&peer)?;
        if peers.last().is_some_and(|last| last.client == peer) {
            continue;
        }
        let covers = best > mine.min(theirs);
        let payers = if covers { [values::client(&owner)?; 2] } else { [client, peer] };
        let relay_rate = values::rate(best.max(mine.min(theirs)))?;
        peers.push(Peer { client: peer, relay_rate, payers: payers.map(PayerId::from) });
    }
    Ok(peers)
}

pub(crate) async fn pair_plan(db: &mut Connection, a: ClientId, b: ClientId) -> Result<Option<PairPlan>, Error> {
    let owners: Option<OwnedPlanRow> = sqlx::query_as::<Db, _>(
        "SELECT p.name, p.members_per_network, p.networks_per_client, p.relay_bytes_per_second, p.relay_bytes_per_month,
                n.owner
         FROM members x JOIN members y ON y.network = x.network AND y.client = $2 AND NOT y.gone
         JOIN networks n ON n.id = x.network JOIN clients o ON o.id = n.owner JOIN plans p ON p.name = o.plan
         WHERE x.client = $1 AND NOT x.gone AND x.seated AND y.seated AND (n.kind <> 1 OR x.hub OR y.hub)
         ORDER BY p.relay_bytes_per_second DESC, n.owner LIMIT 1",
    )
    .bind(a.as_bytes().to_vec())
    .bind(b.as_bytes().to_vec())
    .fetch_optional(&mut *db)
    .await?;
    let Some((name, members, networks, rate, quota, owner)) = owners else { return Ok(None) };
    let own: PlanRow = sqlx::query_as::<Db, _>(
        "SELECT p.name, p.members_per_network, p.networks_per_client, p.relay_bytes_per_second, p.relay_bytes_per_month
         FROM clients c JOIN plans p ON p.name = c.plan WHERE c.id = $1 OR c.id = $2
         ORDER BY p.relay_bytes_per_second, p.name LIMIT 1",
    )
    .bind(a.as_bytes().to_vec())
    .bind(b.as_bytes().to_vec())
    .fetch_one(db)
    .await?;
    let covers = rate > own.3;
    let payers = if covers { [values::client(&owner)?; 2] } else { [a, b] };
    let plan = values::plan(if covers { (name, members, networks, rate, quota) } else { own })?;
    Ok(Some(PairPlan { plan, payers: payers.map(PayerId::from) }))
}

#[derive(sqlx::FromRow)]
pub(crate) struct SummaryRow {
    id: Vec<u8>,
    name: String,
    pub(crate) name_bytes: Option<Vec<u8>>,
    owner: Vec<u8>,
    revision: i64,
    created_ms: i64,
    seats: i64,
    members: i64,
    kind: i64,
    routed: bool,
}

impl TryFrom<SummaryRow> for NetworkSummary {
    type Error = Error;

    fn try_from(row: SummaryRow) -> Result<Self, Error> {
        Ok(Self {
            network: values::network(&row.id)?,
            name: values::name(&row.name)?,
            owner: values::client(&row.owner)?,
            members: values::count(row.members)?,
            seats: values::count(row.seats)?,
            revision: values::revision(row.revision)?,
            created: values::instant(row.created_ms)?,
            kind: values::kind(row.kind, row.routed)?,
        })
    }
}

/// Reads [`SummaryRow`]s of networks `n`. Seats and members are looked up for each that is shown, whatever orders them.
macro_rules! summaries {
    ($which:literal) => {
        concat!(
            "SELECT n.id, n.name, n.name_bytes, n.owner, n.revision, n.created_ms,
                    (SELECT p.members_per_network FROM clients c JOIN plans p ON p.name = c.plan WHERE c.id = n.owner)
                    AS seats,
                    (SELECT COUNT(*) FROM members m WHERE m.network = n.id AND NOT m.gone) AS members, n.kind, n.routed
             FROM networks n WHERE NOT n.deleted AND ",
            $which
        )
    };
}
pub(crate) use summaries;

pub(crate) async fn list(
    db: &mut Connection,
    after: Option<NetworkId>,
    limit: u16,
) -> Result<Vec<NetworkSummary>, Error> {
    let rows: Vec<SummaryRow> = sqlx::query_as::<Db, _>(summaries!("n.id > $1 ORDER BY n.id LIMIT $2"))
        // The empty string of bytes sorts before every id.
        .bind(after.map_or_else(Vec::new, |id| id.as_bytes().to_vec()))
        .bind(i64::from(limit))
        .fetch_all(db)
        .await?;
    rows.into_iter().map(NetworkSummary::try_from).collect()
}

/// What a list shows of one network.
pub(crate) async fn summary(db: &mut Connection, network: NetworkId) -> Result<Option<NetworkSummary>, Error> {
    let row: Option<SummaryRow> =
        sqlx::query_as::<Db, _>(summaries!("n.id = $1")).bind(network.as_bytes().to_vec()).fetch_optional(db).await?;
    row.map(NetworkSummary::try_from).transpose()
}

/// Whether the tombstones reach back to `since`.
fn bridges(since: Revision, forgotten: i64, revision: i64) -> bool {
    since > Revision::ZERO && bigint(since.0) >= forgotten && bigint(since.0) <= revision
}

fn member(row: MemberRow, context: Context) -> Result<Member, Error> {
    let broken = |_| Error::Corrupt { what: "key" };
    let client = values::client(&row.client)?;
    Ok(Member {
        client,
        identity: IdentityKey::try_from(row.identity.as_slice()).map_err(broken)?,
        tunnel: TunnelKey::try_from(row.tunnel.as_slice()).map_err(broken)?,
        tunnel_signature: Signature::try_from(row.tunnel_signature.as_slice()).map_err(broken)?,
        nick: values::nick(row.nick.as_deref())?,
        addresses: VirtualAddresses { v4: row.address.map(values::v4).transpose()?, v6: context.ula.address(client) },
        revision: values::revision(row.revision)?,
        gone: row.gone,
        presence: None,
        role: values::role(row.role)?,
        lineage: None,
        hub: row.hub,
        routes: if row.gone { Vec::new() } else { routes(&row.routes, &row.agreed)? },
        unseated: !row.seated && !row.gone,
        kept: row.kept && !row.gone,
    })
}

fn routes(routes: &str, agreed: &str) -> Result<Vec<Route>, Error> {
    let agreed = values::prefixes(agreed)?;
    let route = |prefix| Route { prefix, agreed: agreed.contains(&prefix) };
    Ok(values::prefixes(routes)?.into_iter().map(route).collect())
}
