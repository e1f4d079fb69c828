//! A schedule as a file: a line for the fleet, then a line per act, each in JSON.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::Schedule;

/// The same schedule gives the same bytes.
pub fn write(schedule: &Schedule) -> Result<String> {
    let mut text = serde_json::to_string(&schedule.head)?;
    for act in &schedule.acts {
        write!(text, "\n{}", serde_json::to_string(act)?)?;
    }
    text.push('\n');
    Ok(text)
}

/// The error names the line.
pub fn read(text: &str) -> Result<Schedule> {
    let mut lines = text.lines();
    let head = lines.next().context("the file is empty: its first line is the fleet")?;
    let head = serde_json::from_str(head).context("line 1 is not a fleet")?;
    let acts = lines
        .enumerate()
        .map(|(number, line)| {
            serde_json::from_str(line).with_context(|| format!("line {} is not an act", number + 2))
        })
        .collect::<Result<_>>()?;
    Ok(Schedule { head, acts })
}

pub fn open(path: &Path) -> Result<Schedule> {
    let text = std::fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))?;
    read(&text).with_context(|| format!("{} is not a schedule", path.display()))
}

/// Writes a schedule into a directory, under its seed and the invariant that it breaks. Returns the path.
pub fn save(directory: &Path, schedule: &Schedule) -> Result<PathBuf> {
    let broken = match schedule.head.invariant {
        Some(invariant) => serde_json::to_value(invariant)?.as_str().unwrap_or("broken").replace('_', "-"),
        None => "schedule".to_owned(),
    };
    std::fs::create_dir_all(directory)
        .with_context(|| format!("{} cannot be created", directory.display()))?;
    let path = directory.join(format!("{broken}-{}.jsonl", schedule.head.seed));
    std::fs::write(&path, write(schedule)?)
        .with_context(|| format!("{} cannot be written", path.display()))?;
    Ok(path)
}
