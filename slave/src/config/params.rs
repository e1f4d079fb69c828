//! The parameters of a program: which there are, and which values they may have.

use regex::Regex;
use reloop_node::config::Wrong;
use serde::Deserialize;

/// The longest value of a parameter, in bytes. A command line of many such values still fits the kernel's limit for one
/// argument (128 KiB), and an order stays a small message.
pub(super) const PARAM_LIMIT: usize = 4096;
/// How much of a value is shown in an error.
const SHOWN: usize = 64;

/// Why a program does not take the parameters of an order.
#[derive(Debug, Clone, PartialEq, Eq, Hash, thiserror::Error)]
pub enum ParamError {
    /// The program has no such parameter; `known` lists those that it has.
    #[error("the program has no parameter {param:?}; it has {known}")]
    Unknown {
        /// Shortened, if it is long.
        param: String,
        /// The names of the program's parameters, for people.
        known: String,
    },
    /// The parameter has no default, and the order does not give it.
    #[error("parameter {param:?} is missing; expected {expected}")]
    Missing {
        /// The parameter's name.
        param: String,
        /// What its value should look like, for people.
        expected: String,
    },
    /// The value is not allowed.
    #[error("parameter {param:?} can't be {value:?}; expected {expected}")]
    Bad {
        /// The parameter's name.
        param: String,
        /// Shortened, if it is long.
        value: String,
        /// What the value should look like, for people.
        expected: String,
    },
    /// Not every system executes a program with arguments that long.
    #[error("with these parameters the program's arguments are {length} bytes long; at most {limit}")]
    TooLong {
        /// The length of all arguments, in bytes.
        length: usize,
        /// The longest that is taken.
        limit: usize,
    },
}

impl ParamError {
    pub(crate) fn unknown(param: &str, known: impl IntoIterator<Item = impl AsRef<str>>) -> Self {
        Self::Unknown { param: shown(param), known: listed(known) }
    }

    pub(crate) fn bad(param: &str, value: &str, expected: &str) -> Self {
        Self::Bad { param: param.to_owned(), value: shown(value), expected: expected.to_owned() }
    }
}

/// The beginning of a text from outside, for a message.
pub(crate) fn shown(text: &str) -> String {
    text[..text.floor_char_boundary(SHOWN)].to_owned()
}

/// Names in a message.
pub(crate) fn listed(names: impl IntoIterator<Item = impl AsRef<str>>) -> String {
    let names: Vec<String> = names.into_iter().map(|name| name.as_ref().to_owned()).collect();
    if names.is_empty() { "none".into() } else { names.join(", ") }
}

/// Refuses values that are not allowed for any parameter of any driver.
pub(crate) fn check_size(param: &str, value: &str) -> Result<(), ParamError> {
    if value.len() > PARAM_LIMIT || value.contains('\0') {
        return Err(ParamError::bad(param, value, &format!("at most {PARAM_LIMIT} bytes and no NUL")));
    }
    Ok(())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawParam {
    pattern: String,
    default: Option<String>,
}

/// A parameter of a program of the `process` driver.
#[derive(Debug, Clone)]
pub(super) struct Param {
    /// Matches from end to end.
    pattern: Regex,
    /// The pattern as it stands in the file, for messages.
    source: String,
    default: Option<String>,
}

impl Param {
    pub(super) fn check(key: &str, raw: RawParam) -> Result<Self, Wrong> {
        let pattern_key = format!("{key}.pattern");
        let bad =
            |why: regex::Error| Wrong::new(&pattern_key, format_args!("not a regular expression: {why}"));
        // Check the pattern alone first: `a)|(b` is a valid expression only inside the parentheses below, and is not
        // anchored there.
        Regex::new(&raw.pattern).map_err(bad)?;
        let pattern = Regex::new(&format!(r"\A(?:{})\z", raw.pattern)).map_err(bad)?;
        let param = Self { pattern, source: raw.pattern, default: None };
        if let Some(default) = &raw.default {
            param
                .check_value("default", default)
                .map_err(|why| Wrong::new(format_args!("{key}.default"), why))?;
        }
        Ok(Self { default: raw.default, ..param })
    }

    /// The value for an order: the one that it gives, else the default.
    pub(super) fn value<'a>(&'a self, name: &str, given: Option<&'a String>) -> Result<&'a str, ParamError> {
        let Some(value) = given.or(self.default.as_ref()) else {
            let expected = format!("a match of {}", self.source);
            return Err(ParamError::Missing { param: name.to_owned(), expected });
        };
        self.check_value(name, value)?;
        Ok(value)
    }

    fn check_value(&self, name: &str, value: &str) -> Result<(), ParamError> {
        check_size(name, value)?;
        if !self.pattern.is_match(value) {
            let expected = format!("a match of {}, from end to end", self.source);
            return Err(ParamError::bad(name, value, &expected));
        }
        Ok(())
    }
}
