//! Log lines go to stderr. ERROR calls somebody at any hour, WARN is for an operator to look at, INFO is a change that an
//! operator wants to see, DEBUG shows every step.
//!
//! `RELOOP_LOG` filters (`info` by default; `reloop_master=debug` shows every step), `RELOOP_LOG_FORMAT=json` makes
//! each line a JSON object.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

/// An environment variable has a value that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TelemetryError {
    /// `RELOOP_LOG` is no filter.
    #[error(
        "environment: RELOOP_LOG: {text:?}: {why}; expected a level or target=level, as info or reloop_master=debug"
    )]
    Filter { text: String, why: tracing_subscriber::filter::ParseError },
    #[error("environment: RELOOP_LOG_FORMAT: {0:?}; allowed are \"text\" and \"json\"")]
    Format(String),
}

/// Starts logging for the whole process. To be called once.
pub(crate) fn init() -> Result<(), TelemetryError> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let text = variable("RELOOP_LOG").unwrap_or_else(|| "info".to_owned());
    let filter = EnvFilter::try_new(&text).map_err(|why| TelemetryError::Filter { text, why })?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match variable("RELOOP_LOG_FORMAT").as_deref() {
        None | Some("text") => log.with_ansi(std::io::stderr().is_terminal()).init(),
        Some("json") => log.json().flatten_event(true).init(),
        Some(other) => return Err(TelemetryError::Format(other.to_owned())),
    }
    Ok(())
}
