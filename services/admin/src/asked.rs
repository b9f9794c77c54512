//! A request that was let in, as handlers see it.

use std::{collections::BTreeMap, fmt::Display, str::FromStr, sync::Arc};

use bus::{Call, CallError};
use domain::UnixMillis;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{State, auth::Bearer, error::Problem, page, precondition::Precondition};

/// Everything that a handler needs.
#[derive(Clone)]
pub(crate) struct Asked {
    pub(crate) state: Arc<State>,
    pub(crate) bearer: Arc<Bearer>,
    pub(crate) at: UnixMillis,
    pub(crate) path: BTreeMap<String, String>,
    pub(crate) query: BTreeMap<String, String>,
    pub(crate) body: Value,
    pub(crate) precondition: Precondition,
    /// Of somebody who reads a stream on: the last event that was seen.
    pub(crate) last_event: Option<u64>,
}

impl Asked {
    /// A part of the path.
    pub(crate) fn path<T: FromStr<Err: Display>>(&self, name: &str) -> Result<T, Problem> {
        let text = self.path.get(name).map_or("", String::as_str);
        text.parse().map_err(|error| Problem::invalid(format!("{name}: {error}")))
    }

    /// A parameter of the query, if it is there.
    pub(crate) fn query<T: FromStr<Err: Display>>(&self, name: &str) -> Result<Option<T>, Problem> {
        let text = self.query.get(name);
        text.map(|text| text.parse().map_err(|error| Problem::invalid(format!("{name}: {error}")))).transpose()
    }

    /// Whether only what would happen is asked for.
    pub(crate) fn is_dry_run(&self) -> bool {
        self.query.get("dry_run").is_some_and(|flag| flag == "true")
    }

    /// The document that was sent.
    pub(crate) fn body<T: DeserializeOwned>(&self) -> Result<T, Problem> {
        T::deserialize(&self.body).map_err(|error| Problem::invalid_body(error.to_string()))
    }

    /// The size of a page and where it begins.
    pub(crate) fn page<Key: DeserializeOwned>(&self, list: &str) -> Result<(u16, Option<Key>), Problem> {
        let limit = self.query("limit")?.unwrap_or(page::USUAL);
        let cursor = self.query.get("cursor").map(|cursor| page::read_cursor(list, cursor)).transpose()?;
        Ok((limit, cursor))
    }

    /// Asks another role. `incident` is the number that a refusal quotes; a refusal without one says nothing but that the
    /// role cannot serve now.
    pub(crate) async fn call<C: Call>(
        &self,
        call: &C,
        incident: impl FnOnce(&C::Refusal) -> Option<u64>,
    ) -> Result<C::Reply, Problem> {
        self.state.bus.call(call).await.map_err(|error| Problem::of_call(&error, incident))
    }

    /// Asks another role, whose refusals `refused` puts into words.
    pub(crate) async fn order<C: Call>(
        &self,
        call: &C,
        refused: impl FnOnce(C::Refusal) -> Problem,
    ) -> Result<C::Reply, Problem> {
        match self.state.bus.call(call).await {
            Ok(reply) => Ok(reply),
            Err(CallError::Refused(refusal)) => Err(refused(refusal)),
            Err(error) => Err(Problem::of_call(&error, |_| None)),
        }
    }
}
