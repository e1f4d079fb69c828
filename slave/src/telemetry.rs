//! The agent's log: lines on the standard error, as text or as JSON.
//!
//! `RELOOP_LOG` sets the level (`info` by default; `debug` shows every step), `RELOOP_LOG_FORMAT=json` the form.

use std::io::{self, IsTerminal as _};

use anyhow::{Context as _, bail};
use tracing_subscriber::EnvFilter;

/// Starts the log.
///
/// # Errors
/// A variable of the environment has a value that is not allowed.
pub fn init() -> anyhow::Result<()> {
    let wanted = std::env::var("RELOOP_LOG").unwrap_or_default();
    let wanted = if wanted.is_empty() { "info" } else { &wanted };
    let filter = EnvFilter::try_new(wanted)
        .with_context(|| format!("RELOOP_LOG={wanted:?}: expected a level like info or debug"))?;
    // With internal errors logged, a write that fails is reported on the standard error too, which fails again and panics: a
    // full disk under the log must not end the agent.
    let lines =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).log_internal_errors(false);
    match std::env::var("RELOOP_LOG_FORMAT").unwrap_or_default().as_str() {
        "" | "text" => lines.with_ansi(io::stderr().is_terminal()).init(),
        "json" => lines.json().init(),
        other => bail!("RELOOP_LOG_FORMAT={other:?}: expected text or json"),
    }
    Ok(())
}
