//! What the API can do. An operation is declared once; routing, authorisation, the OpenAPI document, the audit log,
//! preconditions and repeatability follow from the declaration.

use std::{fmt, sync::Arc};

use actix_web::{
    http::{Method, StatusCode},
    web::Bytes,
};
use domain::ApiScope;
use futures_util::{future::BoxFuture, stream::BoxStream};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use utoipa::ToSchema;

use crate::{asked::Asked, error::Problem, parameter::Parameter};

/// What a handler gives.
pub(crate) type Answer = Result<Done, Problem>;

type Act = Arc<dyn Fn(Asked) -> BoxFuture<'static, Answer> + Send + Sync>;

/// One method of one path.
#[derive(Clone)]
pub(crate) struct Operation {
    pub(crate) method: Method,
    pub(crate) path: &'static str,
    /// Stable: the OpenAPI document, the audit log and the command line call it so.
    pub(crate) id: &'static str,
    pub(crate) summary: &'static str,
    /// What a token must have; `None`: any valid token will do.
    pub(crate) scope: Option<ApiScope>,
    /// What may stand in the query.
    pub(crate) parameters: Vec<Parameter>,
    pub(crate) body: Option<Body>,
    pub(crate) success: StatusCode,
    pub(crate) gives: Gives,
    pub(crate) condition: Condition,
    /// It is in the audit log although it changes nothing.
    pub(crate) audited: bool,
    /// Refusals beyond those that follow from the rest: status and what it means.
    pub(crate) refusals: Vec<(StatusCode, &'static str)>,
    act: Act,
}

/// A body that an operation takes.
#[derive(Clone, Copy)]
pub(crate) struct Body {
    pub(crate) schema: SchemaOf,
    /// Says what is wrong with a document.
    pub(crate) check: fn(&Value) -> Result<(), String>,
}

/// What a successful answer holds.
#[derive(Clone, Copy)]
pub(crate) enum Gives {
    Document(SchemaOf),
    /// One JSON document a line.
    Lines(SchemaOf),
    /// Server-sent events with a JSON document each.
    Events(SchemaOf),
    Nothing,
}

/// Whether the object has a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    None,
    /// The answer has an `ETag`.
    Tagged,
    /// `If-Match` must name the version that is changed.
    Required,
}

/// Adds the schema of a type, and of all that it consists of, to a list. Gives its name.
pub(crate) type SchemaOf = fn(&mut Schemas) -> String;

/// Schemas by name.
pub(crate) type Schemas = Vec<(String, utoipa::openapi::RefOr<utoipa::openapi::schema::Schema>)>;

fn schema_of<T: ToSchema>(schemas: &mut Schemas) -> String {
    T::schemas(schemas);
    schemas.push((T::name().into_owned(), T::schema()));
    T::name().into_owned()
}

/// What came of a request.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) content: Content,
    pub(crate) etag: Option<String>,
    /// For the audit log: what was there before, and what is there now.
    pub(crate) before: Option<Value>,
    pub(crate) after: Option<Value>,
}

pub(crate) enum Content {
    Document(Value),
    Lines(BoxFuture<'static, Lines>),
    Events(BoxStream<'static, Bytes>),
    Nothing,
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Document(_) => "Document",
            Self::Lines(_) => "Lines",
            Self::Events(_) => "Events",
            Self::Nothing => "Nothing",
        })
    }
}

/// Some lines, and how to get more.
pub(crate) struct Lines {
    pub(crate) text: String,
    pub(crate) more: Option<BoxFuture<'static, Lines>>,
}

impl Done {
    /// An answer with a document.
    pub(crate) fn document(value: impl Serialize) -> Answer {
        match serde_json::to_value(value) {
            Ok(value) => Ok(Self { content: Content::Document(value), etag: None, before: None, after: None }),
            Err(error) => Err(Problem::internal(telemetry::incident::log("encoding an answer", &error))),
        }
    }

    /// An answer without content.
    pub(crate) const fn nothing() -> Self {
        Self { content: Content::Nothing, etag: None, before: None, after: None }
    }

    pub(crate) fn tagged(self, etag: impl Into<String>) -> Self {
        Self { etag: Some(etag.into()), ..self }
    }

    /// What the audit log is told of a change; `before` and `after` hold no secrets.
    pub(crate) fn changed(self, before: impl Serialize, after: impl Serialize) -> Self {
        let value = |value: Result<Value, _>| value.ok().filter(|value| !value.is_null());
        let (before, after) = (value(serde_json::to_value(before)), value(serde_json::to_value(after)));
        Self { before, after, ..self }
    }
}

impl Operation {
    pub(crate) fn new<F, Fut>(
        method: Method,
        path: &'static str,
        id: &'static str,
        scope: impl Into<Option<ApiScope>>,
        act: F,
    ) -> Self
    where
        F: Fn(Asked) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Answer> + Send + 'static,
    {
        Self {
            method,
            path,
            id,
            summary: "",
            scope: scope.into(),
            parameters: Vec::new(),
            body: None,
            success: StatusCode::NO_CONTENT,
            gives: Gives::Nothing,
            condition: Condition::None,
            audited: false,
            refusals: Vec::new(),
            act: Arc::new(move |asked| Box::pin(act(asked))),
        }
    }

    pub(crate) fn summary(self, summary: &'static str) -> Self {
        Self { summary, ..self }
    }

    pub(crate) fn query(mut self, parameters: impl IntoIterator<Item = Parameter>) -> Self {
        self.parameters.extend(parameters);
        self
    }

    pub(crate) fn takes<T: ToSchema + DeserializeOwned>(self) -> Self {
        let check = |value: &Value| T::deserialize(value).map(drop).map_err(|error| error.to_string());
        Self { body: Some(Body { schema: schema_of::<T>, check }), ..self }
    }

    /// Answers with a `T`.
    pub(crate) fn gives<T: ToSchema>(self, success: StatusCode) -> Self {
        Self { gives: Gives::Document(schema_of::<T>), success, ..self }
    }

    /// Answers with a `T` a line.
    pub(crate) fn streams<T: ToSchema>(self) -> Self {
        Self { gives: Gives::Lines(schema_of::<T>), success: StatusCode::OK, ..self }
    }

    /// Answers with events that are `T`s, for as long as somebody listens.
    pub(crate) fn tells<T: ToSchema>(self) -> Self {
        Self { gives: Gives::Events(schema_of::<T>), success: StatusCode::OK, ..self }
    }

    /// The answer has an `ETag`.
    pub(crate) fn tagged(self) -> Self {
        Self { condition: Condition::Tagged, ..self }
    }

    /// `If-Match` is needed.
    pub(crate) fn conditional(self) -> Self {
        Self { condition: Condition::Required, ..self }
    }

    /// Who looks at it is written to the audit log, as changes are.
    pub(crate) fn audited(self) -> Self {
        Self { audited: true, ..self }
    }

    /// May be refused with `status`, beyond what every operation may be.
    pub(crate) fn refuses(mut self, status: StatusCode, meaning: &'static str) -> Self {
        self.refusals.push((status, meaning));
        self
    }

    /// Whether it changes something.
    pub(crate) fn changes(&self) -> bool {
        self.method != Method::GET
    }

    pub(crate) fn act(&self, asked: Asked) -> BoxFuture<'static, Answer> {
        (self.act)(asked)
    }

    /// The names of the parameters in the path, in their order.
    pub(crate) fn path_parameters(&self) -> impl Iterator<Item = &'static str> {
        self.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
    }
}

impl fmt::Debug for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.path)
    }
}
