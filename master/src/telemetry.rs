//! Log lines, on stderr: what a program prints for other programs is on stdout.
//!
//! `RELOOP_LOG` filters (`info` by default; `reloop_master=debug` shows every step), `RELOOP_LOG_FORMAT=json` makes
//! each line a JSON object.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

/// The environment asks for something that can't be.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TelemetryError {
    /// `RELOOP_LOG` can't be read.
    #[error(
        "environment: RELOOP_LOG: {text:?}: {why}; expected a level or target=level, as info or reloop_master=debug"
    )]
    Filter {
        /// What it says.
        text: String,
        /// What is wrong with it.
        why: tracing_subscriber::filter::ParseError,
    },
    /// `RELOOP_LOG_FORMAT` is unknown.
    #[error("environment: RELOOP_LOG_FORMAT: {0:?}; allowed are \"text\" and \"json\"")]
    Format(String),
}

/// Starts logging for the whole process. Once only.
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
