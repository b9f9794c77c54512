//! `GET /v1/overview`: how the service is, and how it was in the last hour.

use actix_web::http::{Method, StatusCode};
use contract::admin::Ended;
use domain::{ApiScope, NatClass, PairOutcome, Strategy, UnixMillis};
use serde::Serialize;
use tokio::time::Instant;
use utoipa::ToSchema;

use crate::{
    asked::Asked,
    figures::{self, EVERY, Sample},
    operation::{Answer, Done, Operation},
};

/// How the service is, by what its processes tell.
#[derive(Serialize, ToSchema)]
struct Overview {
    #[schema(value_type = u64)]
    at_ms: UnixMillis,
    /// Clients that are online.
    sessions: u64,
    gateways: usize,
    /// Attempts to get a path that ended, by what the two routers are like.
    pairs: Vec<Attempts>,
    relays: Relays,
    /// Between two entries of the history.
    every_ms: u64,
    /// Of up to an hour, oldest first.
    history: Vec<Moment>,
}

/// Attempts of such pairs that ended so.
#[derive(Serialize, ToSchema)]
struct Attempts {
    #[schema(value_type = String)]
    class_a: NatClass,
    #[schema(value_type = String)]
    class_b: NatClass,
    #[schema(value_type = String)]
    strategy: Strategy,
    #[schema(value_type = String)]
    outcome: PairOutcome,
    count: u64,
}

/// All relays together.
#[derive(Serialize, ToSchema)]
#[schema(as = AllRelays)]
struct Relays {
    count: usize,
    draining: usize,
    slots: u64,
    max_slots: u64,
    bytes_per_second: u64,
}

/// How it was.
#[derive(Serialize, ToSchema)]
struct Moment {
    #[schema(value_type = u64)]
    at_ms: UnixMillis,
    sessions: u64,
    /// Attempts that had ended so until then.
    direct: u64,
    relayed: u64,
    slots: u64,
    bytes_per_second: u64,
}

impl From<figures::Overview> for Overview {
    fn from(overview: figures::Overview) -> Self {
        let figures::Overview { now, gateways, relays, draining, max_slots, ended, history } = overview;
        let Sample { at, sessions, slots, bytes_per_second, .. } = now;
        Self {
            at_ms: at,
            sessions,
            gateways,
            pairs: ended.into_iter().map(Attempts::from).collect(),
            relays: Relays { count: relays, draining, slots, max_slots, bytes_per_second },
            every_ms: u64::try_from(EVERY.as_millis()).unwrap_or(u64::MAX),
            history: history.into_iter().map(Moment::from).collect(),
        }
    }
}

impl From<Ended> for Attempts {
    fn from(Ended { class_a, class_b, strategy, outcome, count }: Ended) -> Self {
        Self { class_a, class_b, strategy, outcome, count }
    }
}

impl From<Sample> for Moment {
    fn from(Sample { at, sessions, direct, relayed, slots, bytes_per_second }: Sample) -> Self {
        Self { at_ms: at, sessions, direct, relayed, slots, bytes_per_second }
    }
}

pub(super) fn operations() -> Vec<Operation> {
    vec![
        Operation::new(Method::GET, "/v1/overview", "overview_show", ApiScope::Read, show)
            .summary("Shows how the service is, and how it was in the last hour.")
            .gives::<Overview>(StatusCode::OK),
    ]
}

async fn show(asked: Asked) -> Answer {
    Done::document(Overview::from(asked.state.figures.overview(Instant::now(), asked.at)))
}
