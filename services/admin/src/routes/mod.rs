//! The resources of the API, one file each.

mod account_details;
mod accounts;
mod api;
mod audit;
mod blocks;
mod clients;
mod deliveries;
mod ending;
mod events;
mod network;
mod networks;
mod overview;
mod pairs;
mod plans;
mod relays;
mod sessions;
mod tokens;
mod usage;
mod webhooks;

use std::{collections::BTreeMap, sync::Arc};

use actix_web::{
    HttpRequest,
    http::Method,
    web::{self, Payload, ServiceConfig},
};
use domain::ApiScope;

use crate::{
    State,
    error::Problem,
    openapi,
    operation::Operation,
    serve::{serve, stray},
};

/// Every operation there is.
pub(crate) fn operations() -> Vec<Operation> {
    [
        api::operations(),
        overview::operations(),
        sessions::operations(),
        ending::operations(),
        networks::operations(),
        network::operations(),
        relays::operations(),
        pairs::operations(),
        clients::operations(),
        plans::operations(),
        usage::operations(),
        tokens::operations(),
        blocks::operations(),
        audit::operations(),
        accounts::operations(),
        events::operations(),
        webhooks::operations(),
        deliveries::operations(),
    ]
    .concat()
}

/// What is declared of an operation, for tests and tools that go through all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Declared {
    pub method: String,
    pub path: &'static str,
    pub id: &'static str,
    /// `None`: any valid token will do.
    pub scope: Option<ApiScope>,
    pub takes_body: bool,
    pub needs_version: bool,
    pub success: u16,
    /// Every status that it may be answered with.
    pub statuses: Vec<u16>,
}

/// The declarations of all operations.
#[must_use]
pub fn declared() -> Vec<Declared> {
    let declared = operations().into_iter().map(|operation| {
        let mut statuses: Vec<u16> = openapi::refusals(&operation).iter().map(|(status, _)| status.as_u16()).collect();
        statuses.push(operation.success.as_u16());
        statuses.sort_unstable();
        statuses.dedup();
        Declared {
            method: operation.method.to_string(),
            path: operation.path,
            id: operation.id,
            scope: operation.scope,
            takes_body: operation.body.is_some(),
            needs_version: operation.condition == crate::operation::Condition::Required,
            success: operation.success.as_u16(),
            statuses,
        }
    });
    declared.collect()
}

/// Adds every route.
pub(crate) fn configure(config: &mut ServiceConfig, state: &Arc<State>) {
    let mut paths: BTreeMap<&str, Vec<Operation>> = BTreeMap::new();
    for operation in operations() {
        paths.entry(operation.path).or_default().push(operation);
    }
    // A path of fixed parts is found before one with parameters.
    let mut paths: Vec<_> = paths.into_iter().collect();
    paths.sort_by_key(|(path, _)| path.matches('{').count());
    for (path, operations) in paths {
        let allowed: Vec<Method> = operations.iter().map(|operation| operation.method.clone()).collect();
        let mut resource = web::resource(path);
        for operation in operations {
            let (method, operation, state) = (operation.method.clone(), Arc::new(operation), Arc::clone(state));
            let handle = move |request: HttpRequest, payload: Payload| {
                serve(Arc::clone(&operation), Arc::clone(&state), request, payload)
            };
            resource = resource.route(web::method(method).to(handle));
        }
        let refuse = move |request: HttpRequest| {
            let response = stray(&request, &Problem::method_not_allowed(allowed.clone()));
            async move { response }
        };
        config.service(resource.default_service(web::to(refuse)));
    }
    let unknown = |request: HttpRequest| {
        let response = stray(&request, &Problem::not_found("there is no such resource"));
        async move { response }
    };
    config.default_service(web::to(unknown));
}
