//! What the agent says to whoever keeps its log: lines on stderr, for people or as JSON.
//!
//! `RELOOP_LOG` sets what is said (`info` by default; `debug` shows every step), `RELOOP_LOG_FORMAT=json` how.

use std::io::{self, IsTerminal as _};

use anyhow::{Context as _, bail};
use tracing_subscriber::EnvFilter;

/// Begins to listen to what the program has to say.
///
/// # Errors
/// The environment asks for what there is not.
pub fn init() -> anyhow::Result<()> {
    let wanted = std::env::var("RELOOP_LOG").unwrap_or_default();
    let wanted = if wanted.is_empty() { "info" } else { &wanted };
    let filter = EnvFilter::try_new(wanted)
        .with_context(|| format!("RELOOP_LOG={wanted:?}: expected a level like info or debug"))?;
    // It would complain about a stderr that takes nothing on that same stderr, and panic: a full disk under the log must
    // not end the agent.
    let lines =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).log_internal_errors(false);
    match std::env::var("RELOOP_LOG_FORMAT").unwrap_or_default().as_str() {
        "" | "text" => lines.with_ansi(io::stderr().is_terminal()).init(),
        "json" => lines.json().init(),
        other => bail!("RELOOP_LOG_FORMAT={other:?}: expected text or json"),
    }
    Ok(())
}
