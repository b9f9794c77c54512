//! Schemas of the words of the domain.

use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        RefOr,
        schema::{ObjectBuilder, Schema, Type},
    },
};

/// 32 hexadecimal digits.
pub(crate) struct Id;

impl PartialSchema for Id {
    fn schema() -> RefOr<Schema> {
        let object = ObjectBuilder::new().schema_type(Type::String).pattern(Some("^[0-9a-f]{32}$"));
        object.description(Some("32 hexadecimal digits.")).build().into()
    }
}

impl ToSchema for Id {}
