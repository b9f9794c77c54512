//! `GET /v1/pairs/{a}/{b}`: why two clients are connected as they are.

use actix_web::{HttpRequest, web::Data};
use contract::rendezvous::{Pair, Refusal};
use domain::ClientId;

use super::{Answer, document};
use crate::{State, error::Problem};

pub(super) async fn show(state: Data<State>, request: HttpRequest) -> Answer {
    let (a, b) = (client(&request, "a")?, client(&request, "b")?);
    let reply = state.bus.call(&Pair { a, b }).await.map_err(|error| Problem::of_call(&error, incident))?;
    document(reply.record.ok_or_else(|| Problem::not_found("the two never negotiated, or it is long ago"))?)
}

fn client(request: &HttpRequest, name: &str) -> Result<ClientId, Problem> {
    let text = request.match_info().get(name).unwrap_or_default();
    text.parse().map_err(|error| Problem::invalid(format!("{name}: {error}")))
}

/// The number that an internal failure of rendezvous is logged under.
pub(super) fn incident(refusal: &Refusal) -> Option<u64> {
    match refusal {
        Refusal::Internal { incident } => Some(*incident),
    }
}
