//! Accounts as their people and operators see them.

use domain::{
    AccountClient, AccountExport, AccountId, AccountInvitation, AccountNetwork, AccountPerson, AccountRelayed,
    AccountSession, AccountView, ClientId, PersonId, Role, TokenHash, UnixMillis, may_in_account,
};

use super::{
    account_allowance,
    backend::{Connection, Db},
    signing_up::INVITATION,
};
use crate::{
    AccountError, AccountSearch, AccountSummary, Actor, Attachment, Belonging, Error, Person,
    values::{self, bigint},
};

/// An account, the role in it, its plan, whether suspended, e-mail of the owner.
type BelongingRow = (Vec<u8>, i64, String, bool, Option<String>);

pub(crate) async fn person(db: &mut Connection, session: TokenHash, at: UnixMillis) -> Result<Option<Person>, Error> {
    let row: Option<(Vec<u8>, String)> = sqlx::query_as::<Db, _>(
        "SELECT p.id, p.email FROM account_sessions s JOIN people p ON p.id = s.person
         WHERE s.hash = $1 AND s.expires_ms > $2",
    )
    .bind(session.as_bytes().to_vec())
    .bind(bigint(at.0))
    .fetch_optional(&mut *db)
    .await?;
    let Some((id, email)) = row else { return Ok(None) };
    let accounts: Vec<BelongingRow> = sqlx::query_as::<Db, _>(
        "SELECT a.id, m.role, a.plan, a.suspended,
                (SELECT p.email FROM account_people o JOIN people p ON p.id = o.person
                 WHERE o.account = a.id AND o.role = 2)
         FROM account_people m JOIN accounts a ON a.id = m.account
         WHERE m.person = $1 ORDER BY m.since_ms, a.id",
    )
    .bind(id.clone())
    .fetch_all(db)
    .await?;
    let accounts = accounts.into_iter().map(|(account, role, plan, suspended, owner)| {
        let owner = owner.map(|owner| values::email(&owner)).transpose()?;
        Ok(Belonging { account: values::account(&account)?, role: values::role(role)?, plan, suspended, owner })
    });
    Ok(Some(Person {
        person: values::person(&id)?,
        email: values::email(&email)?,
        accounts: accounts.collect::<Result<_, Error>>()?,
    }))
}

/// The role of `person` in `account`.
pub(crate) async fn role(db: &mut Connection, account: AccountId, person: PersonId) -> Result<Option<Role>, Error> {
    let role: Option<i64> =
        sqlx::query_scalar::<Db, _>("SELECT role FROM account_people WHERE account = $1 AND person = $2")
            .bind(account.as_bytes().to_vec())
            .bind(person.as_bytes().to_vec())
            .fetch_optional(db)
            .await?;
    role.map(values::role).transpose()
}

/// Whether `actor` may do `action` to the account itself.
pub(crate) async fn check(
    db: &mut Connection,
    actor: Actor,
    account: AccountId,
    action: domain::AccountAction,
) -> Result<(), AccountError> {
    let Actor::Person(person) = actor else { return Ok(()) };
    let role = role(db, account, person).await?.ok_or(AccountError::Unknown)?;
    if may_in_account(role, action, None) { Ok(()) } else { Err(AccountError::NotPermitted) }
}

pub(crate) async fn view(
    db: &mut Connection,
    actor: Actor,
    account: AccountId,
    at: UnixMillis,
) -> Result<AccountView, AccountError> {
    check(db, actor, account, domain::AccountAction::See).await?;
    let row: Option<(String, bool, i64)> =
        sqlx::query_as::<Db, _>("SELECT plan, suspended, made_ms FROM accounts WHERE id = $1")
            .bind(account.as_bytes().to_vec())
            .fetch_optional(&mut *db)
            .await?;
    let (plan, suspended, made) = row.ok_or(AccountError::Unknown)?;
    Ok(AccountView {
        account,
        limits: account_allowance::limits(db, &plan).await?,
        relayed: account_allowance::relayed(db, account).await?,
        plan,
        suspended,
        made: values::instant(made)?,
        people: people(db, account).await?,
        invitations: invitations(db, account, at).await?,
        clients: clients(db, account).await?,
        networks: networks(db, account).await?,
    })
}

pub(crate) async fn export(
    db: &mut Connection,
    actor: Actor,
    account: AccountId,
    at: UnixMillis,
) -> Result<AccountExport, AccountError> {
    check(db, actor, account, domain::AccountAction::Export).await?;
    let view = view(db, actor, account, at).await?;
    let sessions: Vec<(Vec<u8>, i64, i64)> = sqlx::query_as::<Db, _>(
        "SELECT s.person, s.made_ms, s.expires_ms FROM account_sessions s
         JOIN account_people m ON m.person = s.person WHERE m.account = $1 ORDER BY s.made_ms, s.person",
    )
    .bind(account.as_bytes().to_vec())
    .fetch_all(&mut *db)
    .await?;
    let relayed: Vec<(Vec<u8>, i64, i64)> = sqlx::query_as::<Db, _>(
        "SELECT u.payer, u.month, u.bytes FROM relay_usage u JOIN clients c ON c.id = u.payer
         WHERE c.account = $1 ORDER BY u.month, u.payer",
    )
    .bind(account.as_bytes().to_vec())
    .fetch_all(db)
    .await?;
    let sessions = sessions.into_iter().map(|(person, made, expires)| {
        Ok(AccountSession {
            person: values::person(&person)?,
            made: values::instant(made)?,
            expires: values::instant(expires)?,
        })
    });
    let relayed = relayed.into_iter().map(|(client, month, bytes)| {
        Ok(AccountRelayed {
            client: values::client(&client)?,
            month: values::count(month)?,
            bytes: values::bytes(bytes)?,
        })
    });
    Ok(AccountExport {
        account: view,
        sessions: sessions.collect::<Result<_, Error>>()?,
        relayed: relayed.collect::<Result<_, Error>>()?,
    })
}

/// Id, e-mail, role, since when, whether there is a password, the provider.
type PersonRow = (Vec<u8>, String, i64, i64, bool, Option<String>);

async fn people(db: &mut Connection, account: AccountId) -> Result<Vec<AccountPerson>, Error> {
    let rows: Vec<PersonRow> = sqlx::query_as::<Db, _>(
        "SELECT p.id, p.email, m.role, m.since_ms, p.password IS NOT NULL, p.issuer
         FROM account_people m JOIN people p ON p.id = m.person WHERE m.account = $1 ORDER BY m.since_ms, p.id",
    )
    .bind(account.as_bytes().to_vec())
    .fetch_all(db)
    .await?;
    let person = |(person, email, role, since, password, provider): PersonRow| {
        Ok(AccountPerson {
            person: values::person(&person)?,
            email: values::email(&email)?,
            role: values::role(role)?,
            since: values::instant(since)?,
            password,
            provider,
        })
    };
    rows.into_iter().map(person).collect()
}

async fn invitations(db: &mut Connection, account: AccountId, at: UnixMillis) -> Result<Vec<AccountInvitation>, Error> {
    let rows: Vec<(String, i64, i64)> = sqlx::query_as::<Db, _>(
        "SELECT email, role, expires_ms FROM account_tokens
         WHERE account = $1 AND kind = $2 AND expires_ms > $3 ORDER BY email",
    )
    .bind(account.as_bytes().to_vec())
    .bind(INVITATION)
    .bind(bigint(at.0))
    .fetch_all(db)
    .await?;
    let invitation = |(email, role, expires): (String, i64, i64)| {
        Ok(AccountInvitation {
            email: values::email(&email)?,
            role: values::role(role)?,
            expires: values::instant(expires)?,
        })
    };
    rows.into_iter().map(invitation).collect()
}

async fn clients(db: &mut Connection, account: AccountId) -> Result<Vec<AccountClient>, Error> {
    let rows: Vec<(Vec<u8>, Option<String>, i64, i64)> = sqlx::query_as::<Db, _>(
        "SELECT id, nick, registered_ms, seen_ms FROM clients WHERE account = $1 ORDER BY registered_ms, id",
    )
    .bind(account.as_bytes().to_vec())
    .fetch_all(db)
    .await?;
    let client = |(client, nick, registered, seen): (Vec<u8>, Option<String>, i64, i64)| {
        Ok(AccountClient {
            client: values::client(&client)?,
            nick: values::nick(nick.as_deref())?,
            registered: values::instant(registered)?,
            seen: values::instant(seen)?,
        })
    };
    rows.into_iter().map(client).collect()
}

/// A network, its name, its owner, members, seats, whether attached, the client that sees it, whether that one waits.
type NetworkRow = (Vec<u8>, String, Vec<u8>, i64, i64, bool, Vec<u8>, bool);

/// Each network once, seen by its owner where that is a client of the account, or else by the first client in it.
async fn networks(db: &mut Connection, account: AccountId) -> Result<Vec<AccountNetwork>, Error> {
    let rows: Vec<NetworkRow> = sqlx::query_as::<Db, _>(
        "SELECT n.id, n.name, n.owner, (SELECT COUNT(*) FROM members x WHERE x.network = n.id AND NOT x.gone),
                p.members_per_network, COALESCE(n.account = c.account AND o.account = c.account, FALSE),
                c.id, FALSE
         FROM clients c JOIN members m ON m.client = c.id AND NOT m.gone JOIN networks n ON n.id = m.network
         JOIN clients o ON o.id = n.owner JOIN plans p ON p.name = o.plan
         WHERE c.account = $1 AND NOT n.deleted
         UNION ALL
         SELECT n.id, n.name, n.owner, (SELECT COUNT(*) FROM members x WHERE x.network = n.id AND NOT x.gone),
                p.members_per_network, FALSE, c.id, TRUE
         FROM clients c JOIN applicants w ON w.client = c.id JOIN networks n ON n.id = w.network
         JOIN clients o ON o.id = n.owner JOIN plans p ON p.name = o.plan
         WHERE c.account = $1 AND NOT n.deleted",
    )
    .bind(account.as_bytes().to_vec())
    .fetch_all(db)
    .await?;
    let network = |(network, name, owner, members, seats, attached, seen_by, awaiting): NetworkRow| {
        Ok(AccountNetwork {
            network: values::network(&network)?,
            name: values::name(&name)?,
            owner: values::client(&owner)?,
            members: values::count(members)?,
            seats: values::count(seats)?,
            attached,
            seen_by: values::client(&seen_by)?,
            awaiting,
        })
    };
    let mut networks = rows.into_iter().map(network).collect::<Result<Vec<_>, Error>>()?;
    networks.sort_by_key(|one| (one.network, one.awaiting, one.seen_by != one.owner, one.seen_by));
    networks.dedup_by_key(|one| one.network);
    networks.sort_by(|a, b| (&a.name, a.network).cmp(&(&b.name, b.network)));
    Ok(networks)
}

pub(crate) async fn attachment(db: &mut Connection, client: ClientId) -> Result<Option<Attachment>, Error> {
    let row: Option<(Vec<u8>, String)> = sqlx::query_as::<Db, _>(
        "SELECT a.id, a.plan FROM clients c JOIN accounts a ON a.id = c.account WHERE c.id = $1",
    )
    .bind(client.as_bytes().to_vec())
    .fetch_optional(db)
    .await?;
    row.map(|(account, plan)| Ok(Attachment { account: values::account(&account)?, plan })).transpose()
}

/// Id, plan, whether suspended, e-mail of the owner, people, clients, since when.
type SummaryRow = (Vec<u8>, String, bool, Option<String>, i64, i64, i64);

/// The columns of a [`SummaryRow`] of the account `a`.
macro_rules! summaries {
    ($of:literal) => {
        concat!(
            "SELECT a.id, a.plan, a.suspended,
                    (SELECT p.email FROM account_people m JOIN people p ON p.id = m.person
                     WHERE m.account = a.id AND m.role = 2),
                    (SELECT COUNT(*) FROM account_people m WHERE m.account = a.id),
                    (SELECT COUNT(*) FROM clients c WHERE c.account = a.id), a.made_ms ",
            $of
        )
    };
}

pub(crate) async fn list(
    db: &mut Connection,
    search: AccountSearch,
    after: Option<AccountId>,
    limit: u16,
) -> Result<Vec<AccountSummary>, Error> {
    let after = after.map_or_else(Vec::new, |id| id.as_bytes().to_vec());
    let rows: Vec<SummaryRow> = match search {
        AccountSearch::Ids(first, last) => {
            sqlx::query_as::<Db, _>(summaries!(
                "FROM accounts a WHERE a.id > $1 AND a.id >= $3 AND a.id <= $4 ORDER BY a.id LIMIT $2"
            ))
            .bind(after)
            .bind(i64::from(limit))
            .bind(first.as_bytes().to_vec())
            .bind(last.as_bytes().to_vec())
            .fetch_all(db)
            .await?
        }
        AccountSearch::Email(email) => {
            sqlx::query_as::<Db, _>(summaries!(
                "FROM people w JOIN account_people b ON b.person = w.id JOIN accounts a ON a.id = b.account
                 WHERE w.email = $3 AND a.id > $1 ORDER BY a.id LIMIT $2"
            ))
            .bind(after)
            .bind(i64::from(limit))
            .bind(email.as_str().to_owned())
            .fetch_all(db)
            .await?
        }
    };
    let summary = |(account, plan, suspended, owner, people, clients, made): SummaryRow| {
        Ok(AccountSummary {
            account: values::account(&account)?,
            plan,
            suspended,
            owner: owner.map(|owner| values::email(&owner)).transpose()?,
            people: values::count(people)?,
            clients: values::count(clients)?,
            made: values::instant(made)?,
        })
    };
    rows.into_iter().map(summary).collect()
}
