//! Whether the master runs, whether it takes orders, and numbers about it in the Prometheus text format.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use reloop_api::words::LINKS;
use reloop_protocol::job::State as JobState;
use reloop_protocol::master;
use reloop_protocol::message::Mode;

use super::problem::Problem;
use super::query::Query;
use super::{RestState, view};

/// Linux counts memory in pages; every machine that this was built for has pages of this size.
const PAGE_BYTES: u64 = 4096;

/// Whether the master runs.
#[utoipa::path(
    get,
    path = "/livez",
    operation_id = "livez",
    responses((status = 200, description = "It does.", body = String, content_type = "text/plain")),
)]
pub(super) async fn livez() -> &'static str {
    "ok\n"
}

/// Whether orders are taken; 503 if not.
///
/// Slaves that are away never make the master unready, and neither do those that doubt it; that they do is told.
#[utoipa::path(
    get,
    path = "/readyz",
    operation_id = "readyz",
    params(("verbose" = Option<String>, Query, description = "Say what was looked at, line by line.")),
    responses(
        (status = 200, description = "They are.", body = String, content_type = "text/plain"),
        (status = 503, description = "They are not, and why.", body = String, content_type = "text/plain"),
    ),
)]
pub(super) async fn readyz(State(state): State<RestState>, mut query: Query) -> Result<Response, Problem> {
    let verbose = query.flag("verbose");
    query.end()?;
    let store = state.handle.healthy();
    let answers = state.handle.read(|_, _| ()).await.map_err(|why| why.0);
    let ready = store.is_ok() && answers.is_ok();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let doubt = state.handle.doubt();
    if !verbose {
        let mut text = if ready { "ok\n" } else { "not ready\n" }.to_owned();
        text.extend(doubt.map(|doubt| format!("not confirmed after a restore: {doubt}\n")));
        return Ok((status, text).into_response());
    }
    let mut text = String::new();
    for (name, result) in [("store", store), ("loop", answers)] {
        match result {
            Ok(()) => text.push_str(&format!("[+]{name} ok\n")),
            Err(why) => text.push_str(&format!("[-]{name} failed: {why}\n")),
        }
    }
    text.extend(doubt.map(|doubt| format!("[!]restore not confirmed: {doubt}\n")));
    text.push_str(if ready { "ready\n" } else { "not ready\n" });
    Ok((status, text).into_response())
}

/// Numbers for Prometheus.
///
/// Label values are fixed words, so that the number of time series never grows.
#[utoipa::path(
    get,
    path = "/metrics",
    operation_id = "metrics",
    responses((status = 200, description = "Text exposition format.", body = String, content_type = "text/plain")),
)]
pub(super) async fn metrics(State(state): State<RestState>) -> Result<Response, Problem> {
    let counted = state.handle.read(|state, now| {
        let jobs: BTreeMap<JobState, usize> =
            JobState::ALL.into_iter().map(|job_state| (job_state, state.book.count(job_state))).collect();
        let mut slaves: BTreeMap<(&'static str, Mode), u64> = BTreeMap::new();
        for slave in state.slaves.values() {
            *slaves.entry((view::link(slave), slave.operating_mode.mode)).or_default() += 1;
        }
        (jobs, slaves, state.doubters(), master::count_needs(state, now))
    });
    let (jobs, slaves, doubters, needs) = counted.await.map_err(|why| state.unavailable(why))?;
    let mut text = Exposition::default();
    text.gauge("reloop_build_info", "The running release.");
    text.value("reloop_build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1);
    text.gauge("reloop_store_healthy", "1 while orders are taken.");
    text.value("reloop_store_healthy", &[], u64::from(state.handle.healthy().is_ok()));
    text.gauge("reloop_jobs", "Jobs that have not ended, by state.");
    for job_state in JobState::ALL.into_iter().filter(|state| !state.is_ended()) {
        let count = jobs.get(&job_state).copied().unwrap_or(0);
        text.value("reloop_jobs", &[("state", job_state.name())], count as u64);
    }
    text.gauge("reloop_needs_person", "What needs a person.");
    text.value("reloop_needs_person", &[], needs as u64);
    text.gauge("reloop_slaves", "Slaves, by link and mode.");
    for link in LINKS {
        for mode in Mode::ALL {
            let count = slaves.get(&(link, mode)).copied().unwrap_or(0);
            text.value("reloop_slaves", &[("link", link), ("mode", mode.name())], count);
        }
    }
    text.gauge(
        "reloop_doubting_slaves",
        "Slaves that have seen a later state of this master: it was restored.",
    );
    text.value("reloop_doubting_slaves", &[], doubters as u64);
    text.gauge("reloop_process_start_time_seconds", "When the process started, since the Unix epoch.");
    let started = u64::try_from(state.started_at.0 / 1000).unwrap_or(0);
    text.value("reloop_process_start_time_seconds", &[], started);
    if let Some(bytes) = resident_bytes() {
        text.gauge("reloop_process_resident_memory_bytes", "Memory in use.");
        text.value("reloop_process_resident_memory_bytes", &[], bytes);
    }
    if let Ok(fds) = std::fs::read_dir("/proc/self/fd") {
        text.gauge("reloop_process_open_fds", "Open files and connections.");
        text.value("reloop_process_open_fds", &[], fds.count() as u64);
    }
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, kind)], text.0).into_response())
}

fn resident_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    Some(text.split(' ').nth(1)?.parse::<u64>().ok()? * PAGE_BYTES)
}

#[derive(Default)]
struct Exposition(String);

impl Exposition {
    fn gauge(&mut self, name: &str, help: &str) {
        let written = write!(self.0, "# HELP {name} {help}\n# TYPE {name} gauge\n");
        written.expect("a string takes all that is written");
    }

    fn value(&mut self, name: &str, labels: &[(&str, &str)], value: u64) {
        let labels: Vec<_> = labels.iter().map(|(label, value)| format!("{label}=\"{value}\"")).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        writeln!(self.0, "{name}{labels} {value}").expect("a string takes all that is written");
    }
}
