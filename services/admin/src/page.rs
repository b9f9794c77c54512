//! Pages of long lists: `?limit=N&cursor=TEXT`, answered with the next cursor as long as there is more.
//!
//! A cursor says where the next page begins in a way that only this module reads, so that what a list is ordered by can change.

use std::borrow::Cow;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Serialize, de::DeserializeOwned};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        Ref, RefOr,
        schema::{ArrayBuilder, ObjectBuilder, Schema, SchemaType, Type},
    },
};

use crate::{
    error::Problem,
    parameter::{Kind, Parameter},
};

/// The longest page.
pub(crate) const MOST: u32 = 200;
/// Without a limit.
pub(crate) const USUAL: u16 = 50;

/// The parameters of every list that comes in pages.
pub(crate) const PARAMETERS: [Parameter; 2] = [
    Parameter::new("limit", Kind::Count(MOST), "How many items, at most; 50 without it."),
    Parameter::new("cursor", Kind::Text, "`next_cursor` of the page before."),
];

/// A page.
#[derive(Debug, Serialize)]
pub(crate) struct Page<T> {
    items: Vec<T>,
    /// Give it as `cursor` to get the next page; `null` after the last one.
    next_cursor: Option<String>,
}

impl<T> Page<T> {
    /// The page with `items` of `list`; `key` says where the last one stands when there is more.
    pub(crate) fn new<Key: Serialize>(list: &str, items: Vec<T>, more: bool, key: impl FnOnce(&T) -> Key) -> Self {
        let next_cursor = items.last().filter(|_| more).map(|last| cursor(list, &key(last)));
        Self { items, next_cursor }
    }

    /// The page with `items` of `list`, when it is known where the next one begins.
    pub(crate) fn until<Key: Serialize>(list: &str, items: Vec<T>, next: Option<Key>) -> Self {
        Self { items, next_cursor: next.map(|key| cursor(list, &key)) }
    }

    /// The whole of a short list.
    pub(crate) const fn whole(items: Vec<T>) -> Self {
        Self { items, next_cursor: None }
    }
}

impl<T: ToSchema> PartialSchema for Page<T> {
    fn schema() -> RefOr<Schema> {
        let cursor = ObjectBuilder::new()
            .schema_type(SchemaType::Array(vec![Type::String, Type::Null]))
            .description(Some("Give it as `cursor` to get the next page; `null` after the last one."));
        ObjectBuilder::new()
            .property("items", ArrayBuilder::new().items(Ref::from_schema_name(T::name())))
            .property("next_cursor", cursor)
            .required("items")
            .required("next_cursor")
            .description(Some("A page of a list."))
            .build()
            .into()
    }
}

/// Each kind of page has a name of its own, which a derived schema would not give it.
impl<T: ToSchema> ToSchema for Page<T> {
    fn name() -> Cow<'static, str> {
        format!("PageOf{}", T::name()).into()
    }

    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        T::schemas(schemas);
        schemas.push((T::name().into_owned(), T::schema()));
    }
}

/// The cursor of a place in `list`.
fn cursor(list: &str, key: &impl Serialize) -> String {
    URL_SAFE_NO_PAD.encode(serde_json::to_vec(&(list, key)).unwrap_or_default())
}

/// The place that a cursor names.
pub(crate) fn read_cursor<Key: DeserializeOwned>(list: &str, text: &str) -> Result<Key, Problem> {
    let bytes = URL_SAFE_NO_PAD.decode(text).unwrap_or_default();
    match serde_json::from_slice::<(String, Key)>(&bytes) {
        Ok((of, key)) if of == list => Ok(key),
        Ok(_) | Err(_) => Err(Problem::invalid("cursor: not from a page of this list")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_good_for_its_own_list_only() {
        let text = cursor("clients", &("\u{1f41f}", 7));
        assert_eq!(read_cursor::<(String, u8)>("clients", &text).unwrap(), ("\u{1f41f}".to_owned(), 7));
        assert!(read_cursor::<(String, u8)>("networks", &text).is_err());
        assert!(read_cursor::<u64>("clients", &text).is_err());
        assert!(read_cursor::<u64>("clients", "zz").is_err());
    }
}
