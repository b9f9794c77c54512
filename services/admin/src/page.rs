//! Pages of long lists: `?limit=N&cursor=ID`, answered with the next cursor as long as there is more.

use std::{fmt::Display, str::FromStr};

use actix_web::web::Query;
use serde::{Deserialize, Serialize};

use crate::error::Problem;

const MOST: u16 = 200;
const USUAL: u16 = 50;

/// The parameters of a page.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wanted {
    limit: Option<u16>,
    cursor: Option<String>,
}

/// A page.
#[derive(Debug, Serialize)]
pub(crate) struct Page<T> {
    items: Vec<T>,
    /// Give it as `cursor` to get the next page; `null` after the last one.
    next_cursor: Option<String>,
}

impl Wanted {
    /// The limit and the id that the page begins after.
    pub(crate) fn read<Id: FromStr<Err: Display>>(query: &str) -> Result<(u16, Option<Id>), Problem> {
        let Query(wanted) = Query::<Self>::from_query(query)?;
        let limit = wanted.limit.unwrap_or(USUAL);
        if !(1..=MOST).contains(&limit) {
            return Err(Problem::invalid(format!("limit: between 1 and {MOST}")));
        }
        let cursor = wanted.cursor.map(|cursor| cursor.parse()).transpose();
        Ok((limit, cursor.map_err(|error| Problem::invalid(format!("cursor: {error}")))?))
    }
}

impl<T> Page<T> {
    /// The page with `items`; `cursor` names the last one when there is more.
    pub(crate) fn new(items: Vec<T>, more: bool, cursor: impl FnOnce(&T) -> String) -> Self {
        let next_cursor = items.last().filter(|_| more).map(cursor);
        Self { items, next_cursor }
    }
}
