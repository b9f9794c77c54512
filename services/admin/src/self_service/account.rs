//! An account: its people, clients and networks.

use actix_web::http::{Method, StatusCode};
use contract::account::{Accept, EraseAccount, ExportAccount, OrderForAccount, OrderedForAccount, ViewAccount};
use domain::{AccountOrder, EmailAddress, Role};
use serde::Deserialize;

use super::{
    Adding,
    ask::{Ask, Reply},
    person::{token, typed},
};
use crate::error::Problem;

pub(crate) fn routes(adding: &mut Adding<'_>) {
    adding.on(Method::GET, "/v1/account", view);
    adding.on(Method::DELETE, "/v1/account", erase);
    adding.on(Method::GET, "/v1/account/export", export);
    adding.on(Method::POST, "/v1/account/invitations", invite);
    adding.on(Method::POST, "/v1/account/invitations/accept", accept);
    adding.on(Method::DELETE, "/v1/account/invitations/{email}", uninvite);
    adding.on(Method::PATCH, "/v1/account/people/{person}", set_role);
    adding.on(Method::DELETE, "/v1/account/people/me", leave);
    adding.on(Method::DELETE, "/v1/account/people/{person}", remove);
    adding.on(Method::POST, "/v1/account/people/{person}/owner", transfer);
    adding.on(Method::POST, "/v1/account/clients/codes", make_code);
    adding.on(Method::DELETE, "/v1/account/clients/{client}", detach_client);
    adding.on(Method::PUT, "/v1/account/networks/{network}", attach_network);
    adding.on(Method::DELETE, "/v1/account/networks/{network}", detach_network);
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Invitation {
    email: EmailAddress,
    role: Role,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Mailed {
    token: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewRole {
    role: Role,
}

/// The password again, of those who have one.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Proof {
    password: Option<String>,
}

async fn view(ask: Ask) -> Result<Reply, Problem> {
    Reply::document(ask.call(&ViewAccount { session: ask.session()?, account: ask.account()? }).await?)
}

async fn export(ask: Ask) -> Result<Reply, Problem> {
    Reply::document(ask.call(&ExportAccount { session: ask.session()?, account: ask.account()? }).await?)
}

async fn erase(ask: Ask) -> Result<Reply, Problem> {
    let (session, account) = (ask.session()?, ask.account()?);
    let proof: Proof = ask.document()?;
    let password = proof.password.as_deref().map(typed).transpose()?;
    ask.call(&EraseAccount { session, account, password, source: ask.source }).await?;
    Ok(Reply::Nothing)
}

async fn accept(ask: Ask) -> Result<Reply, Problem> {
    let session = ask.session()?;
    let mailed: Mailed = ask.document()?;
    let account = ask.call(&Accept { session, token: token(&mailed.token)? }).await?;
    Reply::document(serde_json::json!({ "account": account }))
}

async fn invite(ask: Ask) -> Result<Reply, Problem> {
    let Invitation { email, role } = ask.document()?;
    order(&ask, AccountOrder::Invite { email, role }).await?;
    Ok(Reply::Nothing)
}

async fn uninvite(ask: Ask) -> Result<Reply, Problem> {
    order(&ask, AccountOrder::Uninvite(ask.path("email")?)).await?;
    Ok(Reply::Nothing)
}

async fn set_role(ask: Ask) -> Result<Reply, Problem> {
    let NewRole { role } = ask.document()?;
    order(&ask, AccountOrder::SetRole { person: ask.path("person")?, role }).await?;
    Ok(Reply::Nothing)
}

async fn leave(ask: Ask) -> Result<Reply, Problem> {
    order(&ask, AccountOrder::Leave).await?;
    Ok(Reply::Nothing)
}

async fn remove(ask: Ask) -> Result<Reply, Problem> {
    order(&ask, AccountOrder::Remove(ask.path("person")?)).await?;
    Ok(Reply::Nothing)
}

async fn transfer(ask: Ask) -> Result<Reply, Problem> {
    order(&ask, AccountOrder::Transfer(ask.path("person")?)).await?;
    Ok(Reply::Nothing)
}

async fn make_code(ask: Ask) -> Result<Reply, Problem> {
    let made = order(&ask, AccountOrder::MakeCode).await?;
    let code = made.code.map(|code| code.reveal());
    let answer = serde_json::json!({ "code": code, "expires_unix_ms": made.code_expires });
    Reply::with_status(StatusCode::CREATED, answer)
}

async fn detach_client(ask: Ask) -> Result<Reply, Problem> {
    order(&ask, AccountOrder::DetachClient(ask.path("client")?)).await?;
    Ok(Reply::Nothing)
}

async fn attach_network(ask: Ask) -> Result<Reply, Problem> {
    order(&ask, AccountOrder::AttachNetwork(ask.path("network")?)).await?;
    Ok(Reply::Nothing)
}

async fn detach_network(ask: Ask) -> Result<Reply, Problem> {
    order(&ask, AccountOrder::DetachNetwork(ask.path("network")?)).await?;
    Ok(Reply::Nothing)
}

async fn order(ask: &Ask, order: AccountOrder) -> Result<OrderedForAccount, Problem> {
    ask.call(&OrderForAccount { session: ask.session()?, account: ask.account()?, order }).await
}
