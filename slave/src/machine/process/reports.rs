//! The reports that a program prints: lines of the form `::reloop KEY=VALUE`, where the key is `progress`, `phase` or `note`.
//!
//! Only the newest of each counts. If a program prints faster than its output is read, parts of the output are skipped.

use std::fs::File;
use std::io::{self, ErrorKind, Read as _, Seek as _, SeekFrom};
use std::path::Path;

use reloop_protocol::slave::Fact;

use crate::machine::types::{TEXT_LIMIT, clip, fraction};

/// The longest line that is looked at for a report; the rest of it is passed over.
const LINE_LIMIT: usize = 4096;
/// If more output than this is unread, all but its end is skipped.
pub(super) const BACKLOG_LIMIT: u64 = 1 << 20;
/// How much of the end of the output is searched for the newest report, after a skip and when a run is probed.
const LOOK_BACK: u64 = 1 << 16;
/// Phases are words for a column of a table.
const PHASE_LIMIT: usize = 64;

/// The newest share of the way that the program has reported, in thousandths.
pub(super) fn newest_progress(output: &Path) -> io::Result<Option<u16>> {
    let mut tail = Tail::default();
    tail.read(output, LOOK_BACK)?;
    Ok(tail.news.permille)
}

/// The reports that were not passed on yet.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct News {
    permille: Option<u16>,
    phase: Option<String>,
    note: Option<String>,
}

impl News {
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    pub(super) fn take(&mut self) -> Option<Fact> {
        if self.is_empty() {
            return None;
        }
        let Self { permille, phase, note } = std::mem::take(self);
        let note = match (phase, note) {
            (Some(phase), Some(note)) => Some(format!("{phase}: {note}")),
            (phase, note) => phase.or(note),
        };
        Some(Fact::Progressed { permille, note })
    }

    /// Takes in a line. One that is no report, or a malformed one, is only output.
    fn hear(&mut self, line: &[u8]) {
        let Some((key, value)) = std::str::from_utf8(line)
            .ok()
            .and_then(|line| line.trim_end().strip_prefix("::reloop "))
            .and_then(|report| report.trim_start().split_once('='))
        else {
            return;
        };
        match key {
            "progress" => self.permille = permille(value).or(self.permille),
            "phase" => {
                let word = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.');
                if !value.is_empty() && value.len() <= PHASE_LIMIT && value.chars().all(word) {
                    self.phase = Some(value.to_owned());
                }
            }
            "note" => {
                let plain: String = value.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
                self.note = Some(clip(&plain, TEXT_LIMIT));
            }
            _ => {}
        }
    }
}

/// A share of the way, written as `0.42` or `42%`, in thousandths.
fn permille(text: &str) -> Option<u16> {
    // A fraction is at most 1.
    Some((fraction(text)? * 1000.0).round() as u16)
}

/// Reads a file that grows, line by line.
#[derive(Debug, Default)]
pub(super) struct Tail {
    offset: u64,
    line: Vec<u8>,
    /// Inside the rest of a line that was cut, or of one whose beginning was skipped.
    deaf: bool,
    pub(super) news: News,
}

impl Tail {
    /// Leaves out what was printed before this offset.
    pub(super) fn from(offset: u64) -> Self {
        Self { offset, ..Self::default() }
    }

    /// Reads what is new since the last time, but only the end of it if there is more than `backlog`.
    pub(super) fn read(&mut self, path: &Path, backlog: u64) -> io::Result<()> {
        let mut file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        let length = file.metadata()?.len();
        if length < self.offset {
            // The program has truncated its own output.
            *self = Self { news: std::mem::take(&mut self.news), ..Self::default() };
        }
        if length - self.offset > backlog {
            self.offset = length - LOOK_BACK.min(backlog);
            self.line.clear();
            self.deaf = true;
        }
        file.seek(SeekFrom::Start(self.offset))?;
        let mut rest = file.take(length - self.offset);
        let mut buffer = [0; 16 * 1024];
        loop {
            let count = rest.read(&mut buffer)?;
            if count == 0 {
                return Ok(());
            }
            self.offset += count as u64;
            self.feed(&buffer[..count]);
        }
    }

    fn feed(&mut self, bytes: &[u8]) {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let whole = part.last() == Some(&b'\n');
            if !self.deaf {
                let room = LINE_LIMIT - self.line.len();
                self.line.extend_from_slice(&part[..part.len().min(room)]);
                if whole || self.line.len() == LINE_LIMIT {
                    self.news.hear(&self.line);
                    self.line.clear();
                    self.deaf = !whole;
                }
            } else if whole {
                self.deaf = false;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn heard(chunks: &[&[u8]]) -> News {
        let mut tail = Tail::default();
        for chunk in chunks {
            tail.feed(chunk);
        }
        tail.news
    }

    #[test]
    fn reports_are_heard_between_other_lines_and_across_reads() {
        let mut news = heard(&[
            b"hello\n::reloop prog",
            b"ress=0.42\n::reloop phase=cut\r\n::reloop note=two  words \n",
        ]);
        assert_eq!(
            news,
            News { permille: Some(420), phase: Some("cut".into()), note: Some("two  words".into()) }
        );
        let note = Some("cut: two  words".to_owned());
        assert_eq!(news.take(), Some(Fact::Progressed { permille: Some(420), note }));
        assert_eq!(news.take(), None);
        assert_eq!(heard(&[b"::reloop progress=7%\n"]).permille, Some(70));
        assert_eq!(heard(&[b"::reloop progress=10%\n::reloop progress=100%\n"]).permille, Some(1000));
    }

    #[test]
    fn malformed_reports_are_only_output() {
        for line in [
            "::reloop progress=42",
            "::reloop progress=-1%",
            "::reloop progress=NaN",
            "::reloop progress=0.5 phase=cut",
            "::reloop phase=two words",
            "::reloop phase=",
            "::reloop",
            "::reloop progress",
            "::reloop color=red",
            " ::reloop progress=0.5",
            "::reloop progress=0.5\0",
        ] {
            assert!(heard(&[line.as_bytes(), b"\n"]).is_empty(), "{line:?} was heard");
        }
        assert!(heard(&[b"::reloop note=\xff\n"]).is_empty());
        assert!(heard(&[b"::reloop progress=0.5"]).is_empty(), "the line is not over yet");
    }

    #[test]
    fn a_line_without_end_is_cut_and_the_next_one_heard() {
        let mut long = b"::reloop note=".to_vec();
        long.resize(3 * LINE_LIMIT, b'x');
        let news = heard(&[&long, b"::reloop progress=0.1\n", b"::reloop progress=0.2\n"]);
        assert_eq!(news.note.map(|note| note.len()), Some(TEXT_LIMIT));
        assert_eq!(news.permille, Some(200));
    }

    #[test]
    fn of_a_flood_only_the_end_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("output");
        let mut text = b"::reloop phase=early\n".to_vec();
        text.resize(usize::try_from(BACKLOG_LIMIT).unwrap() + 1, b'\n');
        text.extend_from_slice(b"::reloop progress=0.9\n");
        fs::write(&path, &text).unwrap();
        let mut tail = Tail::default();
        tail.read(&path, BACKLOG_LIMIT).unwrap();
        assert_eq!(tail.news, News { permille: Some(900), ..News::default() });
        assert_eq!(tail.offset, text.len() as u64);

        fs::write(&path, b"::reloop progress=0.1\n").unwrap();
        tail.read(&path, BACKLOG_LIMIT).unwrap();
        assert_eq!(tail.news.permille, Some(100), "the program truncated its output and began anew");
    }
}
