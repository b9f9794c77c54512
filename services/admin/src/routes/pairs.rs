//! `GET /v1/pairs/{a}/{b}`: why two clients are connected as they are.

use actix_web::http::{Method, StatusCode};
use contract::rendezvous::{Pair, Refusal};
use domain::{ApiScope, PairRecord};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::{
    asked::Asked,
    error::Problem,
    operation::{Answer, Done, Operation},
    schema::Id,
};

/// How two clients came to be connected as they are.
#[derive(Serialize, ToSchema)]
#[schema(as = Pair)]
struct Document {
    #[schema(value_type = Id)]
    a: String,
    #[schema(value_type = Id)]
    b: String,
    /// What came of it, like `direct` or `relayed`.
    outcome: String,
    /// Why, in plain words.
    hint: String,
    #[serde(flatten)]
    #[schema(value_type = Object)]
    rest: Value,
}

pub(super) fn operations() -> Vec<Operation> {
    vec![
        Operation::new(Method::GET, "/v1/pairs/{a}/{b}", "pairs_show", ApiScope::Read, show)
            .summary("Tells why two clients are connected as they are.")
            .gives::<Document>(StatusCode::OK)
            .refuses(StatusCode::NOT_FOUND, "The two never negotiated, or it is long ago."),
    ]
}

async fn show(asked: Asked) -> Answer {
    let (a, b) = (asked.path("a")?, asked.path("b")?);
    let reply = asked.call(&Pair { a, b }, incident).await?;
    let record: PairRecord =
        reply.record.ok_or_else(|| Problem::not_found("the two never negotiated, or it is long ago"))?;
    Done::document(record)
}

/// The number that an internal failure of rendezvous is logged under.
pub(super) fn incident(refusal: &Refusal) -> Option<u64> {
    match refusal {
        Refusal::Internal { incident } => Some(*incident),
    }
}
