//! The output of the demo: on a terminal a board that is redrawn in place with the story below it, otherwise plain
//! lines, one per event.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

/// The board's columns need this much; a narrower terminal gets plain lines.
const MIN_COLUMNS: usize = 76;
const MIN_ROWS: usize = 20;
/// Longer lines are hard to read.
const MAX_COLUMNS: usize = 118;
/// Columns of `  12.3  » `, which begins a line of the story.
const MARGIN: usize = 12;
const NAME: usize = 9;
const LINK: usize = 16;
const JOB: usize = 9;
const PERCENT: usize = 6;
const MASTER: usize = 24;

/// The kind of a line of the story.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Voice {
    Does,
    Breaks,
    /// An observation.
    Sees,
    /// Continues the line before.
    Detail,
    Good,
    Bad,
}

impl Voice {
    fn mark(self) -> (&'static str, Style) {
        match self {
            Self::Does => ("»", Style::Bold),
            Self::Breaks => ("✗", Style::Yellow),
            Self::Sees => ("·", Style::Plain),
            Self::Detail => ("  ↳", Style::Dim),
            Self::Good => ("✓", Style::Green),
            Self::Bad => ("✗", Style::Red),
        }
    }
}

/// The style of a piece of text, if colours are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    Plain,
    Dim,
    Bold,
    Green,
    Yellow,
    Red,
}

impl Style {
    fn code(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Dim => "2",
            Self::Bold => "1",
            Self::Green => "32",
            Self::Yellow => "33",
            Self::Red => "31",
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) slave: String,
    pub(super) link: (String, Style),
    /// As the slave reports it.
    pub(super) machine: Machine,
    /// As the master shows it, without its age.
    pub(super) master: String,
    pub(super) age: Option<Duration>,
}

#[derive(Clone, Debug)]
pub(super) enum Machine {
    /// A job and its progress, from 0 to 1.
    Works(String, f64),
    Says(String),
}

#[derive(Clone, Debug, Default)]
pub(super) struct Board {
    pub(super) title: String,
    pub(super) rows: Vec<Row>,
    /// The master's jobs: a state, and the jobs in it.
    pub(super) orders: Vec<(&'static str, Vec<String>)>,
}

struct Entry {
    at: Duration,
    voice: Voice,
    text: String,
}

pub(super) struct Screen {
    started: Instant,
    live: bool,
    colours: bool,
    size: (usize, usize),
    caption: String,
    board: Board,
    story: Vec<Entry>,
    /// Lines of the frame that is on the terminal now.
    drawn: usize,
    /// The last plain line of each slave, without progress.
    said: BTreeMap<String, String>,
}

impl Screen {
    pub(super) fn new() -> Self {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let terminal = io::stdout().is_terminal() && set("TERM").is_some_and(|term| term != "dumb");
        let size = size();
        Self {
            started: Instant::now(),
            live: terminal && size.0 >= MIN_COLUMNS && size.1 >= MIN_ROWS,
            colours: terminal && set("NO_COLOR").is_none(),
            size,
            caption: String::new(),
            board: Board::default(),
            story: Vec::new(),
            drawn: 0,
            said: BTreeMap::new(),
        }
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Sets the caption above the board.
    pub(super) fn caption(&mut self, text: &str) {
        text.clone_into(&mut self.caption);
    }

    pub(super) fn say(&mut self, voice: Voice, text: impl Into<String>) {
        let entry = Entry { at: self.elapsed(), voice, text: text.into() };
        if self.live {
            self.story.push(entry);
            self.draw();
        } else {
            self.print(&self.entry(&entry, usize::MAX).join("\n"));
            print("\n");
        }
    }

    pub(super) fn show(&mut self, board: Board) {
        self.board = board;
        if self.live {
            self.draw();
            return;
        }
        for row in self.board.rows.clone() {
            let (machine, gist) = match &row.machine {
                Machine::Works(job, share) => (format!("{job} {}", percent(*share)), job.clone()),
                Machine::Says(text) => {
                    (text.clone(), text.trim_end_matches(|c: char| !c.is_alphabetic()).to_owned())
                }
            };
            let letters = |text: &str| text.chars().filter(|c| !c.is_ascii_digit()).collect::<String>();
            let gist = letters(&format!("{}|{gist}|{}", row.link.0, row.master));
            if self.said.get(&row.slave) != Some(&gist) {
                let line = format!(
                    "{:>6.1}  | {:NAME$} {:LINK$} at the machine: {machine}; the master believes: {}",
                    self.elapsed().as_secs_f64(),
                    row.slave,
                    row.link.0,
                    believed(&row),
                );
                self.said.insert(row.slave.clone(), gist);
                print(&format!("{line}\n"));
            }
        }
    }

    /// Ends the story: restores the terminal, and leaves the story on it.
    pub(super) fn finish(&mut self) {
        if !self.live {
            return;
        }
        self.live = false;
        let mut lines = self.head();
        lines.extend(self.story.iter().flat_map(|entry| self.entry(entry, self.columns())));
        let mut out = erase(self.drawn);
        for line in lines {
            push_line(&mut out, &line);
        }
        out.push_str("\x1b[J");
        out.push_str(LEAVE);
        print(&out);
    }

    /// Prints lines after the story.
    pub(super) fn print(&self, text: &str) {
        print(text);
    }

    /// The text in this style, if colours are used.
    pub(super) fn paint(&self, style: Style, text: &str) -> String {
        if !self.colours || style == Style::Plain || text.trim().is_empty() {
            return text.to_owned();
        }
        format!("\x1b[{}m{text}\x1b[0m", style.code())
    }

    fn columns(&self) -> usize {
        self.size.0.min(MAX_COLUMNS)
    }

    fn draw(&mut self) {
        let now = size();
        let mut out = String::from(BEGIN);
        if now == self.size {
            out.push_str(&erase(self.drawn));
        } else {
            // The terminal has moved the frame's lines when its size changed.
            self.size = now;
            out.push_str("\x1b[2J\x1b[H");
        }
        let mut lines = self.head();
        let mut story: Vec<String> =
            self.story.iter().flat_map(|entry| self.entry(entry, self.columns())).collect();
        // The cursor is below the last line.
        let room = self.size.1.saturating_sub(lines.len() + 1);
        lines.extend(story.split_off(story.len().saturating_sub(room)));
        self.drawn = lines.len();
        for line in lines {
            push_line(&mut out, &line);
        }
        out.push_str(END);
        print(&out);
    }

    fn head(&self) -> Vec<String> {
        let columns = self.columns();
        let clock = format!("{:.1} s", self.elapsed().as_secs_f64());
        let title = fit(&self.board.title, columns - 4 - clock.len());
        let bar = columns.saturating_sub(2 + NAME + LINK + JOB + PERCENT + MASTER + 2).clamp(6, 40);
        let machine = JOB + bar + PERCENT;
        let heads = format!(
            "  {}{}{}  {}",
            fit("SLAVE", NAME),
            fit("LINK", LINK),
            fit("AT THE MACHINE", machine),
            "THE MASTER BELIEVES"
        );
        let mut lines = vec![
            String::new(),
            format!("  {}  {}", self.paint(Style::Bold, &title), self.paint(Style::Dim, &clock)),
            format!("  {}", fit(&self.caption, columns - 2).trim_end()),
            String::new(),
            self.paint(Style::Dim, &heads),
        ];
        for row in &self.board.rows {
            let mut line = format!("  {}", self.paint(Style::Bold, &fit(&row.slave, NAME)));
            line.push_str(&self.paint(row.link.1, &fit(&row.link.0, LINK)));
            match &row.machine {
                Machine::Works(job, share) => {
                    let (done, left) = gauge(*share, bar);
                    write!(
                        line,
                        "{}{}{}{:>PERCENT$}",
                        fit(job, JOB),
                        self.paint(Style::Green, &done),
                        self.paint(Style::Dim, &left),
                        percent(*share)
                    )
                    .expect("a string takes everything");
                }
                Machine::Says(text) => line.push_str(&self.paint(Style::Dim, &fit(text, machine))),
            }
            let style = if is_old(row.age) { Style::Yellow } else { Style::Plain };
            let room = columns.saturating_sub(2 + NAME + LINK + machine + 2);
            line.push_str("  ");
            line.push_str(&self.paint(style, fit(&believed(row), room).trim_end()));
            lines.push(line);
        }
        let orders: Vec<String> = self
            .board
            .orders
            .iter()
            .filter(|(_, jobs)| !jobs.is_empty())
            .map(|(word, jobs)| format!("{word}: {}", jobs.join(", ")))
            .collect();
        lines.push(String::new());
        let orders = fit(&orders.join("   "), columns - 2 - NAME);
        lines.push(format!("  {}{}", self.paint(Style::Dim, &fit("orders", NAME)), orders.trim_end()));
        lines.push(self.paint(Style::Dim, &format!("  {}", "─".repeat(columns - 2))));
        lines
    }

    fn entry(&self, entry: &Entry, columns: usize) -> Vec<String> {
        let (mark, style) = entry.voice.mark();
        let style = match entry.voice {
            Voice::Does | Voice::Sees | Voice::Good => Style::Plain,
            Voice::Detail | Voice::Breaks | Voice::Bad => style,
        };
        wrap(&entry.text, columns.saturating_sub(MARGIN))
            .iter()
            .enumerate()
            .map(|(at, text)| match at {
                0 => format!(
                    "{}  {} {}",
                    self.paint(Style::Dim, &format!("{:>6.1}", entry.at.as_secs_f64())),
                    self.paint(entry.voice.mark().1, mark),
                    self.paint(style, text)
                ),
                _ => format!("{}{}", " ".repeat(MARGIN), self.paint(style, text)),
            })
            .collect()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.finish();
    }
}

/// Begins a synchronized update, hides the cursor and turns line wrapping off.
const BEGIN: &str = "\x1b[?2026h\x1b[?25l\x1b[?7l";
const END: &str = "\x1b[J\x1b[?2026l";
const LEAVE: &str = "\x1b[?7h\x1b[?25h";

fn erase(lines: usize) -> String {
    match lines {
        0 => "\r".to_owned(),
        lines => format!("\r\x1b[{lines}A"),
    }
}

fn push_line(frame: &mut String, line: &str) {
    // Erased before it is written: after a full line the cursor is still on the last character.
    frame.push_str("\x1b[2K");
    frame.push_str(line);
    frame.push('\n');
}

fn print(text: &str) {
    let mut out = io::stdout().lock();
    // Fails if the reader has closed the pipe. The story goes on until its exit status is known.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

fn size() -> (usize, usize) {
    match rustix::termios::tcgetwinsize(io::stdout()) {
        Ok(size) => (usize::from(size.ws_col), usize::from(size.ws_row)),
        Err(_) => (0, 0),
    }
}

fn is_old(age: Option<Duration>) -> bool {
    // The heartbeat of the demo's links is a second.
    age.is_some_and(|age| age >= Duration::from_secs(2))
}

fn believed(row: &Row) -> String {
    match row.age {
        Some(age) if is_old(row.age) => format!("{}, {} s old", row.master, age.as_secs()),
        Some(_) | None => row.master.clone(),
    }
}

fn percent(share: f64) -> String {
    format!("{:.0} %", (share * 100.0).floor())
}

/// The full and the empty part of a bar.
fn gauge(share: f64, width: usize) -> (String, String) {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is clamped to the bar")]
    let done = (share.clamp(0.0, 1.0) * width as f64).round() as usize;
    ("━".repeat(done), "─".repeat(width - done))
}

/// Pads or cuts to exactly this many columns; all characters that are shown take one column.
fn fit(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return format!("{text:width$}");
    }
    text.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let last = lines.last_mut().expect("there is always a line");
        if last.is_empty() {
            last.push_str(word);
        } else if last.chars().count() + 1 + word.chars().count() <= width {
            last.push(' ');
            last.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_is_cut_ends_with_an_ellipsis() {
        assert_eq!(fit("oven", 6), "oven  ");
        assert_eq!(fit("oven-12", 6), "oven-…");
    }

    #[test]
    fn lines_break_between_words() {
        assert_eq!(wrap("the cable is pulled", 9), ["the cable", "is pulled"]);
        assert_eq!(wrap("", 9), [""]);
    }

    #[test]
    fn a_bar_is_as_wide_as_its_column() {
        for share in [-1.0, 0.0, 0.33, 1.0, 2.0] {
            let (done, left) = gauge(share, 10);
            assert_eq!(done.chars().count() + left.chars().count(), 10);
        }
    }
}
