//! Tables for people, and the words in them.

use std::fmt::Write as _;

use reloop_api::Job;

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

/// A text without what could steer a terminal.
pub(super) fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// A text for a cell of a table, which is never empty.
pub(super) fn or_dash(text: Option<&str>) -> String {
    text.map_or_else(|| "-".to_owned(), clean)
}

/// A text for a sheet, which leaves empty lines out.
pub(super) fn or_nothing(text: Option<&str>) -> String {
    text.map(clean).unwrap_or_default()
}

/// How long ago a time was, in its largest unit.
pub(super) fn age(time: Option<&str>, now: jiff::Timestamp) -> String {
    let Some(then) = time.and_then(|text| text.parse::<jiff::Timestamp>().ok()) else {
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
pub(super) fn at_most(time: Option<&str>, at_least: bool, now: jiff::Timestamp) -> String {
    let bound = if at_least { "at most " } else { "" };
    format!("{bound}{}", age(time, now))
}

/// The same as a whole phrase.
pub(super) fn heard_ago(time: Option<&str>, at_least: bool, now: jiff::Timestamp) -> String {
    let bound = if at_least { " or later: the master has started since" } else { "" };
    format!("{} ago{bound}", age(time, now))
}

/// How far a job is; `~` if its slave cannot be heard.
pub(super) fn progress(job: &Job) -> String {
    match job.progress {
        Some(fraction) => {
            format!("{}{:.0}%", if is_stale(job) { "~" } else { "" }, (fraction * 100.0).floor())
        }
        None => "-".to_owned(),
    }
}

/// A job's state, with how old that is.
pub(super) fn state(job: &Job, now: jiff::Timestamp) -> String {
    let mut words = clean(&job.state);
    if let Some(waits) = &job.waiting_for {
        words = format!("{words}:{}", clean(waits));
    }
    if is_stale(job) {
        let away = at_most(job.freshness.observed_at.as_deref(), job.freshness.at_least, now);
        words = format!("{words} (offline {away})");
    }
    words
}

fn is_stale(job: &Job) -> bool {
    job.flags.iter().any(|flag| flag == "stale")
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
    use std::collections::BTreeMap;

    use reloop_api::Freshness;

    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [vec!["mill-3".to_owned(), "ok".to_owned()], vec!["ü".to_owned(), "-".to_owned()]];
        assert_eq!(table(&["NAME", "STATUS"], &rows), "NAME    STATUS\nmill-3  ok\nü       -\n");
    }

    /// A running job whose slave is away.
    fn stale(at_least: bool) -> Job {
        Job {
            retry_at: None,
            id: "job_1".to_owned(),
            order: "ord_1".to_owned(),
            name: None,
            program: "mill".to_owned(),
            params: BTreeMap::new(),
            state: "running".into(),
            desired: "run".into(),
            waiting_for: None,
            reason: None,
            flags: vec!["stale".into()],
            attempt: 1,
            slave: Some("mill-3".to_owned()),
            requested_slave: None,
            requires: BTreeMap::new(),
            progress: Some(0.466),
            note: None,
            freshness: Freshness {
                link: Some("offline".into()),
                observed_at: Some("2026-01-05T14:38:02Z".to_owned()),
                at_least,
            },
            priority: 0,
            not_before: None,
            deadline: None,
            late: "hold".into(),
            gate: "open".into(),
            created_at: "2026-01-05T14:00:00Z".to_owned(),
            accepted_at: None,
            started_at: None,
            ended_at: None,
            outcome: None,
            earlier: vec![],
            revision: 1,
        }
    }

    #[test]
    fn a_job_whose_slave_is_away_says_since_when() {
        let now: jiff::Timestamp = "2026-01-05T14:52:00Z".parse().unwrap();
        assert_eq!(state(&stale(false), now), "running (offline 13m)");
        assert_eq!(progress(&stale(false)), "~46%");
    }

    #[test]
    fn what_a_master_cannot_know_since_its_start_is_said_as_a_bound() {
        let now: jiff::Timestamp = "2026-01-05T14:52:00Z".parse().unwrap();
        assert_eq!(state(&stale(true), now), "running (offline at most 13m)");
        let at = Some("2026-01-05T14:38:02Z");
        assert_eq!(heard_ago(at, true, now), "13m ago or later: the master has started since");
        assert_eq!(heard_ago(at, false, now), "13m ago");
        assert_eq!(age(None, now), "-");
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
