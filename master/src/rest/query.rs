//! Reads the query of a request. Unknown parameters are refused, like unknown fields of a body.

use std::ops::RangeInclusive;
use std::str::FromStr;

use axum::extract::{FromRequestParts, Query as Pairs};
use axum::http::request::Parts;
use reloop_api::Page;
use reloop_api::limits::{PAGE_DEFAULT, PAGE_LIMIT};

use super::problem::{Code, FieldError, Problem};

/// The parameters of a request that were not read yet.
pub(super) struct Query {
    pairs: Vec<(String, String)>,
    wrong: Vec<FieldError>,
}

impl<S: Send + Sync> FromRequestParts<S> for Query {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let Pairs(pairs) = Pairs::try_from_uri(&parts.uri)
            .map_err(|error| Problem::new(Code::BadRequest, format!("the query cannot be read: {error}")))?;
        Ok(Self { pairs, wrong: Vec::new() })
    }
}

impl Query {
    /// A parameter's text; an empty one counts as absent.
    pub(super) fn text(&mut self, key: &str) -> Option<String> {
        let at = self.pairs.iter().position(|(name, _)| name == key)?;
        let (_, value) = self.pairs.remove(at);
        Some(value).filter(|value| !value.is_empty())
    }

    /// A parameter that stands alone, as in `?verbose`.
    pub(super) fn flag(&mut self, key: &str) -> bool {
        let before = self.pairs.len();
        self.pairs.retain(|(name, _)| name != key);
        self.pairs.len() < before
    }

    /// A parameter that is something.
    pub(super) fn parsed<T: FromStr<Err: std::fmt::Display>>(&mut self, key: &str) -> Option<T> {
        self.text(key)?.parse().map_err(|error| self.wrong(key, format!("{error}"))).ok()
    }

    /// A whole number within the range, if the parameter is there.
    pub(super) fn int(&mut self, key: &str, range: RangeInclusive<i64>) -> Option<i64> {
        let text = self.text(key)?;
        let number = text.parse().ok().filter(|number| range.contains(number));
        if number.is_none() {
            self.wrong(key, format!("{text:?}; allowed are {} to {}", range.start(), range.end()));
        }
        number
    }

    /// Notes that a parameter is wrong.
    pub(super) fn wrong(&mut self, key: &str, detail: String) {
        self.wrong.push(FieldError { field: key.to_owned(), detail });
    }

    /// How many entries the page has.
    pub(super) fn limit(&mut self) -> usize {
        let limit = self.int("limit", 1..=PAGE_LIMIT).unwrap_or(PAGE_DEFAULT);
        usize::try_from(limit).expect("it was checked against its limit")
    }

    /// Everything was right, and nothing was left over.
    pub(super) fn end(mut self) -> Result<(), Problem> {
        let code = if self.wrong.is_empty() { Code::UnknownField } else { Code::BadRequest };
        for (name, _) in self.pairs {
            self.wrong.push(FieldError { field: name, detail: "unknown parameter".to_owned() });
        }
        if self.wrong.is_empty() { Ok(()) } else { Err(Problem::fields(code, self.wrong)) }
    }
}

/// The first of a list in memory, from behind the cursor on.
pub(super) fn page<T>(mut data: Vec<T>, limit: usize, id: impl Fn(&T) -> String) -> Page<T> {
    let more = data.len() > limit;
    data.truncate(limit);
    let next_cursor = data.last().filter(|_| more).map(id);
    Page { data, next_cursor }
}
