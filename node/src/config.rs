//! What the config files of both nodes have in common: a TOML file, whose values are overridden by flags and environment
//! variables, and which is checked as a whole before the node starts.
//!
//! An error names the origin of the value, its key, and what is allowed.

use std::fmt::Display;
use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;

/// The config cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{}: can't be read: {why}; name the file with --config", file.display())]
    Unreadable { file: PathBuf, why: io::Error },
    /// The file is not TOML, or has an unknown key or a value of the wrong type; `why` says in which line.
    #[error("{}: {why}", file.display())]
    Syntax { file: PathBuf, why: Box<toml::de::Error> },
    /// A value that is not allowed. `origin` is the file, or says that it was a flag or the environment; `key` is a
    /// dotted path.
    #[error("{origin}: {key}: {why}")]
    Value { origin: String, key: String, why: String },
}

/// A value that is not allowed, before its origin is known.
#[derive(Debug)]
pub struct Wrong {
    key: String,
    why: String,
    is_override: bool,
}

impl Wrong {
    /// `why` says what the value is and what is allowed.
    pub fn new(key: impl Display, why: impl Display) -> Self {
        Self { key: key.to_string(), why: why.to_string(), is_override: false }
    }

    /// The error to report. `file` and `overrides` are the two possible origins, in words.
    pub fn from_origin(self, file: impl Display, overrides: impl Display) -> ConfigError {
        let origin = if self.is_override { overrides.to_string() } else { file.to_string() };
        ConfigError::Value { origin, key: self.key, why: self.why }
    }
}

/// Reads a file's values, which are not checked yet.
pub fn read<T: DeserializeOwned>(file: &Path) -> Result<T, ConfigError> {
    let text = std::fs::read_to_string(file)
        .map_err(|why| ConfigError::Unreadable { file: file.to_path_buf(), why })?;
    parse(&text, file)
}

/// Reads the values in the text of a file; `file` is for messages only.
pub fn parse<T: DeserializeOwned>(text: &str, file: &Path) -> Result<T, ConfigError> {
    toml::from_str(text).map_err(|why| ConfigError::Syntax { file: file.to_path_buf(), why: Box::new(why) })
}

/// The text of an environment variable. One that is empty counts as not set.
pub fn env_text(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The path in an environment variable. One that is empty counts as not set.
pub fn env_path(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// Checks the override if there is one, else the file's value if there is one.
pub fn pick<T, V>(
    over: Option<T>,
    in_file: Option<T>,
    check: impl FnOnce(T) -> Result<V, Wrong>,
) -> Result<Option<V>, Wrong> {
    let is_override = over.is_some();
    over.or(in_file).map(check).transpose().map_err(|wrong| Wrong { is_override, ..wrong })
}

/// The path as seen from the working directory.
pub fn absolute(key: &str, path: &Path) -> Result<PathBuf, Wrong> {
    std::path::absolute(path).map_err(|why| {
        Wrong::new(key, format_args!("{:?} can't be made absolute: {why}; give a full path", path.display()))
    })
}

/// A whole number within limits that are not negative.
pub fn whole(
    key: impl Display,
    value: Option<i64>,
    default: i64,
    allowed: RangeInclusive<i64>,
) -> Result<u64, Wrong> {
    let value = value.unwrap_or(default);
    if !allowed.contains(&value) {
        let (min, max) = (allowed.start(), allowed.end());
        return Err(Wrong::new(key, format_args!("{value}; allowed are whole numbers from {min} to {max}")));
    }
    Ok(value.unsigned_abs())
}

/// Refuses a `link.dead_after_seconds` under which one late ping would cut a good link.
pub fn check_dead_after(dead_after: Duration, heartbeat: Duration) -> Result<(), Wrong> {
    if dead_after >= heartbeat.mul_f64(2.0) {
        return Ok(());
    }
    Err(Wrong::new(
        "link.dead_after_seconds",
        format_args!(
            "{} with a heartbeat of {}, so one late ping would cut a good link; allowed is at least twice the heartbeat",
            dead_after.as_secs_f64(),
            heartbeat.as_secs_f64()
        ),
    ))
}
