//! Tables for people, and the words in them.

use std::fmt::Write as _;

use serde_json::Value;

/// Rows under their heads, in columns that are as wide as they have to be.
pub(super) fn table(heads: &[&str], rows: &[Vec<String>]) -> String {
    let heads: Vec<String> = heads.iter().map(|head| (*head).to_owned()).collect();
    let mut widths: Vec<usize> = heads.iter().map(|head| width(head)).collect();
    for row in rows {
        for (cell, column) in row.iter().zip(&mut widths) {
            *column = (*column).max(width(cell));
        }
    }
    let mut text = String::new();
    for row in std::iter::once(&heads).chain(rows) {
        let mut line = String::new();
        for (cell, column) in row.iter().zip(&widths) {
            let gap = column - width(cell) + 2;
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', gap));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Names and their values, one to a line.
pub(super) fn sheet(lines: &[(&str, String)]) -> String {
    let column = lines.iter().map(|(name, _)| width(name)).max().unwrap_or(0);
    let mut text = String::new();
    for (name, value) in lines.iter().filter(|(_, value)| !value.is_empty()) {
        writeln!(text, "{name:column$}  {value}").expect("a string takes all that is written");
    }
    text
}

fn width(text: &str) -> usize {
    text.chars().count()
}

/// A text, or a dash.
pub(super) fn word(value: &Value) -> String {
    match value {
        Value::String(text) => clean(text),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    }
}

/// A text without what could steer a terminal.
pub(super) fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// A text, or nothing.
pub(super) fn text(value: &Value) -> String {
    if value.is_null() { String::new() } else { word(value) }
}

/// How long ago a time was, in its largest unit.
pub(super) fn age(value: &Value, now: jiff::Timestamp) -> String {
    let Some(then) = value.as_str().and_then(|text| text.parse::<jiff::Timestamp>().ok()) else {
        return "-".to_owned();
    };
    let seconds = now.as_second().saturating_sub(then.as_second()).max(0);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// How long ago something was heard; where the master has started since, that is the longest that it can be.
pub(super) fn at_most(value: &Value, at_least: &Value, now: jiff::Timestamp) -> String {
    let bound = if at_least == true { "at most " } else { "" };
    format!("{bound}{}", age(value, now))
}

/// The same as a whole phrase.
pub(super) fn heard_ago(value: &Value, at_least: &Value, now: jiff::Timestamp) -> String {
    let bound = if at_least == true { " or later: the master has started since" } else { "" };
    format!("{} ago{bound}", age(value, now))
}

/// How far a job is; `~` if its slave cannot be heard.
pub(super) fn progress(job: &Value) -> String {
    match job["progress"].as_f64() {
        Some(fraction) => {
            format!("{}{:.0}%", if is_stale(job) { "~" } else { "" }, (fraction * 100.0).floor())
        }
        None => "-".to_owned(),
    }
}

/// A job's state, with how old that is.
pub(super) fn state(job: &Value, now: jiff::Timestamp) -> String {
    let mut words = word(&job["state"]);
    if let Some(waits) = job["waiting_for"].as_str() {
        words = format!("{words}:{waits}");
    }
    if is_stale(job) {
        let freshness = &job["freshness"];
        let away = at_most(&freshness["observed_at"], &freshness["at_least"], now);
        words = format!("{words} (offline {away})");
    }
    words
}

fn is_stale(job: &Value) -> bool {
    job["flags"].as_array().is_some_and(|flags| flags.iter().any(|flag| flag == "stale"))
}

/// A bar, for a terminal.
pub(super) fn bar(fraction: f64) -> String {
    const CELLS: usize = 24;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "0 to 24"
    )]
    let full = (fraction.clamp(0.0, 1.0) * CELLS as f64) as usize;
    let head = if full < CELLS { ">" } else { "" };
    format!("[{}{head}{}]", "=".repeat(full), " ".repeat(CELLS - full - head.len()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [vec!["mill-3".to_owned(), "ok".to_owned()], vec!["ü".to_owned(), "-".to_owned()]];
        assert_eq!(table(&["NAME", "STATUS"], &rows), "NAME    STATUS\nmill-3  ok\nü       -\n");
    }

    #[test]
    fn a_job_whose_slave_is_away_says_since_when() {
        let now: jiff::Timestamp = "2026-01-05T14:52:00Z".parse().unwrap();
        let job = json!({
            "state": "running", "flags": ["stale"], "progress": 0.466,
            "freshness": { "link": "offline", "observed_at": "2026-01-05T14:38:02Z" },
        });
        assert_eq!(state(&job, now), "running (offline 13m)");
        assert_eq!(progress(&job), "~46%");
    }

    #[test]
    fn what_a_master_cannot_know_since_its_start_is_said_as_a_bound() {
        let now: jiff::Timestamp = "2026-01-05T14:52:00Z".parse().unwrap();
        let freshness = json!({ "link": "offline", "observed_at": "2026-01-05T14:38:02Z", "at_least": true });
        let job = json!({ "state": "running", "flags": ["stale"], "freshness": freshness });
        assert_eq!(state(&job, now), "running (offline at most 13m)");
        let at = &freshness["observed_at"];
        assert_eq!(
            heard_ago(at, &freshness["at_least"], now),
            "13m ago or later: the master has started since"
        );
        assert_eq!(heard_ago(at, &Value::Null, now), "13m ago");
    }

    #[test]
    fn a_bar_is_as_long_at_each_end() {
        assert_eq!(bar(0.0).len(), bar(1.0).len());
        assert_eq!(bar(1.0), format!("[{}]", "=".repeat(24)));
        assert_eq!(bar(7.0), bar(1.0));
    }

    #[test]
    fn what_a_program_says_does_not_steer_the_terminal() {
        assert_eq!(clean("a\u{1b}[2Jb"), "a\u{fffd}[2Jb");
    }
}
