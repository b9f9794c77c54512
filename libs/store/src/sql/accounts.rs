//! Clients and plans.

use async_trait::async_trait;
use domain::{
    AccountId, ClientId, EventKind, Lineage, Month, PayerId, Plan, RelayGrant, RelayReport, SeatsLost, UnixMillis,
};

use super::{
    backend::{Connection, Db},
    directory,
    engine::Store,
    events, membership, plans, quota,
    rotation::{self, Owner},
    seating,
};
use crate::{
    Accounts, ClientSearch, Deployment, Error, FoundClients, GivenUp, LoggedIn, Login, LoginError, MonthUsage, Place,
    PlanError, ReassignError, RotateError, Rotated, Rotation, SettleError, Standing, UnknownPlan,
    values::{self, PlanRow, bigint},
};

#[async_trait]
impl Accounts for Store {
    async fn login(&self, login: Login, at: UnixMillis) -> Result<LoggedIn, LoginError> {
        for _ in 0..REKEY_TRIES {
            let (known, plan) = (login.clone(), self.default_plan.clone());
            let outcome = self.engine.write("login", move |db| Box::pin(log_in(db, known, plan, at))).await?;
            if let Some(logged_in) = outcome {
                return Ok(logged_in);
            }
        }
        Err(Error::Busy.into())
    }

    async fn rotate(&self, wanted: Rotation, at: UnixMillis) -> Result<Rotated, RotateError> {
        for _ in 0..REKEY_TRIES {
            let wanted = wanted.clone();
            let outcome = self.engine.write("rotate", move |db| Box::pin(rotation::rotate(db, wanted, at))).await?;
            if let Some(rotated) = outcome {
                return Ok(rotated);
            }
        }
        Err(Error::Busy.into())
    }

    async fn lineage(&self, client: ClientId) -> Result<Option<Lineage>, Error> {
        self.engine.read("lineage", move |db| Box::pin(rotation::lineage(db, client))).await
    }

    async fn given_up_since(&self, since: UnixMillis, limit: u16) -> Result<Vec<GivenUp>, Error> {
        self.engine.read("given up", move |db| Box::pin(rotation::given_up_since(db, since, limit))).await
    }

    async fn assign_plan(&self, client: ClientId, plan: &str) -> Result<(), UnknownPlan> {
        let plan = plan.to_owned();
        self.engine.write("assign plan", move |db| Box::pin(assign_plan(db, client, plan))).await
    }

    async fn set_standing(&self, client: ClientId, standing: Standing) -> Result<(), Error> {
        self.engine.write("set standing", move |db| Box::pin(set_standing(db, client, standing))).await
    }

    async fn plan_of(&self, client: ClientId) -> Result<Option<Plan>, Error> {
        self.engine.read("plan of", move |db| Box::pin(plan_of(db, client))).await
    }

    async fn plans(&self) -> Result<Vec<Plan>, Error> {
        self.engine.read("plans", |db| Box::pin(all_plans(db))).await
    }

    async fn make_plan(&self, plan: Plan) -> Result<(), PlanError> {
        self.engine.write("make plan", move |db| Box::pin(plans::make(db, plan))).await
    }

    async fn change_plan(&self, expected: Plan, plan: Plan) -> Result<(), PlanError> {
        self.engine.write("change plan", move |db| Box::pin(plans::change(db, expected, plan))).await
    }

    async fn seats_lost_by_plan(&self, plan: &str, members: u32) -> Result<SeatsLost, Error> {
        let plan = plan.to_owned();
        self.engine.read("seats lost by plan", move |db| Box::pin(seating::lost_by_plan(db, plan, members))).await
    }

    async fn drop_plan(&self, expected: Plan) -> Result<(), PlanError> {
        let default_plan = self.default_plan.clone();
        self.engine.write("drop plan", move |db| Box::pin(plans::drop(db, expected, default_plan))).await
    }

    async fn reassign_plan(&self, client: ClientId, expected: Option<&str>, plan: &str) -> Result<(), ReassignError> {
        let (expected, plan) = (expected.map(str::to_owned), plan.to_owned());
        self.engine.write("reassign plan", move |db| Box::pin(plans::reassign(db, client, expected, plan))).await
    }

    async fn find_clients(
        &self,
        search: ClientSearch,
        after: Option<Place<ClientId>>,
        limit: u16,
    ) -> Result<FoundClients, Error> {
        self.engine.read("find clients", move |db| Box::pin(directory::clients(db, search, after, limit))).await
    }

    async fn usage_of(&self, payer: PayerId, limit: u16) -> Result<Vec<MonthUsage>, Error> {
        self.engine.read("usage of", move |db| Box::pin(directory::usage_of(db, payer, limit))).await
    }

    async fn usage_in(&self, month: Month, after: Option<PayerId>, limit: u16) -> Result<Vec<MonthUsage>, Error> {
        self.engine.read("usage in", move |db| Box::pin(directory::usage_in(db, month, after, limit))).await
    }

    async fn settle_relay(&self, report: RelayReport, at: UnixMillis) -> Result<RelayGrant, SettleError> {
        for _ in 0..REKEY_TRIES {
            let settled = self.engine.write("settle relay", move |db| Box::pin(quota::settle(db, report, at))).await?;
            if let Some(grant) = settled {
                return Ok(grant);
            }
        }
        Err(Error::Busy.into())
    }

    async fn relayed(&self, payer: PayerId, month: Month) -> Result<u64, Error> {
        self.engine.read("relayed", move |db| Box::pin(quota::relayed(db, payer, month))).await
    }

    async fn relayed_on(&self, account: AccountId, month: Month) -> Result<u64, Error> {
        self.engine.read("relayed on", move |db| Box::pin(quota::relayed_on(db, account, month))).await
    }

    fn deployment(&self) -> Deployment {
        self.deployment
    }

    async fn ping(&self) -> Result<(), Error> {
        self.engine.read("ping", |db| Box::pin(ping(db))).await
    }

    async fn close(&self) {
        self.engine.close().await;
    }
}

/// Logins may race with joins of the same client; to lose three times takes a broken client.
const REKEY_TRIES: usize = 3;

type ClientRow = (Vec<u8>, Vec<u8>, Option<String>, bool);

/// `None` when the client joined a network while its new tunnel key was noted: to be repeated.
async fn log_in(
    db: &mut Connection,
    login: Login,
    plan: String,
    at: UnixMillis,
) -> Result<Option<LoggedIn>, LoginError> {
    // Whoever looked at what is held against a client did so by this id.
    let client = login.client.unwrap_or_else(|| ClientId::of(&login.identity));
    let known = match rotation::owner(db, &login.identity).await? {
        Owner::Client(owner) if owner == client => true,
        Owner::Unknown if login.client.is_none() => false,
        Owner::Client(_) | Owner::Nobody | Owner::Unknown => return Err(LoginError::Rotated),
    };
    if !known && register(db, client, &login, plan, at).await? {
        return Ok(Some(LoggedIn { client, registered: true, nick: login.nick, standing: Standing::Good }));
    }
    let (tunnel, signature, nick, blocked) = client_row(db, client).await?;
    let same = tunnel == login.tunnel.as_bytes() && signature == login.tunnel_signature.as_bytes();
    if same {
        membership::lock_client(db, client, at).await?;
    } else if !rekey(db, client, &login, at).await? {
        return Ok(None);
    }
    // The client is locked now: whether the key was changed meanwhile shows, and undoes the above.
    match rotation::owner(db, &login.identity).await? {
        Owner::Client(owner) if owner == client => {}
        Owner::Client(_) | Owner::Nobody | Owner::Unknown => return Err(LoginError::Rotated),
    }
    let standing = if blocked { Standing::Blocked } else { Standing::Good };
    Ok(Some(LoggedIn { client, registered: false, nick: values::nick(nick.as_deref())?, standing }))
}

/// Whether the key was new. The insertion itself finds out, so that two first logins make one client.
async fn register(
    db: &mut Connection,
    client: ClientId,
    login: &Login,
    plan: String,
    at: UnixMillis,
) -> Result<bool, Error> {
    let made = sqlx::query(
        "INSERT INTO clients (id, identity, tunnel, tunnel_signature, nick, plan, blocked, registered_ms, seen_ms,
                              nick_bytes)
         VALUES ($1, $2, $3, $4, $5, $6, FALSE, $7, $7, $8) ON CONFLICT DO NOTHING",
    )
    .bind(client.as_bytes().to_vec())
    .bind(login.identity.as_bytes().to_vec())
    .bind(login.tunnel.as_bytes().to_vec())
    .bind(login.tunnel_signature.as_bytes().to_vec())
    .bind(login.nick.as_ref().map(|nick| nick.as_str().to_owned()))
    .bind(plan)
    .bind(bigint(at.0))
    .bind(login.nick.as_ref().map(|nick| directory::nick_bytes(nick.as_str())))
    .execute(&mut *db)
    .await?;
    let registered = made.rows_affected() == 1;
    if registered {
        events::happened(db, events::event(EventKind::ClientRegistered, at).client(client)).await?;
    }
    Ok(registered)
}

/// Takes a new tunnel key over, as a change of every network of the client. Not when the client joined one meanwhile,
/// which would go without a change; what was raised then was raised for nothing, which harms nobody.
async fn rekey(db: &mut Connection, client: ClientId, login: &Login, at: UnixMillis) -> Result<bool, Error> {
    let bumped = membership::bump_all(db, client, at).await?;
    let networks = membership::networks_of(db, client).await?;
    if networks.iter().any(|network| bumped.iter().all(|(seen, _)| seen != network)) {
        return Ok(false);
    }
    sqlx::query("UPDATE clients SET tunnel = $2, tunnel_signature = $3 WHERE id = $1")
        .bind(client.as_bytes().to_vec())
        .bind(login.tunnel.as_bytes().to_vec())
        .bind(login.tunnel_signature.as_bytes().to_vec())
        .execute(db)
        .await?;
    Ok(true)
}

/// Tunnel key, its signature, nickname, whether blocked.
async fn client_row(db: &mut Connection, client: ClientId) -> Result<ClientRow, Error> {
    let sql = "SELECT tunnel, tunnel_signature, nick, blocked FROM clients WHERE id = $1";
    Ok(sqlx::query_as::<Db, _>(sql).bind(client.as_bytes().to_vec()).fetch_one(db).await?)
}

async fn assign_plan(db: &mut Connection, client: ClientId, plan: String) -> Result<(), UnknownPlan> {
    let known: Option<String> = sqlx::query_scalar::<Db, _>("SELECT name FROM plans WHERE name = $1")
        .bind(&plan)
        .fetch_optional(&mut *db)
        .await?;
    known.ok_or(UnknownPlan::Plan)?;
    let assigned = sqlx::query("UPDATE clients SET plan = $2 WHERE id = $1")
        .bind(client.as_bytes().to_vec())
        .bind(plan)
        .execute(&mut *db)
        .await?;
    if assigned.rows_affected() == 0 {
        return Err(Error::UnknownClient.into());
    }
    Ok(seating::mark_client(db, client).await?)
}

async fn set_standing(db: &mut Connection, client: ClientId, standing: Standing) -> Result<(), Error> {
    let set = sqlx::query("UPDATE clients SET blocked = $2 WHERE id = $1")
        .bind(client.as_bytes().to_vec())
        .bind(standing == Standing::Blocked)
        .execute(db)
        .await?;
    if set.rows_affected() == 0 { Err(Error::UnknownClient) } else { Ok(()) }
}

async fn plan_of(db: &mut Connection, client: ClientId) -> Result<Option<Plan>, Error> {
    let row: Option<PlanRow> = sqlx::query_as::<Db, _>(
        "SELECT p.name, p.members_per_network, p.networks_per_client, p.relay_bytes_per_second,
                p.relay_bytes_per_month
         FROM clients c JOIN plans p ON p.name = c.plan WHERE c.id = $1",
    )
    .bind(client.as_bytes().to_vec())
    .fetch_optional(db)
    .await?;
    row.map(values::plan).transpose()
}

async fn all_plans(db: &mut Connection) -> Result<Vec<Plan>, Error> {
    let rows: Vec<PlanRow> = sqlx::query_as::<Db, _>(
        "SELECT name, members_per_network, networks_per_client, relay_bytes_per_second, relay_bytes_per_month
         FROM plans ORDER BY name",
    )
    .fetch_all(db)
    .await?;
    rows.into_iter().map(values::plan).collect()
}

async fn ping(db: &mut Connection) -> Result<(), Error> {
    sqlx::query("SELECT one FROM deployment").execute(db).await?;
    Ok(())
}
