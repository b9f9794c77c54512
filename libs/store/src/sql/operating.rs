//! What operators see of networks, and order in the place of their owners.

use domain::{ClientId, NetworkId, NetworkOrder, NetworkTerms, Revision, Role, UnixMillis};

use super::{
    backend::{Connection, Db},
    engine::Context,
    governing, membership, reading,
};
use crate::{
    Announcement, Error, GovernError, NetworkDetails, NetworkMember, NetworkSummary,
    values::{self, bigint},
};

pub(crate) async fn show(
    db: &mut Connection,
    network: NetworkId,
    at: UnixMillis,
) -> Result<Option<NetworkDetails>, Error> {
    let Some(summary) = reading::summary(db, network).await? else { return Ok(None) };
    let (locked, approval, kind, routed): (bool, bool, i64, bool) =
        sqlx::query_as::<Db, _>("SELECT locked, approval, kind, routed FROM networks WHERE id = $1")
            .bind(network.as_bytes().to_vec())
            .fetch_one(&mut *db)
            .await?;
    let applicants = reading::applicants(db, network).await?;
    let admissions = governing::all_admissions(db, network, at).await?;
    let terms = NetworkTerms { locked, approval, applicants, kind: values::kind(kind, routed)? };
    Ok(Some(NetworkDetails { summary, terms, admissions }))
}

/// Client, nickname, role, address, when it joined, whether it sits, whether it is kept.
type MemberRow = (Vec<u8>, Option<String>, i64, Option<i64>, i64, bool, bool);

pub(crate) async fn members(
    db: &mut Connection,
    network: NetworkId,
    after: Option<ClientId>,
    limit: u16,
) -> Result<Vec<NetworkMember>, Error> {
    let rows: Vec<MemberRow> = sqlx::query_as::<Db, _>(
        "SELECT m.client, c.nick, CASE WHEN n.owner = m.client THEN 2 ELSE m.role END, a.address, m.joined_ms,
                m.seated, m.kept
         FROM members m JOIN networks n ON n.id = m.network JOIN clients c ON c.id = m.client
         LEFT JOIN addresses a ON a.client = m.client
         WHERE m.network = $1 AND m.client > $2 AND NOT m.gone ORDER BY m.client LIMIT $3",
    )
    .bind(network.as_bytes().to_vec())
    .bind(after.map_or_else(Vec::new, |client| client.as_bytes().to_vec()))
    .bind(i64::from(limit))
    .fetch_all(db)
    .await?;
    rows.into_iter()
        .map(|(client, nick, role, address, joined, seated, kept)| {
            Ok(NetworkMember {
                client: values::client(&client)?,
                nick: values::nick(nick.as_deref())?,
                role: values::role(role)?,
                v4: address.map(values::v4).transpose()?,
                joined: values::instant(joined)?,
                seated,
                kept,
            })
        })
        .collect()
}

pub(crate) async fn networks_of(db: &mut Connection, client: ClientId) -> Result<Vec<(NetworkSummary, Role)>, Error> {
    let mut networks = Vec::new();
    for network in membership::networks_of(db, client).await? {
        let (summary, role) = (reading::summary(db, network).await?, reading::role(db, network, client).await?);
        networks.extend(summary.zip(role));
    }
    Ok(networks)
}

pub(crate) async fn govern(
    db: &mut Connection,
    context: Context,
    network: NetworkId,
    order: NetworkOrder,
    expected: Option<Revision>,
    at: UnixMillis,
) -> Result<Announcement, GovernError> {
    let bumped = membership::bump(db, network, at).await?.ok_or(GovernError::UnknownNetwork)?;
    if expected.is_some_and(|expected| bigint(expected.0) != bumped.revision - 1) {
        return Err(GovernError::Changed);
    }
    let owner = bumped.owner;
    Ok(governing::carried_out(db, context, network, bumped, owner, order, at).await?)
}
