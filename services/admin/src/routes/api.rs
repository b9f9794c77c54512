//! `GET /`: what there is; `GET /v1/openapi.json`: all about it.

use actix_web::http::{Method, StatusCode};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::operations as all;
use crate::{
    asked::Asked,
    openapi,
    operation::{Answer, Done, Operation},
};

/// The paths of the API.
#[derive(Serialize, ToSchema)]
struct Index {
    resources: Vec<String>,
}

/// An OpenAPI document.
#[derive(Serialize, ToSchema)]
struct OpenApi {
    /// The version of OpenAPI.
    openapi: String,
    #[serde(flatten)]
    #[schema(value_type = Object)]
    rest: Value,
}

pub(super) fn operations() -> Vec<Operation> {
    vec![
        Operation::new(Method::GET, "/", "api_index", None, index)
            .summary("Lists the paths of the API.")
            .gives::<Index>(StatusCode::OK),
        Operation::new(Method::GET, "/v1/openapi.json", "api_openapi", None, document)
            .summary("Describes the API: this document.")
            .gives::<OpenApi>(StatusCode::OK),
    ]
}

async fn index(_: Asked) -> Answer {
    let mut resources: Vec<String> = all().iter().map(|operation| operation.path.to_owned()).collect();
    resources.extend(["/health", "/ready", "/metrics"].map(str::to_owned));
    resources.sort();
    resources.dedup();
    resources.retain(|path| path != "/");
    Done::document(Index { resources })
}

async fn document(_: Asked) -> Answer {
    Done::document(openapi::document(&all()))
}
