//! The OpenAPI 3.1 document: made of the declarations, and of the schemas of the types that are sent and answered.

use std::collections::BTreeMap;

use actix_web::http::{Method, StatusCode};
use serde_json::{Map, Value, json};

use crate::{
    error::Document,
    operation::{Condition, Gives, Operation, Schemas},
    parameter::Parameter,
    repeat,
};

const PROBLEM: &str = "application/problem+json";

/// The document of these operations.
pub(crate) fn document(operations: &[Operation]) -> Value {
    let mut schemas = Schemas::new();
    let mut paths: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
    <Document<'_> as utoipa::ToSchema>::schemas(&mut schemas);
    schemas.push(("Problem".to_owned(), <Document<'_> as utoipa::PartialSchema>::schema()));
    for operation in operations {
        let described = describe(operation, &mut schemas);
        paths.entry(operation.path).or_default().insert(operation.method.as_str().to_lowercase(), described);
    }
    let schemas: BTreeMap<String, Value> =
        schemas.into_iter().map(|(name, schema)| (name, serde_json::to_value(schema).unwrap_or_default())).collect();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Buri: the API for operators",
            "version": "1",
            "description": "Every answer that is no success is a problem document (RFC 9457) with a stable `code`. Lists come \
    in pages: give `next_cursor` as `cursor`. Every POST may be repeated with the same `Idempotency-Key`: it is carried out once. \
    Objects with an `ETag` are changed with `If-Match`. Every answer tells what is left of the token's requests in this minute. \
    Every change is in the audit log, and so is every export of an account.",
            "license": { "name": "Apache-2.0 OR MIT", "identifier": "Apache-2.0 OR MIT" },
        },
        "servers": [{ "url": "/" }],
        "security": [{ "token": [] }],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "token": { "type": "http", "scheme": "bearer", "description": "A token with the scope that the operation names in `x-scope`." },
            },
            "schemas": schemas,
            "headers": headers(),
        },
    })
}

fn headers() -> Value {
    let number = |meaning: &str| json!({ "description": meaning, "schema": { "type": "integer", "minimum": 0 } });
    json!({
        "X-Request-Id": { "description": "What the logs and the audit log call this request.", "schema": { "type": "string" } },
        "RateLimit-Limit": number("Requests that the token has in a minute."),
        "RateLimit-Remaining": number("Requests that are left of them."),
        "RateLimit-Reset": number("Seconds until all of them are there again."),
        "Retry-After": number("Seconds after which to try again."),
        "ETag": { "description": "The version of the object, for If-Match.", "schema": { "type": "string" } },
    })
}

fn describe(operation: &Operation, schemas: &mut Schemas) -> Value {
    let tag = operation.path.trim_start_matches("/v1/").split('/').next().filter(|tag| !tag.is_empty());
    let mut described = json!({
        "operationId": operation.id,
        "summary": operation.summary,
        "tags": [tag.filter(|tag| *tag != "openapi.json").unwrap_or("api")],
        "parameters": parameters(operation),
        "responses": responses(operation, schemas),
    });
    if let Some(scope) = operation.scope {
        described["x-scope"] = json!(scope.name());
    }
    if let Some(body) = &operation.body {
        let name = (body.schema)(schemas);
        described["requestBody"] = json!({ "required": true, "content": { "application/json": schema(&name) } });
    }
    described
}

fn parameters(operation: &Operation) -> Vec<Value> {
    let describe = |parameter: &Parameter, place: &str| {
        json!({
            "name": parameter.name,
            "in": place,
            "required": place == "path",
            "description": parameter.meaning,
            "schema": parameter.kind.schema(),
        })
    };
    let mut parameters: Vec<Value> =
        operation.path_parameters().map(|name| describe(&Parameter::of_path(name), "path")).collect();
    parameters.extend(operation.parameters.iter().map(|parameter| describe(parameter, "query")));
    let header = |name: &str, required: bool, meaning: &str, schema: Value| json!({ "name": name, "in": "header", "required": required, "description": meaning, "schema": schema });
    if operation.method == Method::POST {
        let text = json!({ "type": "string", "pattern": format!("^[!-~]{{1,{}}}$", repeat::LONGEST) });
        parameters.push(header(
            "Idempotency-Key",
            false,
            "Whoever repeats a request with the same key gets the same answer; it is carried out once.",
            text,
        ));
    }
    if matches!(operation.gives, Gives::Events(_)) {
        let number = json!({ "type": "integer", "minimum": 0, "maximum": i64::MAX });
        parameters.push(header("Last-Event-ID", false, "Go on after this event; before `after`.", number));
    }
    if operation.condition == Condition::Required {
        let text = json!({ "type": "string", "examples": ["\"4f2c\"", "*"] });
        parameters.push(header("If-Match", true, "The `ETag` that is changed; `*` for any.", text));
    }
    parameters
}

fn responses(operation: &Operation, schemas: &mut Schemas) -> Value {
    let mut responses = BTreeMap::new();
    let mut success = json!({ "description": "Done.", "headers": usual_headers() });
    match operation.gives {
        Gives::Document(of) => success["content"] = json!({ "application/json": schema(&of(schemas)) }),
        // One line is a document of this schema.
        Gives::Lines(of) => {
            of(schemas);
            success["content"] = json!({ "application/x-ndjson": { "schema": { "type": "string" } } });
        }
        // The data of one event is a document of this schema.
        Gives::Events(of) => {
            of(schemas);
            // Of one event, as OpenAPI 3.2 has it for streams (`itemSchema`) and tools read it in 3.1.
            success["content"] = json!({ "text/event-stream": { "schema": {
                "type": "object",
                "properties": {
                    "id": { "type": "string" },
                    "event": { "type": "string" },
                    "data": { "type": "string", "contentMediaType": "application/json" },
                },
                "required": ["data"],
            } } });
        }
        Gives::Nothing => {}
    }
    if operation.condition == Condition::Tagged {
        success["headers"]["ETag"] = header_reference("ETag");
    }
    responses.insert(operation.success.as_u16(), success);
    for (status, meaning) in refusals(operation) {
        let mut headers = usual_headers();
        if matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            headers["Retry-After"] = header_reference("Retry-After");
        }
        let entry = responses.entry(status.as_u16()).or_insert_with(
            || json!({ "description": "", "headers": headers, "content": { PROBLEM: schema("Problem") } }),
        );
        let before = entry["description"].as_str().unwrap_or_default();
        let gap = if before.is_empty() { "" } else { " " };
        entry["description"] = json!(format!("{before}{gap}{meaning}"));
    }
    json!(responses.into_iter().map(|(status, response)| (status.to_string(), response)).collect::<BTreeMap<_, _>>())
}

/// What an operation may refuse a request with, by its declaration.
pub(crate) fn refusals(operation: &Operation) -> Vec<(StatusCode, &'static str)> {
    let mut refusals = vec![
        (StatusCode::BAD_REQUEST, "A parameter, header or document is not as it must be."),
        (StatusCode::UNAUTHORIZED, "There is no valid token."),
        (StatusCode::TOO_MANY_REQUESTS, "The token has no requests left in this minute."),
        (StatusCode::INTERNAL_SERVER_ERROR, "The service failed; the logs name the incident."),
        (StatusCode::SERVICE_UNAVAILABLE, "A part of the service does not answer."),
    ];
    if operation.scope.is_some() {
        refusals.push((StatusCode::FORBIDDEN, "The token lacks the scope."));
    }
    if operation.body.is_some() {
        refusals.push((StatusCode::PAYLOAD_TOO_LARGE, "The document is too long."));
        refusals.push((StatusCode::UNSUPPORTED_MEDIA_TYPE, "The document is not `application/json`."));
    } else {
        refusals.push((StatusCode::PAYLOAD_TOO_LARGE, "There is a body, and a long one."));
    }
    if operation.method == Method::POST {
        refusals
            .push((StatusCode::CONFLICT, "The same request is being carried out, or was begun and never answered."));
        refusals.push((StatusCode::UNPROCESSABLE_ENTITY, "The `Idempotency-Key` was used for another request."));
    }
    if operation.condition == Condition::Required {
        refusals.push((StatusCode::PRECONDITION_FAILED, "The object was changed meanwhile."));
        refusals.push((StatusCode::PRECONDITION_REQUIRED, "`If-Match` is missing."));
    }
    refusals.extend(&operation.refusals);
    refusals
}

fn usual_headers() -> Value {
    let names = ["X-Request-Id", "RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset"];
    names.into_iter().map(|name| (name.to_owned(), header_reference(name))).collect::<Map<_, _>>().into()
}

fn header_reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/headers/{name}") })
}

fn schema(name: &str) -> Value {
    json!({ "schema": { "$ref": format!("#/components/schemas/{name}") } })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_schemas_have_one_name() {
        let mut schemas = Schemas::new();
        for operation in crate::routes::operations() {
            describe(&operation, &mut schemas);
        }
        let mut known: BTreeMap<String, Value> = BTreeMap::new();
        for (name, schema) in schemas {
            let schema = serde_json::to_value(schema).unwrap();
            let before = known.entry(name.clone()).or_insert_with(|| schema.clone());
            assert_eq!(*before, schema, "{name}");
        }
    }
}
