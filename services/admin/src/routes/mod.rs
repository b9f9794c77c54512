//! The resources of the API, one file each.

mod networks;
mod pairs;
mod relays;
mod sessions;

use actix_web::{
    HttpRequest, HttpResponse, ResponseError as _,
    http::{Method, StatusCode},
    web::{self, Data, ServiceConfig},
};
use serde::Serialize;

use crate::{State, auth, error::Problem, metrics::Outcome};

/// Adds every route.
pub(crate) fn configure(config: &mut ServiceConfig, state: &Data<State>) {
    config
        .app_data(state.clone())
        .service(resource("/", index))
        .service(resource("/v1/sessions", sessions::list))
        .service(resource("/v1/networks", networks::list))
        .service(resource("/v1/relays", relays::list))
        .service(action("/v1/relays/{relay}/drain", relays::drain))
        .service(action("/v1/relays/{relay}/resume", relays::resume))
        .service(resource("/v1/pairs/{a}/{b}", pairs::show))
        .default_service(web::to(|| async { Problem::not_found("there is no such resource").error_response() }));
}

/// What a handler gives: a document, or a problem.
type Answer = Result<serde_json::Value, Problem>;

/// A resource that operators read with GET.
fn resource<F, Fut>(path: &'static str, read: F) -> actix_web::Resource
where
    F: Fn(Data<State>, HttpRequest) -> Fut + Clone + 'static,
    Fut: Future<Output = Answer> + 'static,
{
    answered(path, Method::GET, StatusCode::OK, read)
}

/// Something that operators have done with POST; the answer tells that it was begun.
fn action<F, Fut>(path: &'static str, act: F) -> actix_web::Resource
where
    F: Fn(Data<State>, HttpRequest) -> Fut + Clone + 'static,
    Fut: Future<Output = Answer> + 'static,
{
    answered(path, Method::POST, StatusCode::ACCEPTED, act)
}

fn answered<F, Fut>(path: &'static str, method: Method, success: StatusCode, answer: F) -> actix_web::Resource
where
    F: Fn(Data<State>, HttpRequest) -> Fut + Clone + 'static,
    Fut: Future<Output = Answer> + 'static,
{
    let handle = move |state: Data<State>, request: HttpRequest| {
        let answer = answer.clone();
        async move {
            if let Err(problem) = auth::check(&request, &state) {
                return problem.error_response();
            }
            match answer(state.clone(), request).await {
                Ok(document) => {
                    state.metrics.request(Outcome::Ok);
                    HttpResponse::build(success).json(document)
                }
                Err(problem) => {
                    let refused = problem.status_code().is_client_error();
                    state.metrics.request(if refused { Outcome::Refused } else { Outcome::Failed });
                    problem.error_response()
                }
            }
        }
    };
    web::resource(path).route(web::method(method.clone()).to(handle)).default_service(web::to(move || {
        let problem = Problem::method_not_allowed(&method);
        async move { problem.error_response() }
    }))
}

async fn index(_: Data<State>, _: HttpRequest) -> Answer {
    let resources = [
        "/v1/sessions",
        "/v1/networks",
        "/v1/relays",
        "/v1/relays/{relay}/drain",
        "/v1/relays/{relay}/resume",
        "/v1/pairs/{a}/{b}",
        "/health",
        "/ready",
        "/metrics",
    ];
    Ok(serde_json::json!({ "resources": resources }))
}

/// A value as a document.
fn document(value: impl Serialize) -> Answer {
    serde_json::to_value(value).map_err(|_| Problem::invalid("the answer has no JSON form"))
}
