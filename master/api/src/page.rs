//! Pages of lists: an answer has some entries, and the cursor for the next.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use utoipa::openapi::schema::{ArrayBuilder, ObjectBuilder, Schema};
use utoipa::openapi::{Ref, RefOr};
use utoipa::{IntoParams, PartialSchema, ToSchema};

use crate::schema::text_or_null;

/// Which page of a list, in the query.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct PageQuery {
    /// Entries of a page: 1 to 500, 50 by default.
    #[param(value_type = i64, required = false, minimum = 1, maximum = 500, default = 50)]
    pub limit: Option<u32>,
    /// The `next_cursor` of the page before.
    #[param(value_type = String, required = false)]
    pub cursor: Option<String>,
}

/// A page of a list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Page<T> {
    /// The entries.
    pub data: Vec<T>,
    /// For the next page; null on the last.
    pub next_cursor: Option<String>,
}

impl<T> Page<T> {
    /// A list that is always answered whole.
    pub fn whole(data: Vec<T>) -> Self {
        Self { data, next_cursor: None }
    }
}

// By hand, for the name: the derived one of a page of jobs would be `Page_Job`.
impl<T: ToSchema> PartialSchema for Page<T> {
    fn schema() -> RefOr<Schema> {
        let entries = ArrayBuilder::new().items(Ref::from_schema_name(T::name()));
        let cursor = text_or_null();
        let page = ObjectBuilder::new().property("data", entries).property(
            "next_cursor",
            ObjectBuilder::from(cursor).description(Some("For the next page; null on the last.")),
        );
        page.required("data").required("next_cursor").into()
    }
}

impl<T: ToSchema> ToSchema for Page<T> {
    /// `OrderIds` are the entries of an `OrderPage`.
    fn name() -> Cow<'static, str> {
        format!("{}Page", T::name().trim_end_matches("Ids")).into()
    }

    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.push((T::name().into_owned(), T::schema()));
        T::schemas(schemas);
    }
}
