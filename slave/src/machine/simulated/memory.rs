//! What a simulated machine remembers, and how that lies on disk.
//!
//! The memory is one file of JSON, which is written whole with every change. So it holds few runs: those that were not
//! dismissed. Dismissed runs are in a file beside it that only grows at its end, one line of JSON each.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use reloop_node::durable;
use reloop_protocol::id::BootId;
use reloop_protocol::slave::RunKey;
use serde::{Deserialize, Serialize};

use super::run::{Begun, Condition};
use crate::machine::types::run_name;

/// Runs in the memory. If there are more, the oldest that has ended is forgotten. The limit is higher than the number of jobs
/// that a slave accepts, so the answer for each of those is remembered.
const MEMORY_LIMIT: usize = 128;
/// Dismissed runs that are remembered. A key that is older than these could be begun again.
const PAST_LIMIT: usize = 1000;

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Memory {
    /// Oldest first.
    runs: Vec<Entry>,
    /// Dismissed runs, oldest first.
    #[serde(skip)]
    past: Arc<Vec<Entry>>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Entry {
    /// As [`run_name`] writes it.
    key: String,
    trace: Trace,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Trace {
    /// Somebody was told that the run never began, so it must not begin any more.
    Void,
    Begun(Begun),
}

impl Trace {
    fn is_over(&self) -> bool {
        match self {
            Self::Void => true,
            Self::Begun(begun) => begun.ended.is_some(),
        }
    }
}

impl Memory {
    pub(super) fn trace(&self, key: RunKey) -> Option<&Trace> {
        let key = run_name(key);
        let mut all = self.runs.iter().rev().chain(self.past.iter().rev());
        all.find(|entry| entry.key == key).map(|entry| &entry.trace)
    }

    pub(super) fn begun(&mut self, key: RunKey) -> Option<&mut Begun> {
        let key = run_name(key);
        let entry = match self.runs.iter().rposition(|entry| entry.key == key) {
            Some(at) => &mut self.runs[at],
            None => {
                let at = self.past.iter().rposition(|entry| entry.key == key)?;
                &mut Arc::make_mut(&mut self.past)[at]
            }
        };
        match &mut entry.trace {
            Trace::Begun(begun) => Some(begun),
            Trace::Void => None,
        }
    }

    /// The name of the run that is alive at this moment.
    pub(super) fn alive(&self, now_ms: i64, boot: BootId) -> Option<&str> {
        let alive = self.runs.iter().find(|entry| match &entry.trace {
            Trace::Begun(begun) => matches!(begun.at(now_ms, boot), Condition::Alive { .. }),
            Trace::Void => false,
        });
        alive.map(|entry| entry.key.as_str())
    }

    pub(super) fn add(&mut self, key: RunKey, trace: Trace) {
        while self.runs.len() >= MEMORY_LIMIT
            && let Some(oldest) = self.runs.iter().position(|entry| entry.trace.is_over())
        {
            self.runs.remove(oldest);
        }
        self.runs.push(Entry { key: run_name(key), trace });
    }

    /// Moves a run that is over to the dismissed ones, and returns its entry there.
    pub(super) fn dismiss(&mut self, key: RunKey) -> Option<&Entry> {
        let key = run_name(key);
        let at = self.runs.iter().rposition(|entry| entry.key == key && entry.trace.is_over())?;
        let past = Arc::make_mut(&mut self.past);
        let surplus = (past.len() + 1).saturating_sub(PAST_LIMIT);
        past.drain(..surplus);
        past.push(self.runs.remove(at));
        past.last()
    }
}

/// The programs whose machines have a memory in this directory, configured or not.
pub(in crate::machine) fn remembered(memories: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(memories) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut names = Vec::new();
    for entry in entries {
        let path = entry?.path();
        // A name that begins with a dot is a draft that a crash left.
        if path.extension().is_some_and(|extension| extension == "json")
            && let Some(name) = path.file_stem().and_then(|stem| stem.to_str())
            && !name.starts_with('.')
        {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

pub(super) fn load(path: &Path) -> io::Result<Memory> {
    let mut memory: Memory = match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)?,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Memory::default()),
        Err(error) => return Err(error),
    };
    let past = load_past(path)?;
    let dismissed: BTreeSet<&str> = past.iter().map(|entry| entry.key.as_str()).collect();
    memory.runs.retain(|entry| !dismissed.contains(entry.key.as_str()));
    memory.past = Arc::new(past);
    Ok(memory)
}

pub(super) fn save(path: &Path, memory: &Memory) -> io::Result<()> {
    if let Some(dir) = path.parent() {
        durable::create_dir_all_synced(dir)?;
    }
    durable::write_file(path, &serde_json::to_vec(memory)?, 0o600)
}

/// Appends a dismissed run. Not synced: whoever dismissed the run has its outcome on his own disk.
pub(super) fn note_past(memory: &Path, entry: &Entry) -> io::Result<()> {
    let line = past_line(entry)?;
    let file = OpenOptions::new().append(true).create(true).mode(0o600).open(past_path(memory));
    file?.write_all(line.as_bytes())
}

fn past_path(memory: &Path) -> PathBuf {
    memory.with_extension("past")
}

/// A line begins with its line break: one that a power cut has cut off does not damage the next one.
fn past_line(entry: &Entry) -> io::Result<String> {
    Ok(format!("\n{}", serde_json::to_string(entry)?))
}

fn load_past(memory: &Path) -> io::Result<Vec<Entry>> {
    let path = past_path(memory);
    let text = match fs::read(&path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let entry = |line: &str| {
        let read = serde_json::from_str(line);
        read.inspect_err(|error| {
            tracing::warn!(file = %path.display(), %error, "a dismissed run cannot be read and is passed over");
        })
        .ok()
    };
    let mut past: Vec<Entry> = text.lines().filter(|line| !line.is_empty()).filter_map(entry).collect();
    if past.len() > 2 * PAST_LIMIT {
        past.drain(..past.len() - PAST_LIMIT);
        let lines = past.iter().map(past_line).collect::<io::Result<String>>()?;
        durable::write_file(&path, lines.as_bytes(), 0o600)?;
    }
    past.drain(..past.len().saturating_sub(PAST_LIMIT));
    Ok(past)
}

#[cfg(test)]
mod tests {
    use reloop_protocol::id::{Attempt, JobId, Run};

    use super::super::run::tests::{ended_run, run};
    use super::*;

    fn key(number: u8) -> RunKey {
        RunKey { job: JobId([number; 16]), attempt: Attempt(1), run: Run(1) }
    }

    #[test]
    fn a_long_run_is_remembered_whatever_came_and_went_meanwhile() {
        let mut memory = Memory::default();
        memory.add(key(0), Trace::Begun(ended_run()));
        memory.add(key(1), Trace::Begun(run()));
        for number in 2..=u8::MAX {
            memory.add(key(number), Trace::Void);
        }
        assert_eq!(memory.runs.len(), MEMORY_LIMIT);
        assert!(memory.trace(key(0)).is_none());
        assert_eq!(memory.begun(key(1)), Some(&mut run()));
        assert!(memory.trace(key(u8::MAX)).is_some());
        assert!(memory.dismiss(key(1)).is_none(), "it has not ended");
    }

    #[test]
    fn what_was_dismissed_is_remembered_beside_what_was_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bake.json");
        let mut memory = Memory::default();
        for number in 0..3 {
            memory.add(key(number), Trace::Begun(ended_run()));
        }
        save(&path, &memory).unwrap();
        for number in 0..2 {
            note_past(&path, memory.dismiss(key(number)).unwrap()).unwrap();
        }
        assert_eq!(memory.runs.len(), 1);
        // The power is cut in the middle of a line, before the memory is written again.
        let mut file = OpenOptions::new().append(true).open(past_path(&path)).unwrap();
        file.write_all(b"\n{\"key\":\"jo").unwrap();
        let mut again = load(&path).unwrap();
        assert_eq!((again.runs.len(), again.past.len()), (1, 2));
        note_past(&path, again.dismiss(key(2)).unwrap()).unwrap();
        let mut again = load(&path).unwrap();
        assert_eq!((again.runs.len(), again.past.len()), (0, 3));
        for number in 0..3 {
            assert_eq!(again.begun(key(number)), Some(&mut ended_run()));
        }

        for _ in 0..2 * PAST_LIMIT {
            note_past(&path, again.past.last().unwrap()).unwrap();
        }
        assert_eq!(load(&path).unwrap().past.len(), PAST_LIMIT);
        assert_eq!(fs::read_to_string(past_path(&path)).unwrap().trim().lines().count(), PAST_LIMIT);
    }
}
