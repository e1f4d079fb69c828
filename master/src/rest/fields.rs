//! Reads a JSON body field by field, and names everything that is wrong with it at once.
//!
//! Unknown fields are refused: a misspelt `deadline` that is passed over would start a job at the wrong time. Whole
//! numbers may come as `930.0`, which JSON Schema counts as an integer too.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::time::Duration;

use axum::body::Body;
use futures_util::StreamExt as _;
use reloop_api::limits::{BODY_LIMIT, ENTRIES_LIMIT, NAME_LIMIT, VALUE_LIMIT};
use reloop_protocol::time::Time;
use serde_json::{Map, Value};

use super::problem::{Code, FieldError, Problem};

/// How long a body may take to arrive: a slow line sends 256 KiB in that time.
const BODY_PATIENCE: Duration = Duration::from_secs(30);

/// A request's body as JSON; none if it is empty.
pub(super) async fn json(body: Body) -> Result<Option<Value>, Problem> {
    let Ok(bytes) = tokio::time::timeout(BODY_PATIENCE, collect(body)).await else {
        let text = format!("the body did not arrive within {} seconds", BODY_PATIENCE.as_secs());
        return Err(Problem::new(Code::RequestTimeout, text));
    };
    parse(&bytes?)
}

/// A body that has arrived, as JSON; none if it is empty.
pub(super) fn parse(bytes: &[u8]) -> Result<Option<Value>, Problem> {
    if bytes.trim_ascii().is_empty() {
        return Ok(None);
    }
    serde_json::from_slice(bytes)
        .map(Some)
        .map_err(|error| Problem::new(Code::BadRequest, format!("the body is not JSON: {error}")))
}

async fn collect(body: Body) -> Result<Vec<u8>, Problem> {
    let mut bytes = Vec::new();
    let mut parts = body.into_data_stream();
    while let Some(part) = parts.next().await {
        let part =
            part.map_err(|error| Problem::new(Code::BadRequest, format!("the body broke off: {error}")))?;
        if bytes.len() + part.len() > BODY_LIMIT {
            return Err(Problem::new(Code::BodyTooLarge, format!("a body is at most {BODY_LIMIT} bytes")));
        }
        bytes.extend_from_slice(&part);
    }
    Ok(bytes)
}

/// One form for every spelling of a body: keys in order, 2 for 2.0, and no nulls.
pub(super) fn canonical(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let entries = map.iter().filter(|(_, value)| !value.is_null());
            Value::Object(entries.map(|(key, value)| (key.clone(), canonical(value))).collect())
        }
        Value::Array(items) => Value::Array(items.iter().map(canonical).collect()),
        Value::Number(_) => whole(value).map_or_else(|| value.clone(), Value::from),
        Value::Null | Value::Bool(_) | Value::String(_) => value.clone(),
    }
}

fn whole(value: &Value) -> Option<i64> {
    /// The largest range in which every whole number has its own float.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    value.as_i64().or_else(|| {
        let float = value.as_f64().filter(|float| float.fract() == 0.0 && float.abs() <= EXACT)?;
        #[expect(clippy::cast_possible_truncation, reason = "it is whole and within the exact range")]
        Some(float as i64)
    })
}

/// An object that is being read: what was not asked for in the end is unknown.
#[derive(Debug)]
pub(super) struct Fields {
    at: String,
    map: Map<String, Value>,
    known: BTreeSet<&'static str>,
    wrong: Vec<FieldError>,
    unknown: Vec<FieldError>,
}

impl Fields {
    /// The body's object; an absent body counts as an empty one.
    pub(super) fn new(body: Option<Value>) -> Result<Self, Problem> {
        match body {
            None => Ok(Self::of(String::new(), Map::new())),
            Some(Value::Object(map)) => Ok(Self::of(String::new(), map)),
            Some(other) => Err(Problem::new(
                Code::BadRequest,
                format!("the body is {}; expected an object", kind(&other)),
            )),
        }
    }

    fn of(at: String, map: Map<String, Value>) -> Self {
        Self { at, map, known: BTreeSet::new(), wrong: Vec::new(), unknown: Vec::new() }
    }

    fn take(&mut self, key: &'static str) -> Option<Value> {
        self.known.insert(key);
        self.map.remove(key).filter(|value| !value.is_null())
    }

    /// Notes that a field is wrong.
    pub(super) fn wrong(&mut self, key: &str, detail: impl Into<String>) {
        self.wrong.push(FieldError { field: format!("{}/{}", self.at, pointer(key)), detail: detail.into() });
    }

    fn expected<T>(&mut self, key: &'static str, value: &Value, what: &str) -> Option<T> {
        self.wrong(key, format!("{}; expected {what}", kind(value)));
        None
    }

    /// A text of at most so many bytes.
    pub(super) fn text(&mut self, key: &'static str, limit: usize) -> Option<String> {
        match self.take(key)? {
            Value::String(text) => match bad_text(&text, limit) {
                None => Some(text),
                Some(why) => {
                    self.wrong(key, why);
                    None
                }
            },
            other => self.expected(key, &other, "a string"),
        }
    }

    /// A text that has to be there.
    pub(super) fn needed_text(&mut self, key: &'static str, limit: usize) -> String {
        let present = self.map.get(key).is_some_and(|value| !value.is_null());
        let text = self.text(key, limit);
        if !present {
            self.wrong(key, "missing");
        }
        text.unwrap_or_default()
    }

    /// A whole number within the range, if the field is there.
    pub(super) fn int(&mut self, key: &'static str, range: RangeInclusive<i64>) -> Option<i64> {
        let value = self.take(key)?;
        match whole(&value) {
            Some(number) if range.contains(&number) => Some(number),
            Some(number) => {
                self.wrong(key, format!("{number}; allowed are {} to {}", range.start(), range.end()));
                None
            }
            None => self.expected(key, &value, "a whole number"),
        }
    }

    /// `true` or `false`, if the field is there.
    pub(super) fn flag(&mut self, key: &'static str) -> Option<bool> {
        match self.take(key)? {
            Value::Bool(flag) => Some(flag),
            other => self.expected(key, &other, "true or false"),
        }
    }

    /// A moment, as RFC 3339.
    pub(super) fn time(&mut self, key: &'static str) -> Option<Time> {
        match self.take(key)? {
            Value::String(text) => match text.parse::<jiff::Timestamp>() {
                Ok(time) => Some(Time(time.as_millisecond())),
                Err(_) => {
                    let text: String = text.chars().take(NAME_LIMIT).collect();
                    self.wrong(
                        key,
                        format!("{text:?}; expected a time as RFC 3339, as 2026-03-01T06:00:00Z"),
                    );
                    None
                }
            },
            other => self.expected(key, &other, "a time as a string"),
        }
    }

    /// One of these words.
    pub(super) fn word<T: Copy>(&mut self, key: &'static str, words: &[(&str, T)]) -> Option<T> {
        let value = self.take(key)?;
        self.known_word(key, &value, words)
    }

    /// Some of these words, in a list.
    pub(super) fn words<T: Copy>(&mut self, key: &'static str, words: &[(&str, T)]) -> Vec<T> {
        match self.take(key) {
            None => Vec::new(),
            Some(Value::Array(items)) => {
                items.iter().filter_map(|item| self.known_word(key, item, words)).collect()
            }
            Some(other) => self.expected(key, &other, "a list of strings").unwrap_or_default(),
        }
    }

    fn known_word<T: Copy>(&mut self, key: &'static str, value: &Value, words: &[(&str, T)]) -> Option<T> {
        let found = words.iter().find(|(word, _)| value.as_str() == Some(*word));
        if found.is_none() {
            let allowed: Vec<_> = words.iter().map(|(word, _)| *word).collect();
            let text: String = value.to_string().chars().take(NAME_LIMIT).collect();
            self.wrong(key, format!("{text}; allowed are {}", allowed.join(", ")));
        }
        found.map(|(_, value)| *value)
    }

    /// A map of short texts; empty if the field is not there.
    pub(super) fn texts(&mut self, key: &'static str) -> BTreeMap<String, String> {
        let map = match self.take(key) {
            None => return BTreeMap::new(),
            Some(Value::Object(map)) => map,
            Some(other) => return self.expected(key, &other, "an object of strings").unwrap_or_default(),
        };
        if map.len() > ENTRIES_LIMIT {
            self.wrong(key, format!("{} entries; at most {ENTRIES_LIMIT}", map.len()));
            return BTreeMap::new();
        }
        let mut texts = BTreeMap::new();
        for (name, value) in map {
            let at = format!("{key}/{}", pointer(&name));
            if let Some(why) = bad_text(&name, NAME_LIMIT) {
                self.wrong_at(&at, format!("its name: {why}"));
                continue;
            }
            match value {
                Value::String(text) if text.len() <= VALUE_LIMIT => drop(texts.insert(name, text)),
                Value::String(text) => {
                    self.wrong_at(&at, format!("{} bytes; at most {VALUE_LIMIT}", text.len()));
                }
                other => self.wrong_at(&at, format!("{}; expected a string", kind(&other))),
            }
        }
        texts
    }

    fn wrong_at(&mut self, pointer: &str, detail: String) {
        self.wrong.push(FieldError { field: format!("{}/{pointer}", self.at), detail });
    }

    /// An object in this one, read by `read`; an absent one counts as empty.
    pub(super) fn object<T>(&mut self, key: &'static str, read: impl FnOnce(&mut Fields) -> T) -> T {
        let at = format!("{}/{key}", self.at);
        let mut inner = match self.take(key) {
            None => Self::of(at, Map::new()),
            Some(Value::Object(map)) => Self::of(at, map),
            Some(other) => {
                self.wrong(key, format!("{}; expected an object", kind(&other)));
                Self::of(at, Map::new())
            }
        };
        let value = read(&mut inner);
        inner.note_unknown();
        self.wrong.append(&mut inner.wrong);
        self.unknown.append(&mut inner.unknown);
        value
    }

    fn note_unknown(&mut self) {
        let known: Vec<_> = self.known.iter().copied().collect();
        let allowed = if known.is_empty() { "none are".to_owned() } else { known.join(", ") };
        for key in self.map.keys() {
            let key: String = key.chars().take(NAME_LIMIT).collect();
            self.unknown.push(FieldError {
                field: format!("{}/{}", self.at, pointer(&key)),
                detail: format!("unknown field; allowed: {allowed}"),
            });
        }
    }

    /// Everything was right, and nothing was left over.
    pub(super) fn end(mut self) -> Result<(), Problem> {
        self.note_unknown();
        let code = if self.wrong.is_empty() { Code::UnknownField } else { Code::BadRequest };
        self.wrong.append(&mut self.unknown);
        if self.wrong.is_empty() { Ok(()) } else { Err(Problem::fields(code, self.wrong)) }
    }
}

/// What is wrong with a text that is shown on one line.
pub(super) fn bad_text(text: &str, limit: usize) -> Option<String> {
    if text.is_empty() || text.len() > limit {
        return Some(format!("{} bytes; allowed are 1 to {limit}", text.len()));
    }
    text.chars().any(char::is_control).then(|| "it has a control character, which is not allowed".to_owned())
}

/// A key as a step of a JSON Pointer.
fn pointer(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fields(body: Value) -> Fields {
        Fields::new(Some(body)).unwrap()
    }

    fn wrong(fields: Fields) -> Vec<(String, String)> {
        let problem = fields.end().unwrap_err();
        problem.errors.into_iter().map(|error| (error.field, error.detail)).collect()
    }

    #[test]
    fn whole_numbers_may_come_as_floats() {
        let mut fields = fields(json!({"a": 930.0, "b": 930.5, "c": 1e300, "d": "930", "e": 11}));
        assert_eq!(fields.int("a", 0..=1000), Some(930));
        for key in ["b", "c", "d"] {
            assert_eq!(fields.int(key, 0..=1000), None);
        }
        assert_eq!(fields.int("e", 0..=10), None);
        let wrong = wrong(fields);
        assert_eq!(wrong[0], ("/b".to_owned(), "a number; expected a whole number".to_owned()));
        assert_eq!(wrong[3], ("/e".to_owned(), "11; allowed are 0 to 10".to_owned()));
    }

    #[test]
    fn a_field_in_an_object_is_named_by_its_pointer() {
        let mut fields = fields(json!({"start": {"deadline": "tomorrow", "late": "maybe", "x/y": 1}}));
        fields.object("start", |start| {
            assert_eq!(start.time("deadline"), None);
            assert_eq!(start.word("late", &[("hold", 1), ("run", 2)]), None);
        });
        let wrong = wrong(fields);
        assert!(wrong[0].0 == "/start/deadline" && wrong[0].1.contains("RFC 3339"), "{wrong:?}");
        assert_eq!(wrong[1], ("/start/late".to_owned(), "\"maybe\"; allowed are hold, run".to_owned()));
        assert_eq!(wrong[2], ("/start/x~1y".to_owned(), "unknown field; allowed: deadline, late".to_owned()));
    }

    #[test]
    fn an_unknown_field_alone_has_its_own_code() {
        let mut fields = fields(json!({"mode": "now", "mood": "now"}));
        fields.text("mode", 10);
        assert_eq!(fields.end().unwrap_err().code, Code::UnknownField);
    }

    #[test]
    fn null_counts_as_absent() {
        let mut fields = fields(json!({"name": null, "params": null}));
        assert_eq!(fields.text("name", 10), None);
        assert!(fields.texts("params").is_empty());
        fields.end().unwrap();
    }

    #[test]
    fn values_of_a_map_are_strings_of_a_limited_length() {
        let mut fields =
            fields(json!({"params": {"a": 1, "b": "x".repeat(VALUE_LIMIT + 1), "": "x", "d": "fine"}}));
        assert_eq!(fields.texts("params").into_keys().collect::<Vec<_>>(), ["d"]);
        let places: Vec<_> = wrong(fields).into_iter().map(|(at, _)| at).collect();
        assert_eq!(places, ["/params/", "/params/a", "/params/b"]);
    }

    #[test]
    fn times_are_read_with_any_offset() {
        let mut fields = fields(json!({"at": "1970-01-01T01:00:01.5+01:00"}));
        assert_eq!(fields.time("at"), Some(Time(1500)));
    }

    #[test]
    fn one_body_has_one_canonical_form() {
        let one = json!({"a": 1.0, "b": {"d": [2], "c": null}, "e": 0.5});
        let other = json!({"e": 0.5, "b": {"d": [2.0]}, "a": 1, "x": null});
        assert_eq!(canonical(&one).to_string(), canonical(&other).to_string());
        assert_ne!(canonical(&one).to_string(), canonical(&json!({"a": 2})).to_string());
    }

    #[tokio::test]
    async fn a_body_that_is_too_large_or_no_json_is_refused_by_name() {
        let large = json(Body::from(vec![b' '; BODY_LIMIT + 1])).await.unwrap_err();
        assert_eq!(large.code, Code::BodyTooLarge);
        let broken = json(Body::from("{\"a\": }")).await.unwrap_err();
        assert!(broken.detail.contains("line 1 column"), "{}", broken.detail);
        assert_eq!(json(Body::from(" \n")).await.unwrap(), None);
    }
}
